"""Time of a collective on the links of a TPU slice: a model, not a measurement.

A chip has two links in each dimension of the torus (one at the end of a dimension that is not
closed to a ring), each of which carries `link_bytes_per_s` in both directions at once. From the
coordinates of a group of chips follows along which dimensions it lies. The time of a collective is

    bytes a chip must receive / (links it can receive them by x bytes/s of a link)
    + hops x 1 us

where the bytes received are, of g chips (Thakur et al., "Optimization of Collective Communication
Operations in MPICH", 2005; all of it bandwidth-optimal):

    all-gather       (g - 1) / g of the result
    reduce-scatter   (g - 1) / g of the operand
    all-reduce       twice that of the operand
    all-to-all       by bisection: of n chips along a closed dimension every link carries n / 8 of
                     a chip's operand, n / 4 along an open one
    permute          the operand once for each link that messages share

and the links are one for a dimension that is open or only partly in the group, two for a closed one
that is all in it: a ring runs both ways at once, and an algorithm with several rings ("colours")
runs one in each dimension at once. Where the compiler says that it uses one ring only ("1D...",
"StrategyRing"), two links at most. Groups that interleave (every second chip) share links.

"How to Scale Your Model" (Austin et al. 2025, chapter 3) has the same model and finds 90% of the
nominal bandwidth and about 1 us a hop in practice; both are used here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flan_jax.plan.topologies import DCN_BYTES_PER_S_PER_CHIP, Topology

ACHIEVABLE = 0.9  # of the nominal bandwidth of a link
HOP_SECONDS = 1e-6
DCN_SECONDS = 50e-6  # latency between slices: of the order of a round trip in a data centre

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


@dataclass(frozen=True)
class Location:
    """Where a device is: its slice, and its chip's coordinates in the torus."""

    slice_index: int
    coords: tuple[int, ...]


@dataclass(frozen=True)
class Span:
    """How a group lies along one dimension of the torus.

    Attributes:
      dim: which dimension.
      size: chips of the group along it.
      closed: whether they form a ring.
      sharing: groups that use the same links.
    """

    dim: int
    size: int
    closed: bool
    sharing: int

    @property
    def links(self) -> float:
        """By how many links of its own a chip receives."""
        both_ways = 2 if self.closed and self.size > 2 else 1
        return both_ways / self.sharing

    @property
    def hops(self) -> int:
        """Links between the two chips farthest apart, by the shorter way."""
        return (self.size // 2 if self.closed else self.size - 1) * self.sharing


@dataclass(frozen=True)
class Placement:
    """How a group of devices lies in the machine.

    Attributes:
      chips: distinct chips, of one slice.
      slices: distinct slices.
      spans: dimensions in which it extends.
      regular: whether it is a box; if not, one link is assumed.
      cores_apart: groups on the same chips that share their links (two devices a chip).
    """

    chips: int
    slices: int
    spans: tuple[Span, ...]
    regular: bool
    cores_apart: int

    @property
    def links(self) -> float:
        if not self.regular or not self.spans:
            return 1.0 / self.cores_apart
        return sum(span.links for span in self.spans) / self.cores_apart

    def links_of(self, algorithm: str) -> float:
        """Links used by the compiler's algorithm: one ring has two at most."""
        one_ring = any(word in algorithm for word in ("1D", "StrategyRing"))
        return min(self.links, 2.0 / self.cores_apart) if one_ring else self.links

    @property
    def hops(self) -> int:
        return sum(span.hops for span in self.spans)

    @property
    def text(self) -> str:
        """`y4+z8*`: four along an open y, eight along a closed z."""
        names = "xyzw"
        parts = [f"{names[s.dim]}{s.size}{'*' if s.closed else ''}" for s in self.spans]
        text = "+".join(parts) or "chip"
        text = text if self.regular else f"irregular {text}"
        return text if self.slices == 1 else f"{self.slices} slices, {text}"


@dataclass(frozen=True)
class Collective:
    """One collective of the program, all its runs together.

    Attributes:
      name, op_name: of the instruction, and JAX's name stack.
      kind: of `KINDS`.
      payload: bytes on a device of the result (all-gather) or the operand (all others).
      group_size: devices that take part.
      where: how they lie; see `Placement.text`.
      count: how often it runs in a step.
      overlappable: whether other work runs between its start and its end.
      algorithm: emitter and strategy, as chosen by the compiler.
      links: links a chip receives by, in the model.
      seconds: of one run, by the model.
      plain_seconds: by the plainest model: one ring, both ways, nominal bandwidth, no latency.
    """

    name: str
    op_name: str
    kind: str
    payload: int
    group_size: int
    where: str
    count: int
    overlappable: bool
    algorithm: str
    links: float
    seconds: float
    plain_seconds: float

    @property
    def total_seconds(self) -> float:
        return self.seconds * self.count

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "total_seconds": self.total_seconds}


def place(group: Sequence[int], devices: Sequence[Location], topology: Topology) -> Placement:
    """Where the devices of a group are.

    Args:
      group: device numbers of the program.
      devices: where each is, in the program's order.
      topology: the machine.
    """
    slices = sorted({devices[i].slice_index for i in group})
    here = [devices[i] for i in group if devices[i].slice_index == slices[0]]
    chips = sorted({device.coords for device in here})
    spans = []
    for dim, extent in enumerate(topology.shape):
        values = sorted({coords[dim] for coords in chips})
        if len(values) > 1:
            spans.append(_span(dim, values, extent, topology.wraps[dim]))
    per_chip = topology.chip.devices_per_chip
    cores_apart = 1 if len(here) == len(chips) * per_chip else per_chip
    regular = math.prod(span.size for span in spans) == len(chips)
    return Placement(len(chips), len(slices), tuple(spans), regular, cores_apart)


def _span(dim: int, values: Sequence[int], extent: int, wraps: bool) -> Span:
    size = len(values)
    step = max(1, min(b - a for a, b in itertools.pairwise(values)))
    closed = wraps and size * step == extent
    return Span(dim, size, closed, step)


def link_seconds(
    kind: str, payload: float, placement: Placement, topology: Topology, algorithm: str = ""
) -> tuple[float, float]:
    """Seconds of one collective, and the links used.

    Args:
      kind: of `KINDS`, but for "collective-permute": see `permute_seconds`.
      payload: bytes on a device, as in `Collective`.
      placement: of its group.
      topology: the machine.
      algorithm: the compiler's emitter and strategy.
    """
    g, link = placement.chips, topology.chip.link_bytes_per_s * ACHIEVABLE
    links = placement.links_of(algorithm)
    rounds = 2 if kind == "all-reduce" else 1
    seconds = 0.0
    if g > 1:
        if kind in ("all-to-all", "ragged-all-to-all"):
            seconds = _all_to_all_seconds(payload, placement, link)
        else:
            share = 1.0 if kind == "collective-broadcast" else (g - 1) / g
            seconds = rounds * payload * share / (links * link)
        seconds += rounds * placement.hops * HOP_SECONDS
    elif placement.slices == 1:  # the two devices of a chip, through HBM
        seconds = rounds * payload / topology.chip.hbm_bytes_per_s + HOP_SECONDS
    if placement.slices > 1:
        # Every chip has the part it got within its slice, and exchanges that with its like.
        part = payload if kind in ("all-to-all", "ragged-all-to-all") else payload / g
        seconds += network_seconds(kind, part, placement.slices)
    return seconds, links


def network_seconds(kind: str, payload: float, slices: int) -> float:
    """Seconds of a collective of one chip of each slice, over the data-centre network."""
    rounds = 2 if kind == "all-reduce" else 1
    share = 1.0 if kind in ("collective-permute", "collective-broadcast") else (slices - 1) / slices
    return rounds * (payload * share / DCN_BYTES_PER_S_PER_CHIP + DCN_SECONDS)


def _all_to_all_seconds(payload: float, placement: Placement, link: float) -> float:
    if not placement.regular:
        return payload * placement.chips / 4 / link
    loads = [
        payload * span.size / (8 if span.closed else 4) * span.sharing for span in placement.spans
    ]
    return max(loads, default=0.0) * placement.cores_apart / link


def permute_seconds(
    payload: float,
    pairs: Sequence[tuple[int, int]],
    devices: Sequence[Location],
    topology: Topology,
) -> tuple[float, str]:
    """Seconds of one collective-permute, and how far it goes ("z1": one chip along z).

    Messages go dimension by dimension, by the shorter way; where each chip sends h chips far along
    a dimension, each link carries h messages.
    """
    distance = [0] * len(topology.shape)
    crosses = False
    for source, target in pairs:
        a, b = devices[source], devices[target]
        crosses |= a.slice_index != b.slice_index
        for dim, extent in enumerate(topology.shape):
            apart = abs(a.coords[dim] - b.coords[dim])
            if topology.wraps[dim]:
                apart = min(apart, extent - apart)
            distance[dim] = max(distance[dim], apart)
    link = topology.chip.link_bytes_per_s * ACHIEVABLE
    seconds = payload * max(distance) / link + sum(distance) * HOP_SECONDS
    if not any(distance):
        seconds = payload / topology.chip.hbm_bytes_per_s
    where = "+".join(f"{'xyzw'[dim]}{n}" for dim, n in enumerate(distance) if n) or "chip"
    if crosses:
        return payload / DCN_BYTES_PER_S_PER_CHIP + DCN_SECONDS, "other slice"
    return seconds, where


def plain_seconds(kind: str, payload: float, group_size: int, topology: Topology) -> float:
    """Bytes a chip must receive over two links at nominal bandwidth, wherever the group lies."""
    g = max(group_size, 1)
    share = 1.0 if kind in ("collective-permute", "collective-broadcast") else (g - 1) / g
    rounds = 2 if kind == "all-reduce" else 1
    return rounds * payload * share / (2 * topology.chip.link_bytes_per_s)
