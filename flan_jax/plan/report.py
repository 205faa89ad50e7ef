"""A step's report: what its compilation gave, and what the run makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax.plan.gpu import GpuCluster
from flan_jax.plan.preflight import Machine, abstract_mesh, memory_limit_gib
from flan_jax.plan.steps import PlannedRun, StepKind
from flan_jax.plan.topologies import GIB

_SAME_COLLECTIVE = ("kind", "payload", "group_size", "where", "overlappable", "algorithm")


def complete(
    raw: Mapping[str, Any],
    run: PlannedRun,
    step: StepKind,
    machine: Machine,
    xla_options: Mapping[str, str],
    *,
    cached: bool = False,
) -> dict[str, Any]:
    """What the compiled step says of itself, with what the run makes of it: tokens/s, hours, hints.

    Args:
      raw: a report of `step_report` or `gpu_report`; the same for all runs of the program.
      run: whose step it is.
      step: which.
      machine: where it would run.
      xla_options: it was compiled with.
      cached: whether it was compiled before.
    """
    tpu = not isinstance(machine, GpuCluster)
    devices_per_chip = machine.chip.devices_per_chip if tpu else 1
    report: dict[str, Any] = {
        "step": step,
        "topology": machine.name,
        "chips": machine.chips,
        "mesh": dict(abstract_mesh(run, machine).shape),
        "batch_size": run.rows(step),
        "num_microbatches": run.trainer.parts if step == "train" else 1,
        "xla_options": dict(xla_options),
        "rough": raw.get("rough", False),
        "fits": raw["fits"],
        "hbm_gib_per_chip": raw["hbm_gib_per_chip"],
        "hbm_limit_gib": memory_limit_gib(machine) * devices_per_chip,
        "memory": _memory(raw, devices_per_chip),
        "largest_buffers": raw["largest_buffers"],
        "largest_arrays": raw.get("largest_arrays", []),
        "model_flops": raw["model_flops"],
        "tokens_per_step": run.tokens(step),
    }
    times = raw.get("step_time_s")
    if times:
        report |= _times(raw, times, run, step)
    if not raw["fits"]:
        report["hints"] = hints(run, step, report["mesh"])
    report["estimates"] = [name for name in report if name in _ESTIMATES]
    kept = ("trace_s", "compile_s", "cpu_s", "peak_rss_gib", "notes")
    return report | {name: raw[name] for name in kept if name in raw} | {"cached": cached}


_ESTIMATES = (
    "step_time_s",
    "step_time_serial_s",
    "step_time_overlapped_s",
    "mfu_serial",
    "mfu_overlapped",
    "compute_s",
    "hbm_traffic_s",
    "communication_s",
    "seconds_by_category",
    "by_bundles",
    "tokens_per_s",
    "hours",
)


def _times(
    raw: Mapping[str, Any], times: Mapping[str, float], run: PlannedRun, step: StepKind
) -> dict[str, Any]:
    serial, overlapped = times["serial"], times["overlapped"]
    tokens = run.tokens(step)
    report: dict[str, Any] = {
        "step_time_s": serial,
        "step_time_serial_s": serial,
        "step_time_overlapped_s": overlapped,
        "mfu_serial": raw["mfu_serial"],
        "mfu_overlapped": raw["mfu_overlapped"],
        "compute_s": raw["compute_s"],
        "hbm_traffic_s": raw["hbm_s"],
        "communication_s": raw["communication_s"],
        "seconds_by_category": raw["seconds_by_category"],
        "seconds_by_op": raw.get("seconds_by_op", {}),
        "top_instructions": raw.get("top_instructions", []),
        "collectives": merged_collectives(raw["collectives"]),
        "tokens_per_s": {"serial": tokens / serial, "overlapped": tokens / overlapped},
    }
    if "by_bundles" in raw:  # the same from the program's own schedule
        second = raw["by_bundles"]
        report["by_bundles"] = {
            "step_time_serial_s": second["step_time_s"]["serial"],
            "step_time_overlapped_s": second["step_time_s"]["overlapped"],
            **{name: second[name] for name in ("mfu_serial", "mfu_overlapped", "compute_s")},
            "seconds_by_category": second["seconds_by_category"],
        }
    if step == "train" and run.total_steps:
        hours = {name: seconds * run.total_steps / 3600 for name, seconds in times.items()}
        report |= {"steps": run.total_steps, "hours": hours}
    return report


def _memory(raw: Mapping[str, Any], devices_per_chip: int) -> dict[str, float] | None:
    """GiB of a chip by part."""
    parts = raw["memory"]
    if parts is None:
        held = raw.get("held_bytes", {})
        return {f"{k}_gib": n * devices_per_chip / GIB for k, n in held.items()} or None
    held = {name: size / GIB for name, size in raw["held_bytes"].items()}
    other = max(parts["arguments_gib"] - sum(held.values()), 0.0)
    found = {
        **held,
        "padding": other,
        "outputs": parts["outputs_gib"] - parts["aliased_gib"],
        "temporaries": parts["temporaries_gib"],
        "code": parts["code_gib"],
        "total": parts["total_gib"],
    }
    return {f"{name}_gib": size * devices_per_chip for name, size in found.items()}


def merged_collectives(collectives: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Collectives that are alike as one, with their number and time together, slowest first."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in collectives:
        key = tuple(one.get(name) for name in _SAME_COLLECTIVE)
        alike = dict(zip(_SAME_COLLECTIVE, key, strict=True))
        group = groups.setdefault(key, {**alike, "count": 0, "bytes": 0, "seconds": 0.0})
        group["count"] += one["count"]
        group["bytes"] += one["payload"] * one["count"]
        group["seconds"] += one["total_seconds"]
    return sorted(groups.values(), key=lambda group: -group["seconds"])


def hints(run: PlannedRun, step: StepKind, mesh: Mapping[str, int]) -> list[str]:
    """What to try where a step does not fit."""
    found = []
    copies = mesh["data"] * mesh["replica"]
    if copies > 1:
        found.append(
            f"more FSDP: parameters and optimizer are held {copies} times; FSDP="
            f"{mesh['fsdp'] * mesh['data']} with DATA=1 splits them further"
        )
    if step == "train":
        policy = getattr(run.model.module, "remat_policy", None)
        if policy != "full":
            found.append(
                f"network.{type(run.model.module).__name__}.remat_policy = 'full' keeps less for "
                f"the backward pass than {policy!r}"
            )
        rows = run.rows(step) // (copies * mesh["fsdp"])
        if rows > run.trainer.parts:
            found.append(f"NUM_MICROBATCHES: {rows} rows a device can be computed in parts")
    found.append("more TENSOR splits activations too; a larger slice splits everything")
    return found
