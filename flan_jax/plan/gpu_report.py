"""A step on GPUs that are not here: compiled for simulated CPU devices, timed by a roofline.

`python -m flan_jax.plan.gpu_report JOB` is the process that compiles; `read_gpu_step` starts it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flan_jax.errors import UserError
from flan_jax.plan import hlo
from flan_jax.plan.compiler import CompileError, child_environment
from flan_jax.plan.gpu import GpuCluster, roofline
from flan_jax.plan.loops import trip_count
from flan_jax.plan.memory import Memory, memory_of
from flan_jax.plan.replica_groups import parse_groups
from flan_jax.plan.topologies import GIB

# XLA's passes stay as they are; only machine code, which nobody runs, is made with less effort.
_XLA_FLAGS = "--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
_RECEIVED = {
    "all-gather": lambda g: (g - 1) / g,
    "reduce-scatter": lambda g: (g - 1) / g,
    "all-reduce": lambda g: 2 * (g - 1) / g,
    "all-to-all": lambda g: (g - 1) / g,
    "collective-permute": lambda g: 1.0,
}
_MEMORY = ("argument", "output", "alias", "temp", "generated_code")
_NOTES = (
    "memory is that of a program for CPUs, whose fusions and widened bfloat16 take more",
    "the shorter time is peak arithmetic or links, whichever takes longer; the longer adds links "
    "to the memory traffic of a program that fuses less than one for GPUs",
)


def read_gpu_step(
    builder: str, arguments: Mapping[str, Any], cluster: GpuCluster, timeout_s: float
) -> dict[str, Any]:
    """The report of a step, with the keys that `StepReport.to_dict` has.

    Args:
      builder: "package.module:function", see `traced_step.TracedStep`.
      arguments: its keyword arguments, for JSON.
      cluster: the GPUs.
      timeout_s: seconds after which the compilation is given up.

    Raises:
      UserError: the builder found the configuration at fault.
      CompileError: it cannot be compiled, or not in time.
    """
    with tempfile.TemporaryDirectory(prefix="flan_jax_plan_") as folder:
        job = Path(folder) / "job.json"
        described = {"builder": builder, "arguments": dict(arguments), "devices": cluster.devices}
        job.write_text(json.dumps(described), encoding="utf-8")
        facts = _compiled(job, cluster, timeout_s)
        text = (job.parent / "program.hlo").read_text(encoding="utf-8")
    return report_of(facts, hlo.parse(text), cluster)


def _compiled(job: Path, cluster: GpuCluster, timeout_s: float) -> dict[str, Any]:
    environment = child_environment()
    environment["XLA_FLAGS"] = _XLA_FLAGS.format(devices=cluster.devices)
    command = [sys.executable, "-m", "flan_jax.plan.gpu_report", str(job)]
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as error:
        message = f"compiling for {cluster.name} was given up after {timeout_s:.0f} s"
        raise CompileError(message) from error
    result = job.parent / "result.json"
    if not result.exists():
        last = "\n".join(ended.stderr.strip().splitlines()[-12:])
        raise CompileError(f"compiling for {cluster.name} ended with {ended.returncode}:\n{last}")
    facts = json.loads(result.read_text(encoding="utf-8"))
    if "user_error" in facts:
        raise UserError(facts["user_error"])
    return facts


def report_of(facts: Mapping[str, Any], module: hlo.Module, cluster: GpuCluster) -> dict[str, Any]:
    """The report of a compiled program and what its process said of it."""
    memory: Memory = memory_of(facts["memory"])
    needed = (memory.total - memory.code) / GIB  # machine code stays on the host
    collectives = list(_collectives(module, cluster))
    line = roofline(
        cluster,
        facts["step_flops"] / cluster.devices,
        _bytes_moved(module),
        [(c["received"] * c["count"], c["group_size"]) for c in collectives],
    )
    serial = line.compute_s + line.communication_s
    overlapped = max(line.arithmetic_s, line.communication_s)

    def mfu(seconds: float) -> float:
        return facts["model_flops"] / (cluster.peak_flops * seconds) if seconds else 0.0

    return {
        "fits": needed <= cluster.hbm_gib,
        "rough": True,
        "hbm_gib_per_chip": needed,
        "memory": {**memory.to_dict(), "code_gib": 0.0, "total_gib": needed},
        "largest_buffers": [],
        "model_flops": facts["model_flops"],
        **facts["info"],
        "step_time_s": {"serial": serial, "overlapped": overlapped},
        "mfu_serial": mfu(serial),
        "mfu_overlapped": mfu(overlapped),
        "compute_s": line.compute_s,
        "communication_s": line.communication_s,
        "hbm_s": line.memory_s,
        "seconds_by_category": {"arithmetic": line.arithmetic_s, "memory": line.memory_s},
        "collectives": collectives,
        "trace_s": facts["trace_s"],
        "compile_s": facts["compile_s"],
        "peak_rss_gib": facts["peak_rss_bytes"] / GIB,
        "notes": list(_NOTES),
    }


def _instructions(
    module: hlo.Module, computation: hlo.Computation, runs: int = 1
) -> Iterator[tuple[hlo.Instruction, hlo.Computation, int]]:
    """What runs, where it stands, and how often; the insides of fusions are left out."""
    for instruction in computation.instructions:
        inside = {"while": "body", "call": "to_apply"}.get(instruction.opcode)
        name = instruction.called(inside) if inside else None
        if name not in module.computations:
            yield instruction, computation, runs
            continue
        trips = 1
        if instruction.opcode == "while":
            trips = trip_count(module, instruction, computation) or 1
        yield from _instructions(module, module.computations[name], runs * trips)


def _collectives(module: hlo.Module, cluster: GpuCluster) -> Iterator[dict[str, Any]]:
    for instruction, computation, runs in _instructions(module, module.entry):
        kind = instruction.opcode.removesuffix("-start")
        if kind not in _RECEIVED:
            continue
        groups = parse_groups(instruction.attribute("replica_groups"), cluster.devices)
        size = 2 if kind == "collective-permute" else len(groups[0])
        whole = _size(instruction)
        if kind == "reduce-scatter":
            whole = sum(_size(computation.by_name[name]) for name in instruction.operands)
        received = _RECEIVED[kind](size) * whole
        line = roofline(cluster, 0.0, 0.0, [(received, size)])
        yield {
            "kind": kind,
            "payload": whole,
            "received": received,
            "group_size": size,
            "where": "NVLink" if size <= cluster.gpu.per_machine else "network",
            "count": runs,
            "overlappable": True,
            "algorithm": "ring",
            "total_seconds": line.communication_s * runs,
        }


_NO_TRAFFIC = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call")


def _bytes_moved(module: hlo.Module) -> float:
    """Bytes read and written, each instruction apart: what no cache keeps."""
    moved = 0.0
    for instruction, computation, runs in _instructions(module, module.entry):
        if instruction.opcode in _NO_TRAFFIC:
            continue
        if instruction.opcode in ("dynamic-slice", "dynamic-update-slice", "gather"):
            moved += 2 * runs * min(_size(instruction), _smallest(instruction, computation))
            continue
        read = (computation.by_name.get(name) for name in set(instruction.operands))
        moved += runs * (_size(instruction) + sum(_size(each) for each in read if each))
    return moved


def _smallest(instruction: hlo.Instruction, computation: hlo.Computation) -> int:
    """Bytes of the slice that is read or written."""
    if instruction.opcode == "dynamic-update-slice":
        return _size(computation.by_name[instruction.operands[1]])
    return _size(instruction)


def _size(instruction: hlo.Instruction) -> int:
    return sum(buffer.num_bytes for buffer in instruction.buffers)


# --- The process that compiles -------------------------------------------------------------------


def compile_job(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Traces and compiles for simulated devices; writes the program, returns what it is like."""
    import importlib

    import jax

    from flan_jax.plan.model_flops import jaxpr_flops

    started = time.perf_counter()
    module, _, function = job["builder"].partition(":")
    build = getattr(importlib.import_module(module), function)
    traced = build(jax.devices(), **job["arguments"])
    counted = traced.step if traced.forward is None else traced.forward
    compiling = time.perf_counter()
    compiled = traced.step.lower().compile()
    stats = compiled.memory_analysis()
    (folder / "program.hlo").write_text(compiled.as_text() or "", encoding="utf-8")
    return {
        "model_flops": traced.passes * jaxpr_flops(counted.jaxpr),
        "step_flops": jaxpr_flops(traced.step.jaxpr),
        "info": dict(traced.info),
        "trace_s": compiling - started,
        "compile_s": time.perf_counter() - compiling,
        "memory": {name: getattr(stats, f"{name}_size_in_bytes") for name in _MEMORY},
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main(path: str) -> int:
    """Compiles the job in the file `path`; writes result.json beside it."""
    file = Path(path)
    try:
        facts = compile_job(json.loads(file.read_text(encoding="utf-8")), file.parent)
    except UserError as error:
        facts = {"user_error": str(error)}
    (file.parent / "result.json").write_text(json.dumps(facts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
