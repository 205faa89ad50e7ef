"""The instruction bundles of a TPU kernel, as libtpu dumps them, read for their control flow.

A TensorCore runs one bundle of instructions a cycle, in an order fixed by the compiler; so bundles
run are cycles, but for waiting for memory. The dump (`*final_bundles.txt`) has a line a bundle:

    0x1c LB: > { %s9_s1 = sphi %s7_s1, %s36_s1  ;;  %p2_p0 = scmp.ge.s32.totalorder %s9_s1, 4 }

with an address, the scalar registers' static single assignments, branches to numbered regions, and
comments that say where regions start and end. Only scalar instructions, branches and copies from
and to the vector memory are kept here. No JAX.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

_BUNDLE = re.compile(r"^\s*(0x[0-9a-f]+|0)\s*(?:[A-Z]{2})?\s*:\s*(?:>\s*)*\{")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_STARTS = re.compile(r"Start(?:/End empty)? region (\d+)")
_ENDS = re.compile(r"End region \d+")
_ASSIGN = re.compile(r"^\s*%(\w+)\s*=\s*([\w.]+)\s*(.*)$", re.DOTALL)
_PREDICATE = re.compile(r"\((!?)%(p\w+)(?:,\s*([^)]*))?\)")
_TARGET = re.compile(r"target\s*=\s*\$region(\d+)")
_MEMORY = re.compile(r"\[smem:\[?([^\]+]*?)(?:\s*\+\s*([%\w]+))?\]?\]")
_WINDOW = re.compile(r"window_bounds:\s*\(([\d,\s]*)\)")
_ELEMENT = re.compile(r"element_size_in_bytes:\s*(\d+)")
_SCALARS = (
    "sadd.", "ssub.", "smul.", "sand.", "sor.", "sxor.", "sshll.", "sshrl.", "sshra.", "smin.",
    "smax.", "smov", "scmp.", "por", "pand", "pnand", "pneg", "pmov", "pxor", "pnor", "sphi",
    "scalar_select", "sld", "sst",
)  # fmt: skip
_COPIES = (  # v4 has a second memory on the chip, CMEM; its copies are counted as if HBM's
    "dma.hbm_to_vmem",
    "dma.vmem_to_hbm",
    "dma.cmem_to_vmem",
    "dma.vmem_to_cmem",
    "dma.general",
)

Operand = str | int | None  # a register's name, a number, or neither


@dataclass(frozen=True)
class Operation:
    """A scalar operation, a branch or a copy.

    Attributes:
      target: register assigned ("" for none).
      code: such as "sadd.s32", "branch", "copy".
      operands: registers and numbers.
      predicate: register that it depends on, or "".
      negated: whether it happens if that is false.
      otherwise: what a predicated move gives where it does not happen.
      memory: scalar memory that it reads or writes, or "". The last operand is the index in it if
        it is an array: a load has one operand then, a store two.
      region: of a branch: where to.
      num_bytes: of a copy.
      core_id: whether it reads which core this is.
    """

    target: str
    code: str
    operands: tuple[Operand, ...] = ()
    predicate: str = ""
    negated: bool = False
    otherwise: Operand = None
    memory: str = ""
    region: int = -1
    num_bytes: int = 0
    core_id: bool = False


@dataclass
class Bundle:
    """Instructions of one cycle."""

    operations: list[Operation] = field(default_factory=list)
    ends_region: bool = False


@dataclass(frozen=True)
class Kernel:
    """Bundles in the order of addresses, and the position at which each region starts."""

    bundles: tuple[Bundle, ...]
    regions: dict[int, int]


def parse_bundles(text: str) -> Kernel:
    """Reads one `*final_bundles.txt`."""
    bundles: list[Bundle] = []
    regions: dict[int, int] = {}
    for raw in _raw_bundles(text):
        for number in _STARTS.findall(raw):
            regions.setdefault(int(number), len(bundles))
        bundles.append(_parse_bundle(raw))
    return Kernel(tuple(bundles), regions)


def _raw_bundles(text: str) -> list[str]:
    raw: list[str] = []
    for line in text.splitlines():
        if _BUNDLE.match(line):
            raw.append(line)
        elif raw:
            raw[-1] += "\n" + line
    return raw


def _parse_bundle(raw: str) -> Bundle:
    body = raw[raw.index("{") + 1 :]
    bundle = Bundle(ends_region=bool(_ENDS.search(raw)))
    for part in body.split(" ;; "):
        operation = _parse_operation(part)
        if operation is not None:
            bundle.operations.append(operation)
    return bundle


def _parse_operation(part: str) -> Operation | None:
    assigned = _ASSIGN.match(part)
    if not assigned:
        return None
    target, code, rest = assigned.groups()
    if code in _COPIES:
        return _copy(rest)
    if code != "sbr.rel" and not code.startswith(_SCALARS):
        return None
    core_id = "/* core id */" in rest
    bare = _COMMENT.sub(" ", rest).split("}")[0]
    found = _PREDICATE.search(bare)
    predicate, negated, otherwise = "", False, None
    if found:
        predicate, negated = found[2], bool(found[1])
        otherwise = _operand(found[3]) if found[3] else None
        bare = bare.replace(found[0], " ")
    if code == "sbr.rel":
        region = _TARGET.search(bare)
        return Operation(
            "", "branch", (), predicate, negated, region=int(region[1]) if region else -1
        )
    memory = _MEMORY.search(bare)
    if memory:
        bare = bare.replace(memory[0], " ")
    operands = tuple(_operand(word) for word in bare.replace(",", " ").split())
    key = memory[1] if memory else ""
    if memory and memory[2]:  # the index within an array, last
        operands = (*operands, _operand(memory[2]))
    return Operation(
        target, code, operands, predicate, negated, otherwise, memory=key, core_id=core_id
    )


def _copy(rest: str) -> Operation:
    found = _PREDICATE.search(_COMMENT.sub(" ", rest))
    window, element = _WINDOW.search(rest), _ELEMENT.search(rest)
    size = 0
    if window and element:
        bounds = [int(bound) for bound in window[1].replace(" ", "").split(",") if bound]
        size = math.prod(bounds) * int(element[1])
    predicate, negated = (found[2], bool(found[1])) if found else ("", False)
    return Operation("", "copy", (), predicate, negated, num_bytes=size)


def _operand(word: str) -> Operand:
    word = word.strip()
    if word.startswith("%"):
        return word[1:]
    try:
        number = int(word, 0)
    except ValueError:
        return None
    return number - 2**32 if number >= 2**31 else number
