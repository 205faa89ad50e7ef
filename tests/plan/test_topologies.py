"""Names and shapes of TPU slices."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.plan.topologies import (
    CHIPS,
    TopologyError,
    accelerator_types,
    known_names,
    parse_topology,
    slice_shapes,
)


@pytest.mark.parametrize(
    ("name", "canonical", "chips", "devices"),
    [
        ("v4-8", "v4:2x2x1", 4, 4),  # v4 counts cores, two a chip
        ("v4-32", "v4:2x2x4", 16, 16),
        ("v4-1024", "v4:8x8x8", 512, 512),
        ("v4:8x8x8", "v4:8x8x8", 512, 512),
        ("v5e-64", "v5e:8x8", 64, 64),  # v5e counts chips
        ("v5litepod-256", "v5e:16x16", 256, 256),
        ("V5P-16", "v5p:2x2x2", 8, 8),
        ("v3-32", "v3:4x4", 16, 32),  # two devices a chip
        ("tpu7x:2x2x1", "tpu7x:2x2x1", 4, 8),
        ("2xv4-32", "2xv4:2x2x4", 32, 32),
        ("v4-32*2", "2xv4:2x2x4", 32, 32),
    ],
)
def test_names(name: str, canonical: str, chips: int, devices: int) -> None:
    topology = parse_topology(name)
    assert (topology.name, topology.chips, topology.devices) == (canonical, chips, devices)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v4-33", "did you mean 'v4-32'"),
        ("v4:8x8x4", "did you mean 'v4:4x8x8'"),
        ("v4:3x3x3", "no such slice"),
        ("v5e-63", "did you mean 'v5e-64'"),
        ("v9-32", "known are v2, v3, v4"),
        ("v4x32", "v4:2x2x4"),
        ("", "named by generation"),
        ("v4:", "named by generation"),
    ],
)
def test_wrong_names_are_explained(name: str, said: str) -> None:
    with pytest.raises(TopologyError, match="(?s)" + said):
        parse_topology(name)


def test_lists_of_sizes_are_short() -> None:
    with pytest.raises(TopologyError) as error:
        parse_topology("v4-33")
    assert len(str(error.value)) < 500
    assert "v4-8, v4-16, v4-32" in str(error.value)


@given(st.sampled_from(known_names()), st.integers(1, 4))
def test_suggested_names_are_accepted_and_canonical_ones_are_fixed(name: str, slices: int) -> None:
    topology = parse_topology(f"{slices}x{name}")
    assert topology.chips == slices * math.prod(topology.shape)
    assert parse_topology(topology.name) == topology


def test_wrap_around() -> None:
    """Cubes of 4 x 4 x 4 are joined to rings; in two dimensions only the pod's full length is."""
    assert parse_topology("v4:4x4x8").wraps == (True, True, True)
    assert parse_topology("v4:2x4x4").wraps == (False, False, False)
    assert parse_topology("v5e:8x16").wraps == (False, True)
    assert parse_topology("v5e:8x8").wraps == (False, False)
    assert parse_topology("v3:32x32").wraps == (True, True)


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS.keys())
def test_shapes_are_within_the_pod(chip) -> None:
    shapes = slice_shapes(chip)
    assert len(set(shapes)) == len(shapes)
    assert max(math.prod(shape) for shape in shapes) <= chip.max_chips
    assert all(parse_topology(name).chip == chip for name in accelerator_types(chip))


def test_peaks_agree_with_clocks() -> None:
    """Peak = clock x 2 x multiply-adds a cycle of whole matrix units of 128 x 128."""
    for chip in CHIPS.values():
        units = chip.peak_flops / (2 * 128 * 128 * chip.clock_hz)
        assert units == pytest.approx(round(units), rel=0.01), chip.name
