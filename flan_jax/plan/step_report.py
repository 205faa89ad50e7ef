"""What a compiled step says about itself: memory, time, MFU. See `read_step`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flan_jax.plan import hlo
from flan_jax.plan.collectives import Location
from flan_jax.plan.compiler import (
    CompiledProgram,
    Job,
    OutOfMemoryError,
    compile_program,
)
from flan_jax.plan.memory import LargeBuffer, Memory, memory_of
from flan_jax.plan.schedule import Schedule, read_schedule
from flan_jax.plan.topologies import GIB, Topology

_BY_BUNDLES = (
    "step_time_s", "mfu_serial", "mfu_overlapped", "mfu_compute_only", "compute_s",
    "seconds_by_category", "seconds_by_op", "top_instructions",
)  # fmt: skip


@dataclass(frozen=True)
class StepReport:
    """One step on one topology.

    Attributes:
      topology: the machine.
      memory: of a device; None if the step does not fit.
      schedule: where the time goes, by the compiler's estimates; None if it does not fit.
      bundles: the same by the compiler's machine code; see `schedule`.
      needed_bytes: of a device's HBM.
      largest: the largest buffers when most memory is in use.
      model_flops: of a step, all devices; see `model_flops`.
      tokens: of a step.
      info: what the step's builder had to say; see `TracedStep`.
      trace_s, compile_s: seconds that this took here.
      peak_rss_gib: memory that it took here.
      cpu_s: processor seconds of all threads that it took here, start of the process included.
    """

    topology: Topology
    memory: Memory | None
    schedule: Schedule | None
    bundles: Schedule | None
    needed_bytes: float
    largest: tuple[LargeBuffer, ...]
    model_flops: float
    tokens: int
    info: dict[str, Any]
    trace_s: float
    compile_s: float
    peak_rss_gib: float
    cpu_s: float = 0.0

    @property
    def hbm_limit_gib(self) -> float:
        return self.topology.chip.hbm_gib

    @property
    def fits(self) -> bool:
        return self.memory is not None and self.memory.fits(self.topology.chip)

    def mfu(self, seconds: float) -> float:
        """Model FLOPs over what all chips could do in these seconds."""
        return self.model_flops / (self.topology.peak_flops * seconds) if seconds > 0 else 0.0

    def to_dict(self, top: int = 20) -> dict[str, Any]:
        """For JSON: everything, with the `top` instructions by cycles."""
        per_chip = self.topology.chip.devices_per_chip
        report: dict[str, Any] = {
            "topology": self.topology.name,
            "chips": self.topology.chips,
            "fits": self.fits,
            "hbm_gib_per_chip": self.needed_bytes / GIB * per_chip,
            "hbm_limit_gib": self.hbm_limit_gib * per_chip,
            "hbm_gib_per_device": self.needed_bytes / GIB,
            "memory": self.memory.to_dict() if self.memory else None,
            "largest_buffers": [{"gib": b.num_bytes / GIB, "name": b.name} for b in self.largest],
            "model_flops": self.model_flops,
            "tokens": self.tokens,
            **self.info,
            "trace_s": self.trace_s,
            "compile_s": self.compile_s,
            "peak_rss_gib": self.peak_rss_gib,
            "cpu_s": self.cpu_s,
        }
        if self.schedule is not None:
            report |= self._times(self.schedule, top)
        if self.bundles is not None:
            times = self._times(self.bundles, top)
            report["by_bundles"] = {key: times[key] for key in _BY_BUNDLES}
        return report

    def _times(self, schedule: Schedule, top: int) -> dict[str, Any]:
        serial, overlapped = schedule.serial_s, schedule.overlapped_s
        clock = self.topology.chip.clock_hz
        return {
            "step_time_s": {"serial": serial, "overlapped": overlapped},
            "mfu_serial": self.mfu(serial),
            "mfu_overlapped": self.mfu(overlapped),
            "mfu_compute_only": self.mfu(schedule.compute_s),
            "tokens_per_s": {
                "serial": self.tokens / serial if serial else 0.0,
                "overlapped": self.tokens / overlapped if overlapped else 0.0,
            },
            "compute_s": schedule.compute_s,
            "communication_s": schedule.communication_s,
            "communication_plain_s": sum(c.plain_seconds * c.count for c in schedule.collectives),
            "hbm_s": schedule.hbm_s,
            "collectives": [c.to_dict() for c in schedule.collectives],
            "seconds_by_category": {
                name: cycles / clock for name, cycles in schedule.cycles_by_category().items()
            },
            "seconds_by_op": {
                name: cycles / clock for name, cycles in schedule.cycles_by_op().items()
            },
            "top_instructions": [work.to_dict() for work in schedule.top(top)],
            "notes": list(schedule.notes),
        }


def read_step(job: Job, folder: Path | None = None) -> StepReport:
    """Compiles a step and reads it; a step that does not fit gives a report too.

    Args:
      job: what to compile for which machine.
      folder: where the compiler's files are kept; None for nowhere.

    Raises:
      CompileError, UserError: see `compiler.compile_program`.
    """
    try:
        return report_of(compile_program(job, folder), job.topology)
    except OutOfMemoryError as error:
        facts = error.partial
        return StepReport(
            topology=job.topology,
            memory=None,
            schedule=None,
            bundles=None,
            needed_bytes=error.needed_bytes,
            largest=error.largest,
            model_flops=facts.get("model_flops", 0.0),
            tokens=facts.get("tokens", 0),
            info=facts.get("info", {}),
            trace_s=facts.get("trace_s", 0.0),
            compile_s=facts.get("compile_s", 0.0),
            peak_rss_gib=facts.get("peak_rss_bytes", 0) / GIB,
        )


def report_of(compiled: CompiledProgram, topology: Topology) -> StepReport:
    """The report of a compiled program."""
    facts = compiled.facts
    devices = [
        Location(slice_index, tuple(coords[: len(topology.shape)]))
        for slice_index, coords in facts["devices"]
    ]
    memory = memory_of(facts["memory"])
    module = hlo.parse(compiled.hlo)
    schedules = [
        read_schedule(
            module, topology, devices, compiled.costs, by_bundles, facts.get("loop_runs", 1)
        )
        for by_bundles in (False, True)
    ]
    return StepReport(
        topology=topology,
        memory=memory,
        schedule=schedules[0],
        bundles=schedules[1],
        needed_bytes=memory.total,
        largest=compiled.largest,
        model_flops=facts["model_flops"],
        tokens=facts["tokens"],
        info=facts.get("info", {}),
        trace_s=facts["trace_s"],
        compile_s=facts["compile_s"],
        peak_rss_gib=facts["peak_rss_bytes"] / GIB,
        cpu_s=facts.get("cpu_s", 0.0),
    )
