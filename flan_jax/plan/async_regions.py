"""Which instructions of a compiled program communicate, and which begin, carry and end that.

A collective appears as itself (`all-gather`), as a pair (`all-gather-start`, `all-gather-done`), in
an `async-start`, or inside a fusion: alone (a "reduce-scatter" is an all-reduce and a slice), or
taken apart by the TPU compiler into a fusion that starts it (`AsyncCollectiveStart`), fusions that
carry it along while they multiply matrices, and one that ends it (`AsyncCollectiveDone`); those
share a channel. Between slices it is a `send` and a `recv` through the hosts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from flan_jax.plan.collectives import KINDS
from flan_jax.plan.hlo import Instruction, Module

Role = Literal["whole", "start", "middle", "end"]


@dataclass(frozen=True)
class Region:
    """An instruction's part in a collective.

    Attributes:
      role: all of it, its start, something computed meanwhile, or its end.
      key: the same for all parts.
      kind: of `collectives.KINDS`.
      payload: bytes on a device of the result (all-gather) or the operand (all others).
      collective: the instruction with the groups, maybe inside a fusion.
      algorithm: the compiler's emitter and strategy, "" if not said.
      slices: of a transfer between slices, over the network: how many; otherwise 1.
    """

    role: Role
    key: str
    kind: str
    payload: int
    collective: Instruction
    algorithm: str
    slices: int = 1


def region(module: Module, instruction: Instruction) -> Region | None:
    """The part this instruction has in a collective; None if it has none."""
    opcode = instruction.opcode
    if opcode in KINDS:
        return _region(module, "whole", instruction.name, instruction, instruction)
    base = opcode.removesuffix("-start").removesuffix("-done")
    if base in KINDS:
        if opcode.endswith("-done"):
            return _end(instruction, base)
        return _region(module, "start", instruction.name, instruction, instruction)
    if opcode == "recv":
        return _between_slices(instruction)
    if opcode in ("async-done", "recv-done"):
        return _end(instruction, "")
    if opcode not in ("fusion", "async-start"):
        return None
    inside = _inside(module, instruction)
    if inside is None:
        return None
    collective, targets = inside
    if opcode == "async-start":
        return _region(module, "start", instruction.name, instruction, collective)
    key = f"channel {collective.attribute('channel_id')}"
    if "AsyncCollectiveStart" in targets:
        return _region(module, "start", key, instruction, collective)
    if "AsyncCollectiveDone" in targets:
        return _region(module, "end", key, instruction, collective)
    role: Role = "whole" if instruction.estimated_cycles is None else "middle"
    return _region(module, role, key, instruction, collective)


def _between_slices(receive: Instruction) -> Region:
    """The part of a collective that crosses the network: each chip sends to its like and receives.

    The compiler has split it from the part within slices; the target `{1,2}x{0:15}` names slices
    and devices.
    """
    transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', receive.attributes)
    target = re.search(r'_xla_megascale_target="\{([\d,]+)\}', receive.attributes)
    kind = transfer[1].lower().replace("_", "-") if transfer else "collective-permute"
    kind = kind if kind in KINDS else "collective-permute"
    slices = len(target[1].split(",")) if target else 2
    payload = receive.buffers[0].num_bytes if receive.buffers else 0
    return Region("start", receive.name, kind, payload, receive, "megascale", max(slices, 2))


def _end(instruction: Instruction, kind: str) -> Region:
    return Region("end", instruction.operands[0], kind, 0, instruction, "")


def _inside(module: Module, instruction: Instruction) -> tuple[Instruction, set[str]] | None:
    """The collective within a fusion, and the custom calls beside it."""
    collective, targets = None, set()
    for called in instruction.all_called:
        for inner in module.reachable(called):
            if inner.opcode.removesuffix("-start") in KINDS:
                collective = inner
            elif inner.opcode == "custom-call":
                targets.add((inner.attribute("custom_call_target") or "").strip('"'))
    return None if collective is None else (collective, targets)


def _region(
    module: Module, role: Role, key: str, instruction: Instruction, collective: Instruction
) -> Region:
    kind = collective.opcode.removesuffix("-start")
    sizes = [buffer.num_bytes for buffer in collective.buffers]
    if collective.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
        # (operand, result, flags): the result counts of the one, the operand of the other.
        payload = sizes[1] if kind == "all-gather" else sizes[0]
    elif kind == "reduce-scatter":
        payload = sum(sizes) * _shards(module, collective)
    else:
        payload = sum(sizes)
    if kind == "all-reduce" and collective is not instruction and _scatters(module, instruction):
        kind = "reduce-scatter"
    return Region(role, key, kind, payload, collective, _algorithm(instruction, collective))


def _shards(module: Module, collective: Instruction) -> int:
    """Operand bytes over result bytes of a reduce-scatter."""
    for computation in module.computations.values():
        if computation.by_name.get(collective.name) is collective:
            operand = computation.by_name[collective.operands[0]]
            ours = max(sum(b.num_bytes for b in collective.buffers[:1]), 1)
            return max(1, operand.buffers[0].num_bytes // ours)
    return 1


def _scatters(module: Module, fusion: Instruction) -> bool:
    """Whether a fusion keeps only this device's part of what it reduces."""
    inner = [i for called in fusion.all_called for i in module.reachable(called)]
    reduces = {i.name for i in inner if i.opcode == "all-reduce"}
    return any(i.opcode == "dynamic-slice" and reduces & set(i.operands) for i in inner)


def _algorithm(*instructions: Instruction) -> str:
    for instruction in instructions:
        config = instruction.backend_config.get("collective_algorithm_config", {})
        if config:
            return " ".join(filter(None, (config.get("emitter"), config.get("strategy"))))
    return ""
