"""Compiling for a TPU that is not here: messages, and the real compiler."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from flan_jax.errors import UserError
from flan_jax.plan.compiler import (
    CompileError,
    Job,
    child_environment,
    compile_program,
    largest_buffers,
    memory_exceeded,
)
from flan_jax.plan.memory import memory_of, peak_buffers
from flan_jax.plan.step_report import StepReport, read_step
from flan_jax.plan.topologies import CHIPS, GIB, parse_topology

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
V4 = parse_topology("v4-8")


def job(function: str, **changes) -> Job:
    here = str(Path(__file__).parent)
    values = {"arguments": {}, "topology": V4, "python_path": [here], **changes}
    return Job(builder=f"plan_programs:{function}", **values)


def test_messages_about_memory() -> None:
    early = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO"
        " temporaries (125.12G) exceeds available HBM (30.75G)."
    )
    assert memory_exceeded(early) == (125.12 * GIB, 30.75 * GIB)
    late = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 40.1G of 30.75G hbm."
    assert memory_exceeded(late) == (40.1 * GIB, 30.75 * GIB)
    on_chip = "RESOURCE_EXHAUSTED: memory space vmem. Used 16.36M of 16.00M vmem."
    assert memory_exceeded(on_chip) is None
    assert memory_exceeded("INTERNAL: something else") is None


def test_listed_buffers() -> None:
    message = """
  Largest program allocations in hbm:

  1. Size: 2.50G
     Operator: op_name="jit(f)/dot_general"
     Shape: bf16[8,4]{1,0}
     ==========================

  2. Size: 4.0K
     XLA label: copy.1 = copy(x)
     Allocation type: HLO temp
"""
    large, small = largest_buffers(message)
    assert (large.num_bytes, large.name) == (int(2.5 * GIB), "bf16[8,4]{1,0} jit(f)/dot_general")
    assert (small.num_bytes, small.name) == (4096, "copy.1 = copy(x)")


def test_parts_of_memory() -> None:
    memory = memory_of(
        {"argument": 8 * GIB, "output": 8 * GIB, "alias": 7 * GIB, "temp": 6 * GIB,
         "generated_code": GIB}
    )  # fmt: skip
    assert memory.total == 16 * GIB
    assert memory.to_dict()["total_gib"] == 16
    assert memory.fits(CHIPS["v4"])
    assert not memory.fits(CHIPS["v5e"])


def test_buffers_at_the_peak(tmp_path: Path) -> None:
    (tmp_path / "m.after-live-range.txt").write_text(
        "HloLiveRange\n    a{}:0-8\n  Live ranges at 7 (peak):\n"
        "    a{}: 100 bytes (cumulative: 100 bytes)\n"
        "    b.1{0}: 300 bytes (cumulative: 400 bytes)\n"
    )
    (tmp_path / "m.after.txt").write_text(
        '  %b.1 = (bf16[3,5]{1,0}, u32[]) fusion(%a), metadata={op_name="jit(f)/mlp/dot"}\n'
    )
    found = peak_buffers(tmp_path)
    assert [(b.num_bytes, b.name) for b in found] == [(300, "bf16[3,5] jit(f)/mlp/dot"), (100, "a")]
    assert peak_buffers(tmp_path / "nothing") == ()


def test_the_environment_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_of_the_caller=1")
    environment = child_environment("--xla_some=1")
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert "XLA_FLAGS" not in environment
    assert environment["LIBTPU_INIT_ARGS"] == "--xla_some=1"


def test_without_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"flan_jax\[plan\]"):
        compile_program(job("gathered_layers"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> StepReport:
    folder = tmp_path_factory.mktemp("compiled")
    arguments = {"rows": 4096, "width": 1024, "layers": 5}
    found = read_step(job("gathered_layers", arguments=arguments), folder)
    assert (folder / "program.hlo").stat().st_size > 0
    return found


@pytest.mark.slow
@needs_libtpu
def test_a_step_that_fits(report: StepReport) -> None:
    assert report.fits
    assert report.memory is not None and report.schedule is not None
    # x in, the result out, a quarter of the stack; bfloat16, in place of nothing.
    assert report.memory.arguments == (1024 * 1024 + 5 * 256 * 1024) * 2
    assert report.memory.outputs == 1024 * 1024 * 2
    assert report.model_flops == 5 * 2 * 4096 * 1024 * 1024
    assert report.largest[0].num_bytes == 5 * 256 * 1024 * 2
    assert report.to_dict()["layers"] == 5


@pytest.mark.slow
@needs_libtpu
def test_its_times(report: StepReport) -> None:
    schedule = report.schedule
    assert schedule is not None and schedule.notes == ()
    products = [work for work in schedule.work if work.category == "matmul"]
    assert sum(work.count for work in products) == 5
    gathers = [c for c in schedule.collectives if c.kind == "all-gather"]
    assert sum(c.count * c.payload for c in gathers) == 5 * 1024 * 1024 * 2
    assert {c.group_size for c in gathers} == {4}
    # The products take at least as long as their FLOPs at the peak, and no more than twice that.
    at_peak = report.model_flops / V4.peak_flops * V4.chip.clock_hz
    assert at_peak < sum(work.total_cycles for work in products) < 2 * at_peak
    counted = report.bundles
    assert counted is not None and counted.compute_s <= schedule.compute_s
    ours = [work.total_cycles for work in counted.work if work.category == "matmul"]
    assert 0.999 * at_peak < sum(ours) < 2 * at_peak
    (kernel,) = [work for work in schedule.work if work.category == "kernel"]
    assert kernel.hbm_bytes <= 2 * 1024 * 1024 * 2
    assert report.mfu(schedule.serial_s) < report.mfu(schedule.compute_s) < 1


@pytest.mark.slow
@needs_libtpu
def test_a_step_that_does_not_fit() -> None:
    arguments = {"rows": 8 * 10**7, "width": 512, "layers": 2}
    found = read_step(job("gathered_layers", arguments=arguments))
    assert not found.fits
    assert found.needed_bytes > 30.75 * GIB
    assert found.model_flops == 2 * 2 * 8 * 10**7 * 512 * 512
    assert "bf16[20000000,512]" in found.largest[0].name
    assert found.to_dict()["fits"] is False


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        ("misconfigured", {}, "BATCH_SIZE 3 cannot be split"),
        ("killed", {}, "ended with signal 6"),
        ("nothing_of_this_name", {}, "has no attribute 'nothing_of_this_name'"),
    ],
)
def test_errors(function: str, options: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        compile_program(job(function, compiler_options=options))


@pytest.mark.slow
@needs_libtpu
def test_unknown_options_and_time_out() -> None:
    arguments = {"rows": 512, "width": 128, "layers": 2}
    with pytest.raises(CompileError, match="knows no option 'xla_bogus'"):
        compile_program(
            job("gathered_layers", arguments=arguments, compiler_options={"xla_bogus": 1})
        )
    with pytest.raises(CompileError, match="given up after 0 s"):
        compile_program(job("gathered_layers", arguments=arguments, timeout_s=0.1))
