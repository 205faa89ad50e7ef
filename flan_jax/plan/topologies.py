"""TPU chips and slices: speeds, memory, links, and the names people give to slices.

Slices are named by generation and shape (`v4:4x4x4`), or by the accelerator type of Cloud TPU:
`v4-32` (v2, v3, v4, v5p and tpu7x count TensorCores, two a chip) and `v5e-64`, `v5litepod-64`,
`v6e-64` (which count chips). Several slices joined by the data-centre network: `2xv4-32`.

Speeds are those of Google's documentation of each generation (cloud.google.com/tpu/docs, pages
"TPU v4", "TPU v5e", ...) unless said otherwise; memory is what the compiler itself reports as
usable by a program. No JAX.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from flan_jax.errors import UserError
from flan_jax.suggestions import did_you_mean

GIB = 2**30
Shape = tuple[int, ...]


class TopologyError(UserError, ValueError):
    """No TPU slice has this name."""


@dataclass(frozen=True)
class Chip:
    """One generation of TPU.

    Attributes:
      name: "v4", ...
      peak_flops: bf16 FLOP/s of a chip.
      hbm_bytes_per_s: bandwidth of a chip's HBM.
      hbm_gib: GiB a program may use, of a device (not a chip), as the compiler reports it.
      clock_hz: of the TensorCore; the compiler's cycles are counted in it.
      link_bytes_per_s: of one inter-chip link, in one direction.
      torus_dims: dimensions of the torus that links form; two links a dimension and chip.
      devices_per_chip: what JAX calls devices; 1 where two cores work as one ("megacore").
      cores_in_name: whether `v4-32` counts cores (two a chip) rather than chips.
      wrap: extent of a dimension from which on it is closed to a ring; see `Topology.wraps`.
      max_chips: in the largest slice.
    """

    name: str
    peak_flops: float
    hbm_bytes_per_s: float
    hbm_gib: float
    clock_hz: float
    link_bytes_per_s: float
    torus_dims: int
    devices_per_chip: int
    cores_in_name: bool
    wrap: int
    max_chips: int

    @property
    def megacore(self) -> bool:
        """Whether the chip's two cores are one device."""
        return self.name in ("v4", "v5p")

    @property
    def device_flops(self) -> float:
        return self.peak_flops / self.devices_per_chip

    @property
    def device_hbm_bytes_per_s(self) -> float:
        return self.hbm_bytes_per_s / self.devices_per_chip


# v2, v3: Jouppi et al., "A Domain-Specific Supercomputer for Training Deep Neural Networks" (CACM
# 2020), table 3: clocks, 46 and 123 TFLOP/s, HBM 700 and 900 GB/s, links of 496 and 656 Gbit/s.
# v4: Jouppi et al., "TPU v4" (ISCA 2023), table 4: 1,050 MHz, 1,200 GB/s, six links of 50 GB/s.
# v5e, v5p, v6e, tpu7x: links from the documentation's bandwidth of a chip (400, 1,200, 800 and
# 1,200 GB/s both ways) over 4 or 6 links and 2 directions. Clocks of those: peak over the MXUs'
# multiply-adds a cycle (4, 8 and, of 256 x 256, 4 and 2 x 4), which gives round numbers.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v2", 46e12, 700e9, 7.48, 0.70e9, 62e9, 2, 2, True, 16, 256),
        Chip("v3", 123e12, 900e9, 15.48, 0.94e9, 82e9, 2, 2, True, 32, 1024),
        Chip("v4", 275e12, 1228e9, 30.75, 1.05e9, 50e9, 3, 1, True, 4, 4096),
        Chip("v5e", 197e12, 819e9, 15.75, 1.50e9, 50e9, 2, 1, False, 16, 256),
        Chip("v5p", 459e12, 2765e9, 95.73, 1.75e9, 100e9, 3, 1, True, 4, 6144),
        Chip("v6e", 918e12, 1640e9, 31.24, 1.75e9, 100e9, 2, 1, False, 16, 256),
        Chip("tpu7x", 2307e12, 7380e9, 94.74, 2.20e9, 100e9, 3, 2, True, 4, 9216),
    )
}
_SYNONYMS = {"v5litepod": "v5e", "v5lite": "v5e", "v7x": "tpu7x", "v5": "v5p"}

# Shapes below a 4 x 4 x 4 cube, of generations with three dimensions, and all shapes of the others.
_SMALL_3D: tuple[Shape, ...] = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_SHAPES_2D: dict[str, tuple[Shape, ...]] = {
    "v2": ((2, 2), (4, 4), (8, 8), (8, 16), (16, 16)),
    "v3": ((2, 2), (4, 4), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32)),
    "v5e": ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)),
    "v6e": ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)),
}
# Bytes/s a chip sends to other slices: the data-centre network gives a host of four v4 or v5p chips
# about 25 GB/s each way ("How to Scale Your Model", Austin et al. 2025, on DCN: 6.25 GB/s a chip).
DCN_BYTES_PER_S_PER_CHIP = 6.25e9


@dataclass(frozen=True)
class Topology:
    """One or more slices of one shape.

    Attributes:
      chip: its generation.
      shape: chips along each dimension of a slice.
      slices: how many slices.
    """

    chip: Chip
    shape: Shape
    slices: int = 1

    @property
    def chips_per_slice(self) -> int:
        return math.prod(self.shape)

    @property
    def chips(self) -> int:
        return self.chips_per_slice * self.slices

    @property
    def devices(self) -> int:
        """What JAX counts."""
        return self.chips * self.chip.devices_per_chip

    @property
    def name(self) -> str:
        """`v4:2x2x4`, or `2xv4:2x2x4`."""
        shape = f"{self.chip.name}:{'x'.join(map(str, self.shape))}"
        return shape if self.slices == 1 else f"{self.slices}x{shape}"

    @property
    def peak_flops(self) -> float:
        """bf16 FLOP/s of all chips."""
        return self.chips * self.chip.peak_flops

    @property
    def wraps(self) -> tuple[bool, ...]:
        """Which dimensions are closed to a ring.

        With three dimensions (v4, v5p, tpu7x) slices are built of 4 x 4 x 4 cubes whose faces meet
        in optical switches: every dimension that is a multiple of 4 is closed, if the slice is made
        of whole cubes ("TPU v4", ISCA 2023, section 2); smaller ones are meshes. With two
        dimensions only a dimension as long as the whole pod's is (16; 32 in v3).
        """
        if self.chip.torus_dims == 2:
            return tuple(size >= self.chip.wrap for size in self.shape)
        cubes = all(size % self.chip.wrap == 0 for size in self.shape)
        return tuple(cubes for _ in self.shape)


def parse_topology(name: str) -> Topology:
    """The topology of this name.

    Raises:
      TopologyError: with near misses and the sizes of that generation.
    """
    slices, rest = _split_slices(name.strip().lower())
    found = re.fullmatch(r"([a-z0-9]+?)(?::([\dx]+)|-(\d+))", rest)
    if not found:
        raise TopologyError(
            f"a TPU slice is named by generation and shape, such as v4:2x2x4, or by its accelerator"
            f" type, such as v4-32 or v5e-64; found {name!r}{did_you_mean(rest, known_names())}"
        )
    chip = CHIPS.get(_SYNONYMS.get(found[1], found[1]))
    if chip is None:
        raise TopologyError(
            f"{name!r}: no TPU generation is called {found[1]!r}; known are"
            f" {', '.join(CHIPS)}{did_you_mean(rest, known_names())}"
        )
    if found[2]:
        shape = tuple(int(size) for size in found[2].split("x") if size)
        if not is_slice(chip, shape):
            raise TopologyError(_no_such_size(name, chip, shape))
        return Topology(chip, tuple(sorted(shape)) if chip.torus_dims == 2 else shape, slices)
    count = int(found[3])
    shape = default_shape(chip, count)
    if shape is None:
        raise TopologyError(_no_such_size(name, chip))
    return Topology(chip, shape, slices)


def _split_slices(name: str) -> tuple[int, str]:
    """`2xv4-32` and `v4-32*2` mean two slices."""
    slices, rest = 1, name
    if front := re.fullmatch(r"(\d+)x([a-z].*)", name):
        slices, rest = int(front[1]), front[2]
    elif back := re.fullmatch(r"(.*)\*(\d+)", name):
        slices, rest = int(back[2]), back[1]
    if slices < 1:
        raise TopologyError(f"{name!r}: expected one slice or more, such as 2x{rest}")
    return slices, rest


def is_slice(chip: Chip, shape: Sequence[int]) -> bool:
    """Whether such slices exist: the compiler accepts some that do not, and dies of others."""
    shape = tuple(shape)
    if chip.torus_dims == 2:
        return tuple(sorted(shape)) in _SHAPES_2D[chip.name]
    if len(shape) != 3 or math.prod(shape) > chip.max_chips:
        return False
    # (2, 2, 1) is customary; otherwise sizes ascend.
    return shape in _SMALL_3D or (
        all(size > 0 and size % 4 == 0 for size in shape) and shape == tuple(sorted(shape))
    )


def default_shape(chip: Chip, count: int) -> Shape | None:
    """Shape of `<generation>-<count>`: of those with so many chips the one nearest a cube."""
    if chip.cores_in_name:
        if count % 2:
            return None
        count //= 2
    shapes = [shape for shape in slice_shapes(chip) if math.prod(shape) == count]
    return min(shapes, key=lambda shape: (max(shape) / min(shape), shape), default=None)


def slice_shapes(chip: Chip) -> list[Shape]:
    """All shapes of slices, by number of chips."""
    if chip.torus_dims == 2:
        return list(_SHAPES_2D[chip.name])
    longest = range(4, chip.max_chips // 16 + 1, 4)
    cubes = [
        (a, b, c)
        for a in longest
        if a**3 <= chip.max_chips
        for b in range(a, math.isqrt(chip.max_chips // a) + 1, 4)
        for c in range(b, min(chip.max_chips // (a * b), 4 * b) + 1, 4)
    ]
    return sorted([*_SMALL_3D, *cubes], key=lambda shape: (math.prod(shape), shape))


def accelerator_types(chip: Chip) -> list[str]:
    """`v4-8`, `v4-16`, ...: sizes as powers of two (others exist by shape)."""
    counts = {math.prod(shape) for shape in slice_shapes(chip)}
    cores = 2 if chip.cores_in_name else 1
    return [f"{chip.name}-{n * cores}" for n in sorted(counts) if n & (n - 1) == 0]


def known_names() -> list[str]:
    """Names worth suggesting."""
    names = []
    for chip in CHIPS.values():
        names += accelerator_types(chip)
        names += [
            f"{chip.name}:{'x'.join(map(str, shape))}"
            for shape in slice_shapes(chip)
            if math.prod(shape) & (math.prod(shape) - 1) == 0
        ]
    return names


def _no_such_size(name: str, chip: Chip, shape: Shape = ()) -> str:
    by_shape = (
        "any 4a x 4b x 4c with a <= b <= c"
        if chip.torus_dims == 3
        else ", ".join(f"{chip.name}:{a}x{b}" for a, b in _SHAPES_2D[chip.name])
    )
    ascending = tuple(sorted(shape))
    meant = (
        f"; did you mean {Topology(chip, ascending).name!r}?"
        if is_slice(chip, ascending)
        else did_you_mean(name, known_names())
    )
    return (
        f"{name!r}: there is no such slice of {chip.name}; sizes are"
        f" {', '.join(accelerator_types(chip))}, or by shape {by_shape}{meant}"
    )
