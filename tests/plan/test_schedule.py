"""Where the time of a compiled step goes: captured programs, and ones made up for one question."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from flan_jax.plan import hlo
from flan_jax.plan.collectives import ACHIEVABLE, DCN_SECONDS, HOP_SECONDS, Location
from flan_jax.plan.kernel_cycles import KernelCost
from flan_jax.plan.schedule import Schedule, op_prefix, read_schedule
from flan_jax.plan.topologies import DCN_BYTES_PER_S_PER_CHIP, parse_topology

SAMPLES = Path(__file__).parent / "samples"
V4 = parse_topology("v4:2x2x1")
CLOCK = V4.chip.clock_hz
DEVICES = [Location(0, (x, y, 0)) for y, x in itertools.product(range(2), range(2))]


def read(text: str, kernels: dict[str, KernelCost] | None = None) -> Schedule:
    return read_schedule(hlo.parse(text), V4, DEVICES, kernels)


def sample(name: str) -> Schedule:
    return read((SAMPLES / name).read_text(encoding="utf-8"))


def program(*lines: str, before: str = "") -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule m\n\n{before}\nENTRY %main (p: f32[8]) -> f32[8] {{\n{body}\n}}\n"


def cycles(n: int) -> str:
    return f'backend_config={{"window_config":{{"estimated_cycles":"{n}"}}}}'


def test_a_scan_over_gathered_layers() -> None:
    """Six runs of: a slice, a gather of 2 MiB over 2 x 2 chips, a copy, a product."""
    found = sample("scan.hlo")
    assert found.notes == ()
    matmul = next(work for work in found.work if work.category == "matmul")
    assert (matmul.cycles, matmul.count, matmul.source) == (13928, 6, "compiler")
    assert found.top(1) == [matmul]
    assert found.cycles_by_category()["matmul"] == 6 * 13928
    gather, reduce = found.collectives
    assert (gather.kind, gather.payload, gather.group_size, gather.count) == (
        "all-gather", 2 * 1024 * 1024, 4, 6,
    )  # fmt: skip
    assert (gather.where, gather.overlappable) == ("x2+y2", False)
    one = 0.75 * 2**21 / (2 * ACHIEVABLE * V4.chip.link_bytes_per_s) + 2 * HOP_SECONDS
    assert gather.total_seconds == pytest.approx(6 * one)
    assert (reduce.kind, reduce.payload, reduce.count) == ("all-reduce", 4096, 1)
    # Nothing overlaps, so both step times are the same.
    assert found.serial_s == pytest.approx(found.overlapped_s)
    # HBM: the slices of the parameters (on chip memory holds the rest), not the whole stack each.
    slices = next(w for w in found.work if w.name.startswith("constant_dynamic-slice"))
    assert slices.hbm_bytes == 256 * 1024 * 2


def test_an_asynchronous_gather_is_hidden_behind_the_product_that_carries_it() -> None:
    found = sample("async.hlo")
    whole, carried = found.collectives
    assert (whole.overlappable, carried.overlappable) == (False, True)
    assert whole.payload == carried.payload == 8192 * 2048 * 2
    products = [work for work in found.work if work.category == "matmul"]
    assert sorted(work.cycles for work in products) == [1107858, 1112309]
    assert found.serial_s == pytest.approx(found.compute_s + found.communication_s)
    assert found.overlapped_s == pytest.approx(found.compute_s + whole.total_seconds)


PAIR = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}
"""


def test_what_the_work_does_not_cover_is_waited_for() -> None:
    shape, cheap = "f32[1048576]{0}", 1000
    text = program(
        f"%p = {shape} parameter(0)",
        f"%start = ({shape}, {shape}) all-gather-start(%p), replica_groups={{{{0,1}}}}",
        f"%work = {shape} exponential(%p), {cycles(cheap)}",
        f"%done = {shape} all-gather-done(%start)",
        f"ROOT %last = {shape} negate(%done), {cycles(cheap)}",
    )
    found = read(text)
    gather = found.collectives[0]
    assert gather.payload == 4 * 1048576
    assert gather.seconds > cheap / CLOCK
    assert found.compute_s == pytest.approx(2 * cheap / CLOCK)
    assert found.serial_s == pytest.approx(found.compute_s + gather.seconds)
    assert found.overlapped_s == pytest.approx(gather.seconds + cheap / CLOCK)


def test_a_reduction_of_which_one_part_is_kept_is_a_reduce_scatter() -> None:
    before = (
        PAIR
        + """
%scattering (x: f32[4096]) -> f32[1024] {
  %x = f32[4096]{0} parameter(0)
  %all = f32[4096]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %zero = u32[] constant(0)
  ROOT %mine = f32[1024]{0} dynamic-slice(%all, %zero), dynamic_slice_sizes={1024}
}
"""
    )
    text = program(
        "%p = f32[4096]{0} parameter(0)",
        "ROOT %f = f32[1024]{0} fusion(%p), kind=kCustom, calls=%scattering",
        before=before,
    )
    (found,) = read(text).collectives
    assert (found.kind, found.payload) == ("reduce-scatter", 4 * 4096)


def test_what_crosses_the_network_between_slices() -> None:
    about = 'is_host_transfer=true, frontend_attributes={_xla_megascale_target="{0,1}x{0:15}",'
    about += '_xla_megascale_transfer_type="ALL_REDUCE"}'
    text = program(
        "%p = f32[1024]{0} parameter(0)",
        "%t = token[] after-all()",
        f"%send = (f32[1024]{{0}}, u32[], token[]) send(%p, %t), channel_id=1, {about}",
        f"%recv = (f32[1024]{{0}}, u32[], token[]) recv(%t), channel_id=2, {about}",
        "%sent = token[] send-done(%send), channel_id=1",
        "%got = (f32[1024]{0}, token[]) recv-done(%recv), channel_id=2",
        "ROOT %r = f32[1024]{0} get-tuple-element(%got), index=0",
    )
    found = read(text)
    (crossing,) = found.collectives
    assert (crossing.kind, crossing.payload, crossing.where) == ("all-reduce", 4096, "2 slices")
    expected = 2 * (4096 / 2 / DCN_BYTES_PER_S_PER_CHIP + DCN_SECONDS)
    assert found.overlapped_s == pytest.approx(expected)
    assert found.work == ()


def test_copies_hide_behind_work() -> None:
    shape = "f32[1048576]"
    copy = 4 * 2**20 / V4.chip.hbm_bytes_per_s
    text = program(
        f"%p = {shape}{{0}} parameter(0)",
        f"%start = ({shape}{{0:S(3)}}, {shape}{{0}}, u32[]) copy-start(%p)",
        f"%work = {shape}{{0}} exponential(%p), {{}}",
        f"ROOT %done = {shape}{{0:S(3)}} copy-done(%start)",
    )
    short = read(text.replace("{}", cycles(100), 1)).cycles_by_category()["wait for copies"]
    assert short == pytest.approx(copy * CLOCK - 100)
    assert "wait for copies" not in read(text.replace("{}", cycles(10**6), 1)).cycles_by_category()


KERNEL = program(
    "%p = bf16[1024]{0} parameter(0)",
    'ROOT %k = bf16[1024]{0} custom-call(%p), custom_call_target="tpu_custom_call", '
    'backend_config={"custom_call_config":{"body":"TUz","cost_estimate":COST}}',
)


def test_kernels_cost_what_they_state_or_what_their_bundles_are() -> None:
    text = KERNEL.replace("COST", '{"flops":"275000000000","bytes_accessed":"1000"}')
    (stated,) = read(text).work
    assert (stated.category, stated.source) == ("kernel", "roofline")
    assert stated.cycles == pytest.approx(275e9 / 275e12 * CLOCK)
    (counted,) = read(text, {"k": KernelCost(7_000_000, 1000, 0)}).work
    assert (counted.cycles, counted.source) == (7_000_000, "bundles")
    (copying,) = read(text, {"k": KernelCost(10, 10**9, 0)}).work
    assert copying.cycles == pytest.approx(10**9 / V4.chip.hbm_bytes_per_s * CLOCK)
    assert copying.source == "roofline"


def test_everything_by_its_bundles() -> None:
    """A fusion's bundles, or its copies, take the place of the compiler's estimate."""
    text = program(
        "%p = f32[1024]{0} parameter(0)",
        f"%busy = f32[1024]{{0}} exponential(%p), {cycles(1000)}",
        f"%moving = f32[1024]{{0}} negate(%busy), {cycles(1000)}",
        f"ROOT %other = f32[1024]{{0}} cosine(%moving), {cycles(1000)}",
    )
    costs = {"busy": KernelCost(700, 1, 0), "moving": KernelCost(10, 10**6, 0)}
    module = hlo.parse(text)
    estimated = read_schedule(module, V4, DEVICES, costs)
    assert [work.cycles for work in estimated.work] == [1000, 1000, 1000]
    counted = read_schedule(module, V4, DEVICES, costs, by_bundles=True)
    copying = 10**6 / V4.chip.hbm_bytes_per_s * CLOCK
    assert [work.cycles for work in counted.work] == [700, pytest.approx(copying), 1000]
    assert [work.source for work in counted.work] == ["bundles", "bundles", "compiler"]


def test_a_product_takes_as_long_as_its_flops_at_least() -> None:
    module = hlo.parse((SAMPLES / "scan.hlo").read_text(encoding="utf-8"))
    costs = {"fusion.8": KernelCost(1, 0, 0)}
    counted = read_schedule(module, V4, DEVICES, costs, by_bundles=True)
    product = next(work for work in counted.work if work.name == "fusion.8")
    assert product.cycles == pytest.approx(2 * 1024**3 / V4.chip.peak_flops * CLOCK)


def test_kernels_without_a_cost_are_named() -> None:
    found = read(KERNEL.replace("COST", "{}"))
    assert found.notes == ("kernel k could not be followed: its stated cost counts",)
    branching = read(KERNEL.replace("COST", "{}"), {"k": KernelCost(10, 10, 3)})
    assert branching.notes == ("kernel k branches on data: all is counted",)


def test_the_longest_branch_counts() -> None:
    branches = "".join(
        f"\n%{name} (q.{name}: f32[8]) -> f32[8] {{\n  %q.{name} = f32[8]{{0}} parameter(0)\n"
        f"  ROOT %r.{name} = f32[8]{{0}} negate(%q.{name}), {cycles(n)}\n}}\n"
        for name, n in (("short", 10), ("long", 500))
    )
    text = program(
        "%p = f32[8]{0} parameter(0)",
        "%i = s32[] constant(0)",
        "ROOT %c = f32[8]{0} conditional(%i, %p, %p), branch_computations={%long, %short}",
        before=branches,
    )
    found = read(text)
    assert [work.cycles for work in found.work] == [500]
    assert found.compute_s == pytest.approx(500 / CLOCK)


def test_loops_of_unknown_length_are_named() -> None:
    text = (SAMPLES / "scan.hlo").read_text(encoding="utf-8").replace("constant(6)", "constant(?)")
    found = read(text)
    assert found.notes == ("loop while.12 (jit(f)/while): runs unknown, 1 assumed",)
    assert {work.count for work in found.work} == {1}


def test_op_prefixes() -> None:
    name = "jit(step)/transpose(jvp())/while/body/closed_call/checkpoint/mlp/ni,io->no/dot_general"
    assert op_prefix(name, 3) == "jit(step)/transpose(jvp())/mlp"
    assert op_prefix("", 3) == "(compiler)"
