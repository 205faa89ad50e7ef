"""The text of a compiled program (scheduled HLO, as XLA prints it): computations, instructions.

Only what reading a schedule needs: names, shapes, operation codes, operands, called computations,
and the compiler's notes (`backend_config`). No JAX.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32,
    "s64": 64, "u64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128,
    "f8e4m3fn": 8, "f8e5m2": 8, "f8e4m3b11fnuz": 8, "f4e2m1fn": 4, "token": 0,
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_MEMORY_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
# What runs on another core of the chip has its name behind the brace.
_END = re.compile(r'^\}(, execution_thread="[^"]*")?$')
_INSTRUCTION = re.compile(r"^  (ROOT )?%([\w.\-]+) = ")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|condition|body|branch_computations)=(\{[^}]*\}|%[\w.\-]+)"
)
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_BACKEND_CONFIG = "backend_config="
_DEVICE_IDS = ", device_ids="
HBM = 0
_NO_ESTIMATE = 2**63 - 1


@dataclass(frozen=True)
class Buffer:
    """One array of a shape.

    Attributes:
      dtype: XLA's name, such as "bf16".
      dims: sizes.
      memory_space: 0 is HBM; others (`S(1)` VMEM, `S(3)` CMEM, ...) are on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    memory_space: int

    @property
    def num_bytes(self) -> int:
        """Bytes without the padding of tiles."""
        return math.ceil(math.prod(self.dims) * _BITS.get(self.dtype, 32) / 8)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: without "%".
      shape: as printed; a tuple begins with "(".
      opcode: "fusion", "all-gather", ...
      operands: names of what it reads.
      literal: what stands between its parentheses, as printed (a constant's value).
      attributes: the rest of the line.
      is_root: whether it is the result of its computation.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    literal: str
    attributes: str
    is_root: bool

    @cached_property
    def buffers(self) -> tuple[Buffer, ...]:
        """Arrays of the result, tuples flattened."""
        return buffers(self.shape)

    @property
    def op_name(self) -> str:
        """JAX's name stack of the operation this came from, or ""."""
        found = _OP_NAME.search(self.attributes)
        return found[1] if found else ""

    @cached_property
    def backend_config(self) -> dict[str, Any]:
        """The compiler's notes; {} if there are none."""
        start = self.attributes.find(_BACKEND_CONFIG)
        if start < 0:
            return {}
        text = self.attributes[start + len(_BACKEND_CONFIG) :]
        if not text.startswith("{"):
            return {}
        return json.JSONDecoder().raw_decode(text)[0]

    @property
    def estimated_cycles(self) -> int | None:
        """Cycles by the compiler's cost model; None where it gives none.

        For what it leaves to another core it writes the largest number there is.
        """
        cycles = self.backend_config.get("window_config", {}).get("estimated_cycles")
        return None if cycles is None or int(cycles) >= _NO_ESTIMATE else int(cycles)

    def attribute(self, name: str) -> str | None:
        """The value of `name=value` among the attributes, up to the next comma outside brackets.

        One value has such a comma itself: `mesh['a'=2,'b'=2], device_ids=(...) {'a'}`.
        """
        found = re.search(rf"(?:^|, ){re.escape(name)}=", self.attributes)
        if not found:
            return None
        value = _until_comma(self.attributes, found.end())
        end = found.end() + len(value)
        if self.attributes.startswith(_DEVICE_IDS, end):
            value += _DEVICE_IDS + _until_comma(self.attributes, end + len(_DEVICE_IDS))
        return value

    def called(self, role: str) -> str | None:
        """The computation named by `calls=`, `to_apply=`, `body=` or `condition=`."""
        value = self.attribute(role)
        return value.lstrip("%") if value else None

    @cached_property
    def all_called(self) -> tuple[str, ...]:
        """All computations it calls, in the order printed."""
        return tuple(
            name for value in _CALLED.findall(self.attributes) for name in _NAME.findall(value)
        )


@dataclass
class Computation:
    """Instructions in the order in which they run."""

    name: str
    is_entry: bool
    instructions: list[Instruction] = field(default_factory=list)

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    @property
    def root(self) -> Instruction:
        return next((i for i in self.instructions if i.is_root), self.instructions[-1])

    @property
    def parameters(self) -> dict[int, Instruction]:
        """Parameter instructions by number."""
        return {int(i.literal): i for i in self.instructions if i.opcode == "parameter"}


@dataclass(frozen=True)
class Module:
    """A program: its computations by name, and which one is the entry."""

    computations: dict[str, Computation]
    entry: Computation

    def reachable(self, name: str) -> Iterator[Instruction]:
        """Instructions of a computation and of all those it calls."""
        for instruction in self.computations[name].instructions:
            yield instruction
            for called in instruction.all_called:
                if called in self.computations:
                    yield from self.reachable(called)


def buffers(shape: str) -> tuple[Buffer, ...]:
    """Arrays of a printed shape such as `(bf16[8,4]{1,0:T(8,128)S(3)}, u32[])`."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(shape):
        space = _MEMORY_SPACE.search(layout)
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        found.append(Buffer(dtype, sizes, int(space[1]) if space else HBM))
    return tuple(found)


def parse(text: str) -> Module:
    """Reads the text of `compiled.as_text()`.

    Raises:
      ValueError: there is no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry = current = None
    lines: list[str] = []  # of the current computation
    for line in text.splitlines():
        if current is None:
            header = _COMPUTATION.match(line)
            if header:
                current, lines = Computation(header[2], bool(header[1])), []
                computations[current.name] = current
                entry = current if header[1] else entry
        elif _END.match(line):
            current.instructions += map(_parse_instruction, lines)
            current = None
        elif _INSTRUCTION.match(line):
            lines.append(line)
        elif lines:  # an instruction with line breaks, in the metadata of a kernel
            lines[-1] += line
    if entry is None:
        raise ValueError("no ENTRY computation: this is not the text of a compiled program")
    return Module(computations, entry)


def _parse_instruction(line: str) -> Instruction:
    head = _INSTRUCTION.match(line)
    assert head is not None
    rest = line[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    literal = rest[opening + 1 : closing]
    return Instruction(
        name=head[2],
        shape=shape,
        opcode=rest[:opening],
        operands=tuple(_NAME.findall(literal)),
        literal=literal,
        attributes=rest[closing + 1 :].removeprefix(", "),
        is_root=bool(head[1]),
    )


def _closing(text: str, opening: int) -> int:
    """Position of the parenthesis that closes the one at `opening`; strings are passed over."""
    depth, position = 0, opening
    while position < len(text):
        char = text[position]
        if char == '"':
            position = text.find('"', position + 1)
            if position < 0:
                break
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    raise ValueError(f"unbalanced parentheses in {text[opening : opening + 80]!r}")


def _until_comma(text: str, start: int) -> str:
    depth = 0
    for position in range(start, len(text)):
        char = text[position]
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth == 0:
            return text[start:position]
    return text[start:]
