"""Names of GPUs, the roofline, and the reading of a program compiled for simulated devices."""

from __future__ import annotations

import pytest

from flan_jax.errors import UserError
from flan_jax.plan import hlo
from flan_jax.plan.gpu import GPUS, parse_gpus, roofline
from flan_jax.plan.gpu_report import report_of

PROGRAM = """\
HloModule jit_step

%body (s: (s32[], f32[8,1024])) -> (s32[], f32[8,1024]) {
  %s = (s32[], f32[8,1024]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[8,1024]{1,0} get-tuple-element(%s), index=1
  %sum = f32[8,1024]{1,0} all-reduce(%x), channel_id=1, replica_groups=[2,8]<=[16], to_apply=%add
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], f32[8,1024]{1,0}) tuple(%next, %sum)
}

%condition (t: (s32[], f32[8,1024])) -> pred[] {
  %t = (s32[], f32[8,1024]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%t), index=0
  %end = s32[] constant(5)
  ROOT %less = pred[] compare(%j, %end), direction=LT
}

ENTRY %main (p: f32[8,1024]) -> f32[128,1024] {
  %p = f32[8,1024]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,1024]{1,0}) tuple(%zero, %p)
  %loop = (s32[], f32[8,1024]{1,0}) while(%start), condition=%condition, body=%body
  %y = f32[8,1024]{1,0} get-tuple-element(%loop), index=1
  ROOT %all = f32[128,1024]{1,0} all-gather(%y), replica_groups=[1,16]<=[16], dimensions={0}
}
"""
FACTS = {
    "model_flops": 1e15,
    "step_flops": 1.2e15,
    "info": {"held_bytes": {"parameters": 100}},
    "memory": {
        "argument": 2**30,
        "output": 2**29,
        "alias": 2**29,
        "temp": 2**30,
        "generated_code": 7,
    },
    "trace_s": 1.0,
    "compile_s": 2.0,
    "peak_rss_bytes": 2**30,
}


def test_names():
    assert parse_gpus("H100:8").name == "h100:8"
    assert parse_gpus("a100").devices == 1
    assert parse_gpus("h200:16").peak_flops == 16 * GPUS["h200"].peak_flops
    for name, message in {
        "h10:8": "did you mean 'h100'",
        "h100:0": "number of GPUs",
        "h100:x": "number of GPUs",
        "h100:12": "whole machines",
    }.items():
        with pytest.raises(UserError, match=message):
            parse_gpus(name)


def test_the_longest_of_arithmetic_and_memory_and_the_slower_of_two_networks():
    cluster = parse_gpus("h100:16")
    line = roofline(cluster, 989e12, 3.35e12 / 2, [(450e9, 8), (50e9, 16)])
    assert line.arithmetic_s == pytest.approx(1.0)
    assert line.memory_s == pytest.approx(0.5)
    assert line.compute_s == pytest.approx(1.0)
    assert line.communication_s == pytest.approx(2.0)


def test_collectives_are_counted_as_often_as_their_loop_runs():
    cluster = parse_gpus("h100:16")
    report = report_of(FACTS, hlo.parse(PROGRAM), cluster)
    reduce, gather = report["collectives"]
    assert (reduce["kind"], reduce["count"], reduce["group_size"]) == ("all-reduce", 5, 8)
    assert reduce["payload"] == 8 * 1024 * 4
    assert reduce["total_seconds"] == pytest.approx(5 * 2 * 7 / 8 * 8 * 1024 * 4 / 450e9)
    assert (gather["kind"], gather["count"], gather["where"]) == ("all-gather", 1, "network")
    assert gather["total_seconds"] == pytest.approx(15 / 16 * 128 * 1024 * 4 / 50e9)
    assert report["communication_s"] == pytest.approx(
        reduce["total_seconds"] + gather["total_seconds"]
    )


def test_memory_is_without_machine_code_and_the_time_an_interval():
    report = report_of(FACTS, hlo.parse(PROGRAM), parse_gpus("h100:16"))
    assert report["hbm_gib_per_chip"] == pytest.approx(2.0)
    assert report["fits"]
    assert report["rough"]
    arithmetic = 1.2e15 / 16 / 989e12
    assert report["step_time_s"]["overlapped"] == pytest.approx(arithmetic)
    assert report["step_time_s"]["serial"] == pytest.approx(arithmetic + report["communication_s"])
    assert report["mfu_overlapped"] == pytest.approx(1 / 1.2)
