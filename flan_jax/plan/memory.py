"""A device's memory during a step, as the compiler has laid it out.

Unlike all times in a plan this is exact: it is what the program will ask of the device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flan_jax.plan.topologies import GIB, Chip

_LIVE = re.compile(r"^\s+([\w.\-]+)\{[\d,]*\}: (\d+) bytes", re.MULTILINE)


@dataclass(frozen=True)
class LargeBuffer:
    """A buffer that is in HBM when the step needs most of it.

    Attributes:
      num_bytes: its size.
      name: its shape, and JAX's name stack of what made it (or the instruction, if it has none).
    """

    num_bytes: int
    name: str


@dataclass(frozen=True)
class Memory:
    """Bytes of a device's HBM.

    Attributes:
      arguments: what the step is given: parameters, optimizer state, batch.
      outputs: what it returns, of which `aliased` takes the place of arguments (donated).
      aliased: see above.
      temporaries: activations, gradients and gathered parameters, at their peak.
      code: the program.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code

    def fits(self, chip: Chip) -> bool:
        return self.total <= chip.hbm_gib * GIB

    def to_dict(self) -> dict[str, Any]:
        """GiB by part."""
        parts = {**asdict(self), "total": self.total}
        return {f"{name}_gib": size / GIB for name, size in parts.items()}


def memory_of(sizes: Mapping[str, int]) -> Memory:
    """From the parts of JAX's `compiled.memory_analysis()`."""
    return Memory(
        arguments=sizes["argument"],
        outputs=sizes["output"],
        aliased=sizes["alias"],
        temporaries=sizes["temp"],
        code=sizes["generated_code"],
    )


def peak_buffers(folder: Path, count: int = 12) -> tuple[LargeBuffer, ...]:
    """The largest buffers at the peak, from XLA's dump (`xla_dump_to`), steps that do not fit too.

    Args:
      folder: of the dump; of several programs the largest counts.
      count: how many.
    """
    ranges = sorted(folder.glob("*live-range.txt"), key=lambda path: path.stat().st_size)
    if not ranges:
        return ()
    text = ranges[-1].read_text(encoding="utf-8", errors="replace")
    _, found, peak = text.partition("(peak):")
    if not found:
        return ()
    sizes = [(name, int(size)) for name, size in _LIVE.findall(peak)]
    sizes = sorted(sizes, key=lambda pair: -pair[1])[:count]
    module = Path(str(ranges[-1]).replace("-live-range.txt", ".txt"))
    lines = _lines_of(module, [name for name, _ in sizes])
    return tuple(LargeBuffer(size, _described(name, lines.get(name, ""))) for name, size in sizes)


def _lines_of(module: Path, names: Sequence[str]) -> dict[str, str]:
    """The instructions of these names, as printed."""
    wanted, lines = set(names), {}
    if module.exists():
        with module.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                found = re.match(r"\s*(?:ROOT )?%([\w.\-]+) = ", line)
                if found and found[1] in wanted:
                    lines[found[1]] = line
    return lines


def _described(name: str, line: str) -> str:
    shape = re.search(r" = \(?(\w+\[[\d,]*\])", line)
    operator = re.search(r'op_name="([^"]*)"', line)
    return f"{shape[1] if shape else ''} {operator[1] if operator else name}".strip()
