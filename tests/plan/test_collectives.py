"""The model of links, against times worked out by hand."""

from __future__ import annotations

import itertools

import pytest

from flan_jax.plan.collectives import (
    ACHIEVABLE,
    DCN_SECONDS,
    HOP_SECONDS,
    Location,
    link_seconds,
    permute_seconds,
    place,
    plain_seconds,
)
from flan_jax.plan.topologies import DCN_BYTES_PER_S_PER_CHIP, Topology, parse_topology

MIB = 2**20


def devices_of(topology: Topology) -> list[Location]:
    """All devices, the last dimension of the coordinates fastest."""
    coords = itertools.product(*map(range, topology.shape))
    return [
        Location(s, c)
        for s, c in itertools.product(range(topology.slices), coords)
        for _ in range(topology.chip.devices_per_chip)
    ]


def time(kind: str, name: str, group: list[int], algorithm: str = "") -> tuple[float, float, str]:
    topology = parse_topology(name)
    placement = place(group, devices_of(topology), topology)
    seconds, links = link_seconds(kind, MIB, placement, topology, algorithm)
    return seconds, links, placement.text


V4_LINK = 50e9 * ACHIEVABLE


def test_ring_along_a_closed_dimension() -> None:
    """Four chips along z of a cube: both directions, three quarters of the result, two hops."""
    seconds, links, where = time("all-gather", "v4:4x4x4", [0, 1, 2, 3])
    assert where == "z4*"
    assert links == 2
    assert seconds == pytest.approx(0.75 * MIB / (2 * V4_LINK) + 2 * HOP_SECONDS)


def test_all_reduce_is_a_scatter_and_a_gather() -> None:
    gathered, _, _ = time("all-gather", "v4:4x4x4", [0, 1, 2, 3])
    reduced, _, _ = time("all-reduce", "v4:4x4x4", [0, 1, 2, 3])
    scattered, _, _ = time("reduce-scatter", "v4:4x4x4", [0, 1, 2, 3])
    assert reduced == pytest.approx(2 * gathered)
    assert scattered == gathered


def test_a_line_has_one_link() -> None:
    """Without the link that closes the ring the chip at the end has only one neighbour."""
    seconds, links, where = time("all-gather", "v4:2x2x4", [0, 1, 2, 3])
    assert (where, links) == ("z4", 1)
    assert seconds == pytest.approx(0.75 * MIB / V4_LINK + 3 * HOP_SECONDS)


def test_all_dimensions_at_once_unless_the_compiler_uses_one_ring() -> None:
    everything = list(range(64))
    seconds, links, where = time("all-gather", "v4:4x4x4", everything)
    assert (where, links) == ("x4*+y4*+z4*", 6)
    assert seconds == pytest.approx(63 / 64 * MIB / (6 * V4_LINK) + 6 * HOP_SECONDS)
    for algorithm in ("1DAllGatherNonMajorDim", "SingleInputAllReduceScatterFusion StrategyRing"):
        assert time("all-gather", "v4:4x4x4", everything, algorithm)[1] == 2
    assert time("all-reduce", "v4:4x4x4", everything, "RotatedPincerEmitter StrategyND")[1] == 6


def test_interleaved_groups_share_links() -> None:
    """Every second chip of a ring of 8: two groups on the same links."""
    _, links, where = time("all-gather", "v4:8x8x8", [0, 2, 4, 6])
    assert (where, links) == ("z4*", 1)


def test_part_of_a_closed_dimension_is_a_line() -> None:
    assert time("all-gather", "v4:8x8x8", [0, 1, 2, 3])[1:] == (1, "z4")


def test_irregular_groups_get_one_link() -> None:
    _, links, where = time("all-gather", "v4:4x4x4", [0, 1, 4])
    assert links == 1
    assert "irregular" in where


def test_all_to_all_by_bisection() -> None:
    """Along a ring of n, each half sends half of its n/2 operands over two links to the other."""
    n = 16
    seconds, _, _ = time("all-to-all", "v5e:16x16", list(range(n)))
    over_the_cut = n / 2 * MIB / 2
    assert seconds == pytest.approx(over_the_cut / (2 * V4_LINK) + n / 2 * HOP_SECONDS)


def test_devices_of_one_chip_talk_through_its_memory() -> None:
    """v3: two devices a chip; groups of one device a chip share its links with the others'."""
    within, _, where = time("all-gather", "v3:4x4", [0, 1])
    assert where == "chip"
    assert within < 5e-6
    both = time("all-gather", "v3:4x4", list(range(8)))[1]
    one_each = time("all-gather", "v3:4x4", list(range(0, 8, 2)))[1]
    assert both == 2 * one_each


def test_slices_exchange_their_parts_over_the_network() -> None:
    """Each of 16 chips of a slice exchanges a sixteenth with its like in the other slice."""
    inside, _, _ = time("all-reduce", "v4-32", list(range(16)))
    both, _, where = time("all-reduce", "2xv4-32", list(range(32)))
    assert where.startswith("2 slices")
    network = 2 * (MIB / 16 / 2 / DCN_BYTES_PER_S_PER_CHIP + DCN_SECONDS)
    assert both == pytest.approx(inside + network)


def test_permutes() -> None:
    topology = parse_topology("v4:4x4x4")
    devices = devices_of(topology)
    next_one = [(i, i // 4 * 4 + (i + 1) % 4) for i in range(64)]
    seconds, where = permute_seconds(MIB, next_one, devices, topology)
    assert where == "z1"  # the last one's neighbour is the first, by the link that closes the ring
    assert seconds == pytest.approx(MIB / V4_LINK + HOP_SECONDS)
    opposite = [(i, i // 4 * 4 + (i + 2) % 4) for i in range(64)]
    assert permute_seconds(MIB, opposite, devices, topology)[1] == "z2"


def test_the_plain_figure() -> None:
    topology = parse_topology("v4-32")
    assert plain_seconds("all-gather", MIB, 16, topology) == MIB * 15 / 16 / 100e9
    assert plain_seconds("all-reduce", MIB, 16, topology) == 2 * MIB * 15 / 16 / 100e9
