"""Where the time of a compiled TPU step goes, by the compiler's own schedule.

The compiler writes into the scheduled program how many cycles it expects of each instruction
(`estimated_cycles`); times the runs of the loops around it, over the clock, that is compute time.
It gives no cycles for three things, which are added here: collectives (`collectives`), copies
between memories (`copy-start`, `slice-start`: bytes over HBM bandwidth, hidden behind what runs
until their end), and Pallas kernels (their cost by roofline or by their own schedule).

The estimates of what is bound by memory are cautious: two to four times what its copies take at
full bandwidth. So the same is also read `by_bundles`: from the machine code itself, in which one
bundle takes one cycle, and from its copies (`kernel_cycles`).

Two step times result. Serial: all communication is added to compute. Overlapped: a collective that
the compiler started early runs while other instructions do, and only the rest of it is waited for;
one collective uses the links at a time, in order. The truth lies between them, or above.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from flan_jax.plan.async_regions import Region, region
from flan_jax.plan.collectives import (
    Collective,
    Location,
    link_seconds,
    network_seconds,
    permute_seconds,
    place,
    plain_seconds,
)
from flan_jax.plan.hlo import Computation, Instruction, Module
from flan_jax.plan.kernel_cycles import KernelCost, is_kernel
from flan_jax.plan.loops import trip_count
from flan_jax.plan.replica_groups import parse_groups, parse_pairs
from flan_jax.plan.roofline import hbm_bytes, product_flops
from flan_jax.plan.topologies import Topology

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "opt-barrier", "optimization-barrier", "add-dependency", "domain",
    "get-dimension-size", "async-update", "send", "send-done",
}  # fmt: skip
_DMA_STARTS = ("copy-start", "slice-start", "dynamic-slice-start", "dynamic-update-slice-start")
_DMA_DONES = ("copy-done", "slice-done", "dynamic-slice-done", "dynamic-update-slice-done")
_MOVES = {
    "copy", "transpose", "reshape", "bitcast", "slice", "dynamic-slice", "dynamic-update-slice",
    "concatenate", "pad", "broadcast", "reverse",
}  # fmt: skip
_LOOK_UPS = {"gather", "scatter", "sort", "select-and-scatter"}


@dataclass(frozen=True)
class Work:
    """Cycles of one instruction.

    Attributes:
      name, op_name: of the instruction, and JAX's name stack.
      category: "matmul", "elementwise", "copy", "look-up", "kernel", "wait for copies".
      cycles: of one run.
      count: runs in a step.
      source: who says so: "compiler", "roofline" (FLOPs and bytes over peaks), "bundles" (the
        schedule of a kernel).
      hbm_bytes: bytes it reads from and writes to HBM, at most, in one run.
    """

    name: str
    op_name: str
    category: str
    cycles: float
    count: int
    source: str
    hbm_bytes: int = 0

    @property
    def total_cycles(self) -> float:
        return self.cycles * self.count

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "total_cycles": self.total_cycles}


@dataclass(frozen=True)
class Schedule:
    """A step, read.

    Attributes:
      work: everything that takes cycles.
      collectives: everything that takes links.
      compute_s: seconds of `work`.
      communication_s: seconds of `collectives`.
      overlapped_s: seconds of the step where what can overlap does.
      hbm_s: bytes of all work over HBM bandwidth: a floor under compute_s, roughly.
      notes: what could not be read, and what was assumed instead.
    """

    work: tuple[Work, ...]
    collectives: tuple[Collective, ...]
    compute_s: float
    communication_s: float
    overlapped_s: float
    hbm_s: float
    notes: tuple[str, ...]

    @property
    def serial_s(self) -> float:
        return self.compute_s + self.communication_s

    def cycles_by_category(self) -> dict[str, float]:
        """Cycles of a step, largest first."""
        return _summed((work.category, work.total_cycles) for work in self.work)

    def cycles_by_op(self, depth: int = 4) -> dict[str, float]:
        """Cycles of a step by the first parts of JAX's name stack, largest first."""
        return _summed((op_prefix(w.op_name, depth), w.total_cycles) for w in self.work)

    def top(self, n: int = 20) -> list[Work]:
        """The n instructions with the most cycles x runs."""
        return sorted(self.work, key=lambda work: -work.total_cycles)[:n]


def _summed(pairs: Any) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for key, cycles in pairs:
        totals[key] += cycles
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def op_prefix(op_name: str, depth: int) -> str:
    """`jit(step)/transpose(jvp())/while/...` without the words that every name has."""
    boring = ("while", "body", "closed_call", "checkpoint", "jit(main)")
    parts = [part for part in op_name.split("/") if part not in boring]
    return "/".join(parts[:depth]) or "(compiler)"


@dataclass(frozen=True)
class Durations:
    """Seconds of a computation: alone, its communication, and with overlap."""

    compute: float = 0.0
    communication: float = 0.0
    overlapped: float = 0.0

    def __mul__(self, runs: int) -> Durations:
        return Durations(self.compute * runs, self.communication * runs, self.overlapped * runs)


@dataclass
class _Clock:
    """Time within a computation, and what is under way.

    Attributes:
      now: seconds since its start, waiting included.
      free: when each resource (links, network, memory) will have done what was asked so far.
      ends: when each thing under way will be done, by key.
    """

    now: float = 0.0
    free: dict[str, float] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)

    def start(self, key: str, seconds: float, resource: str) -> None:
        """Begins what takes so long of a resource that does one thing after another."""
        self.free[resource] = max(self.free.get(resource, 0.0), self.now) + seconds
        self.ends[key] = self.free[resource]

    def wait(self, key: str) -> float:
        """Goes on to the end of what is under way; the seconds waited."""
        waited = max(0.0, self.ends.pop(key, self.now) - self.now)
        self.now += waited
        return waited


class ScheduleReader:
    """Reads one module; see `read_schedule`."""

    def __init__(
        self,
        module: Module,
        topology: Topology,
        devices: Sequence[Location],
        costs: Mapping[str, KernelCost],
        by_bundles: bool,
        loop_runs: int,
    ) -> None:
        self._module = module
        self._loop_runs = loop_runs
        self._topology = topology
        self._chip = topology.chip
        self._devices = devices
        self._costs = costs
        self._by_bundles = by_bundles
        self.work: list[Work] = []
        self.collectives: list[Collective] = []
        self.notes: dict[str, None] = {}  # an ordered set

    def run(self, name: str, count: int) -> Durations:
        """Reads a computation that runs `count` times in a step."""
        computation, clock = self._module.computations[name], _Clock()
        compute = communication = 0.0
        for instruction in computation.instructions:
            if instruction.opcode in _FREE:
                continue
            nested = self._nested(instruction, computation, count)
            if nested is None:
                worked, talked = self._leaf(instruction, computation, clock, count)
            else:
                worked, talked = nested.compute, nested.communication
                clock.now += nested.overlapped
            compute += worked
            communication += talked
        for key in sorted(clock.ends):  # an end was not found: nothing is hidden
            clock.wait(key)
        return Durations(compute, communication, clock.now)

    def _nested(self, loop: Instruction, within: Computation, count: int) -> Durations | None:
        """Durations of a loop, call or conditional; None for all other instructions."""
        if loop.opcode == "while":
            trips = trip_count(self._module, loop, within)
            if trips is None:
                trips = self._loop_runs
                said = f"loop {loop.name} ({loop.op_name}): runs unknown, {trips} assumed"
                self.notes[said] = None
            return self.run(loop.called("body") or "", count * trips) * trips
        if loop.opcode == "call":
            return self.run(loop.called("to_apply") or loop.all_called[0], count)
        if loop.opcode == "conditional":
            self.notes[f"{loop.name} ({loop.op_name}): its longest branch is counted"] = None
            return self._longest_branch(loop, count)
        return None

    def _longest_branch(self, instruction: Instruction, count: int) -> Durations:
        best, kept = Durations(), (list(self.work), list(self.collectives))
        before = (list(self.work), list(self.collectives))
        for branch in instruction.all_called:
            self.work, self.collectives = list(before[0]), list(before[1])
            durations = self.run(branch, count)
            if durations.overlapped >= best.overlapped:
                best, kept = durations, (self.work, self.collectives)
        self.work, self.collectives = kept
        return best

    def _leaf(
        self, instruction: Instruction, computation: Computation, clock: _Clock, count: int
    ) -> tuple[float, float]:
        """Reads one instruction: its compute and its communication seconds."""
        if instruction.opcode in _DMA_STARTS:
            clock.start(instruction.name, self._copy_seconds(instruction), "memory")
            return 0.0, 0.0
        if instruction.opcode in _DMA_DONES:
            waited = clock.wait(instruction.operands[0])
            self._add(
                instruction, "wait for copies", waited * self._chip.clock_hz, count, "roofline"
            )
            return waited, 0.0
        found = region(self._module, instruction)
        if found is None:
            seconds = self._compute(instruction, computation, count)
            clock.now += seconds
            return seconds, 0.0
        return self._collective(instruction, computation, found, clock, count)

    def _collective(
        self,
        instruction: Instruction,
        computation: Computation,
        found: Region,
        clock: _Clock,
        count: int,
    ) -> tuple[float, float]:
        if found.role == "end":
            clock.wait(found.key)
            return 0.0, 0.0
        if found.role in ("middle", "whole") and found.key in clock.ends:
            seconds = self._compute(instruction, computation, count)
            clock.now += seconds
            return seconds, 0.0
        talked = self._communicate(instruction, found, count)
        clock.start(found.key, talked, "network" if found.slices > 1 else "links")
        worked = 0.0
        if found.role == "middle":  # one instruction that computes while it communicates
            worked = self._compute(instruction, computation, count)
            clock.now += worked
        if found.role in ("whole", "middle"):
            clock.wait(found.key)
        return worked, talked

    def _communicate(self, instruction: Instruction, found: Region, count: int) -> float:
        inner, topology = found.collective, self._topology
        algorithm = found.algorithm
        if found.slices > 1:
            seconds = network_seconds(found.kind, found.payload, found.slices)
            size, where, links = found.slices, f"{found.slices} slices", 0.0
        elif found.kind == "collective-permute":
            pairs = parse_pairs(inner.attribute("source_target_pairs"))
            seconds, where = permute_seconds(found.payload, pairs, self._devices, topology)
            size, links = len(pairs), 1.0
        else:
            group = parse_groups(inner.attribute("replica_groups"), len(self._devices))[0]
            placement = place(group, self._devices, topology)
            seconds, links = link_seconds(found.kind, found.payload, placement, topology, algorithm)
            size, where = len(group), placement.text
        self.collectives.append(
            Collective(
                name=instruction.name,
                op_name=inner.op_name or instruction.op_name,
                kind=found.kind,
                payload=found.payload,
                group_size=size,
                where=where,
                count=count,
                overlappable=found.role != "whole",
                algorithm=algorithm,
                links=links,
                seconds=seconds,
                plain_seconds=plain_seconds(found.kind, found.payload, size, topology),
            )
        )
        return seconds

    def _compute(self, instruction: Instruction, computation: Computation, count: int) -> float:
        """Seconds of an instruction that computes, which is added to `work`."""
        bytes_moved = hbm_bytes(self._module, instruction, computation)
        if instruction.opcode == "custom-call":
            return self._custom_call(instruction, bytes_moved, count)
        cycles, source = instruction.estimated_cycles, "compiler"
        cost = self._costs.get(instruction.name) if self._by_bundles else None
        if cost is not None:
            copying = cost.bytes_copied / self._chip.device_hbm_bytes_per_s * self._chip.clock_hz
            # The matrix unit can be behind: bundles wait for it, which their count does not show.
            flops = product_flops(self._module, instruction)
            multiplying = flops / self._chip.device_flops * self._chip.clock_hz
            cycles, source = max(cost.cycles, copying, multiplying), "bundles"
        elif cycles is None:
            cycles = bytes_moved / self._chip.device_hbm_bytes_per_s * self._chip.clock_hz
            source = "roofline"
        category = self._category(instruction)
        self._add(instruction, category, cycles, count, source, bytes_moved)
        return cycles / self._chip.clock_hz

    def _custom_call(self, instruction: Instruction, bytes_moved: int, count: int) -> float:
        if not is_kernel(instruction):
            cycles = float(instruction.estimated_cycles or 0)
            self._add(instruction, "elementwise", cycles, count, "compiler", bytes_moved)
            return cycles / self._chip.clock_hz
        return self._kernel(instruction, bytes_moved, count)

    def _kernel(self, instruction: Instruction, bytes_moved: int, count: int) -> float:
        stated = instruction.backend_config.get("custom_call_config", {}).get("cost_estimate", {})
        flops, moved = float(stated.get("flops", 0)), float(stated.get("bytes_accessed", 0))
        chip, cost = self._chip, self._costs.get(instruction.name)
        if cost is not None:
            moved = cost.bytes_copied or moved or bytes_moved
            cycles, source = float(cost.cycles), "bundles"
            if cost.unknown_branches:
                self.notes[f"kernel {instruction.name} branches on data: all is counted"] = None
        else:
            self.notes[
                f"kernel {instruction.name} could not be followed: its stated cost counts"
            ] = None
            moved = moved or bytes_moved
            cycles, source = flops / chip.device_flops * chip.clock_hz, "roofline"
        copying = moved / chip.device_hbm_bytes_per_s * chip.clock_hz
        cycles, source = (copying, "roofline") if copying > cycles else (cycles, source)
        self._add(instruction, "kernel", cycles, count, source, int(moved))
        return cycles / chip.clock_hz

    def _copy_seconds(self, instruction: Instruction) -> float:
        moved = [buffer.num_bytes for buffer in instruction.buffers]
        # A copy's shape is (destination, source, ...), a slice's ((source), destination, ...).
        return min(moved[:2], default=0) / self._chip.device_hbm_bytes_per_s

    def _category(self, instruction: Instruction) -> str:
        codes = {instruction.opcode}
        for called in instruction.all_called:
            codes |= {inner.opcode for inner in self._module.reachable(called)}
        if codes & {"convolution", "dot"}:
            return "matmul"
        if codes & _LOOK_UPS:
            return "look-up"
        moving = codes - _FREE - {"fusion", "convert"}
        return "copy" if moving and moving <= _MOVES else "elementwise"

    def _add(
        self,
        instruction: Instruction,
        category: str,
        cycles: float,
        count: int,
        source: str,
        moved: int = 0,
    ) -> None:
        if cycles > 0:
            name, op_name = instruction.name, instruction.op_name
            self.work.append(Work(name, op_name, category, cycles, count, source, moved))


def read_schedule(
    module: Module,
    topology: Topology,
    devices: Sequence[Location],
    costs: Mapping[str, KernelCost] | None = None,
    by_bundles: bool = False,
    loop_runs: int = 1,
) -> Schedule:
    """Reads where the time of a step goes.

    Args:
      module: the compiled program.
      topology: what it was compiled for.
      devices: where each device is, in the program's order.
      costs: what instructions cost by their bundles, by name. Pallas kernels count by them; those
        without, by the roofline of the cost that they state.
      by_bundles: count all other instructions by their bundles too, or by their copies from and to
        memory at full bandwidth, whichever take longer, and not by the compiler's estimates.
      loop_runs: runs of loops whose number the program does not tell.
    """
    reader = ScheduleReader(module, topology, devices, costs or {}, by_bundles, loop_runs)
    durations = reader.run(module.entry.name, 1)
    hbm = sum(work.hbm_bytes * work.count for work in reader.work)
    return Schedule(
        work=tuple(reader.work),
        collectives=tuple(reader.collectives),
        compute_s=durations.compute,
        communication_s=durations.communication,
        overlapped_s=durations.overlapped,
        hbm_s=hbm / topology.chip.device_hbm_bytes_per_s,
        notes=tuple(reader.notes),
    )
