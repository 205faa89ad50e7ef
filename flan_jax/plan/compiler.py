"""Compiles a step for a TPU slice that is not here, in a process of its own.

libtpu (the real TPU compiler, from the package index) runs on a host without TPUs when it is told
the topology. It dies of some programs rather than raise, and holds settings for the life of a
process: hence one process a compilation. No JAX here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flan_jax.errors import UserError
from flan_jax.plan import hlo
from flan_jax.plan.kernel_cycles import KernelCost, bundle_costs
from flan_jax.plan.memory import LargeBuffer, peak_buffers
from flan_jax.plan.topologies import GIB, Topology

# Of a process that compiles for TPUs on a machine without one.
TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # the process itself computes nothing
    "TPU_SKIP_MDS_QUERY": "1",  # no cloud machine is asked about its TPUs
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several compilations at once
}
_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([BKMGT]?)"


class CompileError(UserError):
    """A step could not be compiled."""


class OutOfMemoryError(CompileError):
    """A step needs more memory than a device has.

    Attributes:
      needed_bytes, available_bytes: of a device's HBM, as the compiler says.
      largest: its largest allocations.
      partial: what was known before: model FLOPs, seconds.
    """

    def __init__(
        self,
        needed_bytes: float,
        available_bytes: float,
        largest: Sequence[LargeBuffer],
        partial: Mapping[str, Any],
    ) -> None:
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes
        self.largest = tuple(largest)
        self.partial = dict(partial)
        listed = "".join(f"\n  {b.num_bytes / GIB:7.2f} GiB  {b.name}" for b in self.largest[:10])
        super().__init__(
            f"the step needs {needed_bytes / GIB:.2f} GiB of a device's memory, which has"
            f" {available_bytes / GIB:.2f} GiB." + (f" Largest buffers:{listed}" if listed else "")
        )


@dataclass(frozen=True)
class Job:
    """One compilation.

    Attributes:
      builder: "package.module:function", which makes the program; see `traced_step.TracedStep`.
      arguments: its keyword arguments, for JSON.
      topology: the machine.
      compiler_options: XLA's and libtpu's, by name, such as
        {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1000000}.
      libtpu_init_args: flags of libtpu that are not compiler options, as LIBTPU_INIT_ARGS.
      timeout_s: seconds after which it is given up.
      python_path: folders to import the builder from, besides the usual ones.
    """

    builder: str
    arguments: Mapping[str, Any]
    topology: Topology
    compiler_options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    libtpu_init_args: str = ""
    timeout_s: float = 3600.0
    python_path: Sequence[str] = ()


@dataclass(frozen=True)
class CompiledProgram:
    """What a compilation gave.

    Attributes:
      hlo: the scheduled program, as text.
      facts: of the child: model_flops, tokens, memory (bytes by part), devices, seconds, RSS.
      costs: what fusions and kernels cost by their bundles, by instruction name.
      largest: the largest buffers when most memory is in use.
    """

    hlo: str
    facts: dict[str, Any]
    costs: dict[str, KernelCost] = field(default_factory=dict)
    largest: tuple[LargeBuffer, ...] = ()


def check_libtpu() -> None:
    """Raises UserError where the TPU compiler is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "the TPU compiler (libtpu) is not installed: pip install 'flan_jax[plan]'. It needs no"
            " TPU; --show_sharding and GPU topologies work without it."
        )


def compile_program(job: Job, folder: Path | None = None) -> CompiledProgram:
    """Compiles in a process of its own.

    Args:
      job: what to compile.
      folder: where its files are kept; None for a folder that is removed.

    Raises:
      OutOfMemoryError: the step does not fit.
      CompileError: it cannot be compiled, or not in time; the compiler died.
      UserError: libtpu is not installed, or the builder found the configuration at fault.
    """
    check_libtpu()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        return _compile_in(job, folder)
    with tempfile.TemporaryDirectory(prefix="flan_jax_plan_") as name:
        return _compile_in(job, Path(name))


def _compile_in(job: Job, folder: Path) -> CompiledProgram:
    result = folder / "result.json"
    for left_over in (result, folder / "partial.json", folder / "program.hlo"):
        left_over.unlink(missing_ok=True)
    described = {
        "builder": job.builder,
        "arguments": dict(job.arguments),
        "topology": job.topology.name,
        "compiler_options": dict(job.compiler_options),
        "python_path": list(job.python_path),
    }
    (folder / "job.json").write_text(json.dumps(described), encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="flan_jax_dumps_") as name:
        dumps = Path(name)
        ended = _run_child(job, folder / "job.json", dumps)
        if not result.exists():
            raise CompileError(_death(ended, job))
        facts = json.loads(result.read_text(encoding="utf-8"))
        largest = peak_buffers(dumps / "xla")
        if "error" in facts:
            raise _error(facts, job, largest)
        text = (folder / "program.hlo").read_text(encoding="utf-8")
        cores = 2 if job.topology.chip.megacore else 1
        costs = bundle_costs(dumps / "llo", hlo.parse(text), cores)
    return CompiledProgram(text, facts, costs, largest)


def _run_child(job: Job, path: Path, dumps: Path) -> subprocess.CompletedProcess[str]:
    environment = child_environment(job.libtpu_init_args)
    for name in ("xla", "llo"):
        (dumps / name).mkdir()
    # Buffers and their life times; instruction bundles of all that is compiled, kernels too.
    environment["XLA_FLAGS"] = f"--xla_dump_to={dumps / 'xla'} --xla_dump_hlo_as_text"
    environment["LIBTPU_INIT_ARGS"] = (
        f"--xla_jf_dump_to={dumps / 'llo'} --xla_jf_dump_llo_text=true"
        " --xla_jf_dump_llo_pass_label_regex=^final_bundles --xla_jf_emit_annotations=true"
        f" {job.libtpu_init_args}"
    )
    try:
        return subprocess.run(
            [sys.executable, "-m", "flan_jax.plan.compile_child", str(path)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=job.timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise CompileError(
            f"compiling for {job.topology.name} was given up after {job.timeout_s:.0f} s: allow"
            " more time, or scan over layers and turn the windowed einsum off"
            " (xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000)"
        ) from error


def child_environment(libtpu_init_args: str = "") -> dict[str, str]:
    """The environment in which libtpu compiles on a host without TPUs."""
    environment = {**os.environ, **TPU_ENVIRONMENT}
    environment.pop("XLA_FLAGS", None)  # simulated devices of the caller are not wanted
    environment.pop("LIBTPU_INIT_ARGS", None)
    if libtpu_init_args:
        environment["LIBTPU_INIT_ARGS"] = libtpu_init_args
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))
    return environment


def _death(ended: subprocess.CompletedProcess[str], job: Job) -> str:
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    checks = [line for line in lines if "Check failed" in line or line.startswith("F")]
    said = "\n  ".join((checks or lines)[-5:]) or "(nothing)"
    how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"status {ended.returncode}"
    return (
        f"the TPU compiler ended with {how} while compiling for {job.topology.name} with"
        f" {dict(job.compiler_options) or 'no options'}; it said:\n  {said}"
    )


def _error(
    facts: Mapping[str, Any], job: Job, largest: Sequence[LargeBuffer]
) -> CompileError | UserError:
    message = facts["error"]
    if facts.get("user_error"):
        return UserError(message)
    sizes = memory_exceeded(message)
    if sizes:
        return OutOfMemoryError(*sizes, largest or largest_buffers(message), facts)
    on_chip = re.search(rf"memory space (\w+)\. Used ({_SIZE})\w* of ({_SIZE})", message)
    if on_chip:
        listed = largest_buffers(message)
        return CompileError(
            f"compiling for {job.topology.name}: an instruction needs {on_chip[2]} of the chip's"
            f" {on_chip[1]}, which has {on_chip[5]}: {listed[0].name if listed else '?'}."
            " If it is a Pallas kernel, its blocks must be smaller."
        )
    option = re.search(r"No such compile option: '([^']*)'", message)
    if option:
        return CompileError(f"the TPU compiler knows no option {option[1]!r}: check its spelling")
    tail = "\n".join(facts.get("traceback", "").strip().splitlines()[-12:])
    return CompileError(f"compiling for {job.topology.name} failed:\n{tail}")


def memory_exceeded(message: str) -> tuple[float, float] | None:
    """Bytes needed and available, by the compiler's message; None if it is about another thing."""
    if "RESOURCE_EXHAUSTED" not in message and "exceeds available HBM" not in message:
        return None
    used = re.search(rf"Used {_SIZE}\w* of {_SIZE}\w* (?:hbm|HBM)", message)
    if used:
        return _bytes(used[1], used[2]), _bytes(used[3], used[4])
    exceeds = re.search(rf"\({_SIZE}\w*\)? exceeds available HBM \({_SIZE}", message)
    if exceeds:
        return _bytes(exceeds[1], exceeds[2]), _bytes(exceeds[3], exceeds[4])
    return None


def _bytes(number: str, unit: str) -> float:
    return float(number) * _UNITS[unit]


def largest_buffers(message: str) -> list[LargeBuffer]:
    """The largest allocations that the compiler's message lists."""
    found = []
    for block in re.split(r"\n\s*\d+\. Size: ", message)[1:]:
        size = re.match(_SIZE, block)
        if not size:
            continue
        operator = re.search(r'op_name="([^"]*)"', block)
        shape = re.search(r"Shape: (\S+)", block)
        label = re.search(r"XLA label: (.{0,60})", block)
        name = operator[1] if operator else (label[1] if label else "?")
        found.append(
            LargeBuffer(int(_bytes(*size.groups())), f"{shape[1] if shape else ''} {name}".strip())
        )
    return found
