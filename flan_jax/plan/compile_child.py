"""The process that compiles for a TPU that is not here: `python -m flan_jax.plan.compile_child`.

Started by `flan_jax.plan.compiler`, which sets the environment; reads a job (JSON) from the file
named on its command line, writes `result.json` and `program.hlo` beside it. Only here does a plan
import JAX.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from flan_jax.errors import UserError
from flan_jax.plan.model_flops import jaxpr_flops
from flan_jax.plan.topologies import Topology, parse_topology
from flan_jax.plan.traced_step import TracedStep

_MEMORY = ("argument", "output", "alias", "temp", "generated_code")


def topology_devices(topology: Topology) -> list[Any]:
    """The devices of a topology, as JAX describes them without hardware."""
    chip, options = topology.chip, {}
    if chip.megacore:
        options["chip_config_name"] = "megacore"
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if topology.chips_per_slice == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    shape = "x".join(map(str, topology.shape))
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{chip.name}:{shape}", **options
    )
    return list(described.devices)


def compile_job(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Traces, lowers and compiles; what is known afterwards, for JSON."""
    devices = topology_devices(parse_topology(job["topology"]))
    module, _, function = job["builder"].partition(":")
    started = time.perf_counter()
    traced: TracedStep = getattr(importlib.import_module(module), function)(
        devices, **job["arguments"]
    )
    counted = traced.step if traced.forward is None else traced.forward
    flops = traced.passes * jaxpr_flops(counted.jaxpr)
    tracing_done = time.perf_counter()
    lowered = traced.step.lower(lowering_platforms=("tpu",))
    compiling = time.perf_counter()
    result = {
        "model_flops": flops,
        "tokens": traced.tokens,
        "info": dict(traced.info),
        "loop_runs": traced.loop_runs,
        "trace_s": tracing_done - started,
        "lower_s": compiling - tracing_done,
    }
    (folder / "partial.json").write_text(json.dumps(result), encoding="utf-8")
    compiled = lowered.compile(compiler_options=job["compiler_options"])
    result["compile_s"] = time.perf_counter() - compiling
    (folder / "program.hlo").write_text(compiled.as_text() or "", encoding="utf-8")
    stats = compiled.memory_analysis()
    result["memory"] = {name: getattr(stats, f"{name}_size_in_bytes") for name in _MEMORY}
    result["devices"] = [
        [getattr(d, "slice_index", 0) or 0, list(d.coords)]
        for d in _device_order(compiled, devices)
    ]
    result["cpu_s"] = time.process_time()
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result


def _slice_index(device: Any) -> int:
    return int(getattr(device, "slice_index", None) or 0)


def _device_order(compiled: Any, devices: list[Any]) -> list[Any]:
    """Devices as the program numbers them: the order of the mesh that its inputs live on."""
    for sharding in jax.tree.leaves(compiled.input_shardings):
        mesh = getattr(sharding, "mesh", None)
        if mesh is not None:
            return list(mesh.devices.flat)
    return devices


def main(path: str) -> int:
    """Compiles the job of a file; errors are part of the result."""
    folder = Path(path).parent
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    sys.path[:0] = job.get("python_path", [])
    try:
        result = compile_job(job, folder)
    except Exception as error:
        partial = folder / "partial.json"
        result = json.loads(partial.read_text(encoding="utf-8")) if partial.exists() else {}
        result["error"] = str(error)
        result["user_error"] = isinstance(error, UserError)
        result["traceback"] = traceback.format_exc()
        result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
