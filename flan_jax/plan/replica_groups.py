"""Which devices take part in a collective, from the ways in which XLA writes it.

- listed: `{{0,2},{1,3}}`
- iota: `[2,8]<=[8,2]T(1,0)`: count 0 to 15, reshape to 8 x 2, transpose, reshape to 2 groups of 8
- by mesh: `mesh['a'=8,'b'=2] {'a'}`: groups along axis `a` of a mesh of 8 x 2 devices; parts of an
  axis are `'a':(2)4`: after splitting `a` into 2 x 4 x rest, the one of 4
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

Groups = tuple[tuple[int, ...], ...]

_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_TRANSPOSED = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"^@?mesh\[(?P<axes>[^\]]*)\](?:,\s*device_ids=\((?P<ids>.*?)\))?\s*\{(?P<used>.*)\}$"
)
_SIZE = re.compile(r"'([^']+)'=(\d+)")
_REFERENCE = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


def parse_groups(text: str | None, num_devices: int) -> Groups:
    """Groups of device numbers; one group of all devices where none are given.

    Raises:
      ValueError: the text is in no known form.
    """
    text = (text or "").strip()
    if text in ("", "{}"):
        return (tuple(range(num_devices)),)
    if text.startswith("{"):
        return tuple(
            tuple(int(n) for n in group.split(",")) for group in re.findall(r"\{([\d,]+)\}", text)
        )
    iota = _IOTA.fullmatch(text)
    if iota:
        shape = _numbers(iota[1])
        return _rows(_iota(_numbers(iota[2]), _numbers(iota[3]) if iota[3] else None), shape[-1])
    mesh = _MESH.match(text)
    if mesh:
        return _mesh_groups(mesh["axes"], mesh["ids"], mesh["used"])
    raise ValueError(f"replica groups of an unknown form: {text!r}")


def parse_pairs(text: str | None) -> tuple[tuple[int, int], ...]:
    """Sources and targets of a collective-permute: `{{0,1},{1,2}}`."""
    pairs = re.findall(r"\{(\d+),(\d+)\}", text or "")
    return tuple((int(source), int(target)) for source, target in pairs)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _iota(dims: Sequence[int], permutation: Sequence[int] | None) -> list[int]:
    """0, 1, ... as an array of these dims, transposed, flattened."""
    permutation = range(len(dims)) if permutation is None else permutation
    strides = [math.prod(dims[i + 1 :]) for i in range(len(dims))]
    flat = [0]
    for axis in permutation:
        flat = [base + index * strides[axis] for base in flat for index in range(dims[axis])]
    return flat


def _rows(flat: Sequence[int], size: int) -> Groups:
    return tuple(tuple(flat[i : i + size]) for i in range(0, len(flat), size))


def _mesh_groups(axes: str, ids: str | None, used: str) -> Groups:
    sizes = {name: int(size) for name, size in _SIZE.findall(axes)}
    references = [
        (name, int(before or 1), int(size or sizes[name]))
        for name, before, size in _REFERENCE.findall(used)
    ]
    # Split axes of which parts are used: dims of the split mesh, and the positions of those parts.
    dims: list[int] = []
    position: dict[tuple[str, int], int] = {}
    for name, total in sizes.items():
        before = 1
        for _, start, size in sorted(r for r in references if r[0] == name):
            if start > before:
                dims.append(start // before)
            position[name, start] = len(dims)
            dims.append(size)
            before = start * size
        if total > before or not dims:
            dims.append(total // before)
    grouped = [position[name, start] for name, start, _ in references]
    others = [axis for axis in range(len(dims)) if axis not in grouped]
    flat = _iota(dims, [*others, *grouped])
    size = math.prod(dims[axis] for axis in grouped)
    if ids:
        order = _iota_or_list(ids)
        flat = [order[number] for number in flat]
    return _rows(flat, size)


def _iota_or_list(text: str) -> list[int]:
    iota = _IOTA.fullmatch(text.strip()) or _TRANSPOSED.fullmatch(text.strip())
    if iota:
        *_, dims, permutation = iota.groups()
        return _iota(_numbers(dims), _numbers(permutation) if permutation else None)
    return [int(number) for number in re.findall(r"\d+", text)]
