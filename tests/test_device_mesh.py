"""Devices in meshes: slices, blocks of the torus; against JAX's own hybrid meshes."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import mesh_utils

from flan_jax.device_mesh import PartitioningError, arrange, by_submesh, slices, torus
from flan_jax.sharding import PjitPartitioner


@dataclass(frozen=True, order=True)
class Device:
    """What mesh making reads of a TPU chip."""

    id: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    slice_index: int = 0
    process_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v4"


def tpu_slice(shape: tuple[int, int, int], index: int = 0) -> list[Device]:
    """The chips of a slice, x fastest, as JAX lists them."""
    places = itertools.product(*(range(length) for length in reversed(shape)))
    return [
        Device(index * math.prod(shape) + number, (x, y, z), slice_index=index)
        for number, (z, y, x) in enumerate(places)
    ]


def extent(devices: np.ndarray) -> tuple[int, ...]:
    """How many different x, y and z a group of devices has."""
    return tuple(len({device.coords[k] for device in devices.flat}) for k in range(3))


def test_submesh_gives_the_last_axis_whole_planes():
    placed = by_submesh(tpu_slice((4, 4, 8)), (1, 2, 4, 16), (4, 4, 1, 1))
    assert placed.shape == (1, 2, 4, 16)
    for group in placed.reshape(8, 16):
        assert extent(group) == (4, 4, 1)
    for ring in placed.reshape(8, 16).T:
        assert extent(ring) == (1, 1, 8)


@given(
    shape=st.tuples(*[st.sampled_from([2, 4, 8])] * 3),
    block=st.tuples(*[st.sampled_from([1, 2, 4])] * 3),
)
def test_submesh_blocks_are_blocks_and_hold_each_device_once(shape, block):
    chips = tpu_slice(shape)
    if any(length % part for length, part in zip(shape, block, strict=True)):
        with pytest.raises(PartitioningError, match="does not tile the slice"):
            by_submesh(chips, (-1, math.prod(block)), (*block, 1))
        return
    placed = by_submesh(chips, (-1, math.prod(block)), (*block, 1))
    assert sorted(placed.flat) == sorted(chips)
    for group in placed:
        assert extent(group) == block
        low = np.min([device.coords for device in group], axis=0)
        assert np.all(low % block == 0)


def test_cores_of_a_chip_are_the_fourth_dimension():
    chips = tpu_slice((2, 2, 1))
    cores = [Device(2 * chip.id + core, chip.coords, core) for chip in chips for core in range(2)]
    assert torus(cores).shape == (2, 2, 1, 2)
    pairs = by_submesh(cores, (4, 2), (1, 1, 1, 2))
    assert [[device.core_on_chip for device in pair] for pair in pairs] == [[0, 1]] * 4


def test_a_slice_with_a_hole():
    with pytest.raises(PartitioningError, match="do not fill the block"):
        torus(tpu_slice((2, 2, 2))[:-1])


@pytest.mark.parametrize(
    ("ici", "dcn"),
    [
        ((1, 1, 4, 2), (2, 1, 1, 1)),
        ((1, 2, 2, 2), (1, 2, 1, 1)),
        ((1, 1, 8, 1), (2, 1, 2, 1)),
        ((2, 1, 2, 2), (2, 2, 1, 1)),
    ],
)
def test_several_slices_as_jax_arranges_them(ici, dcn):
    chips = [chip for i in range(math.prod(dcn)) for chip in tpu_slice((2, 2, 2), i)]
    ours = arrange(slices(chips), ici, dcn)
    theirs = mesh_utils.create_hybrid_device_mesh(ici, dcn, chips)
    assert (ours == theirs).all()


def test_replica_is_the_slice():
    chips = [*tpu_slice((2, 2, 2), 1), *tpu_slice((2, 2, 2), 0)]
    partitioner = PjitPartitioner(replica=-1, data=1, fsdp=-1, tensor=2)
    mesh = partitioner.make_mesh(chips)
    assert dict(mesh.shape) == {"replica": 2, "data": 1, "fsdp": 4, "tensor": 2}
    for index, copy in enumerate(mesh.devices):
        assert {device.slice_index for device in copy.flat} == {index}
    with pytest.raises(PartitioningError, match="in 2 slices"):
        PjitPartitioner().make_mesh(chips)


def test_processes_of_cpus_play_slices():
    chips = tpu_slice((2, 2, 1))
    for number, chip in enumerate(chips):
        object.__setattr__(chip, "process_index", number // 2)
        object.__setattr__(chip, "slice_index", None)
        object.__setattr__(chip, "platform", "cpu")
        object.__setattr__(chip, "device_kind", "cpu")
    mesh = PjitPartitioner(replica=-1, data=1, fsdp=-1).make_mesh(chips)
    assert dict(mesh.shape) == {"replica": 2, "data": 1, "fsdp": 2, "tensor": 1}
    assert [[d.process_index for d in copy.flat] for copy in mesh.devices] == [[0, 0], [1, 1]]
    # Otherwise all devices are of one kind, and any axis may cross processes.
    assert PjitPartitioner(data=1, fsdp=-1).make_mesh(chips).shape["fsdp"] == 4


def test_sizes_that_no_torus_axis_has_split_one():
    """JAX's own `make_mesh` refuses this mesh of PaLM 540B on v4:8x8x8."""
    mesh = PjitPartitioner(data=1, fsdp=32, tensor=16).make_mesh(tpu_slice((8, 8, 8)))
    assert extent(mesh.devices[0, 0, 0]) == (8, 2, 1)


def test_slices_of_two_sizes():
    chips = [*tpu_slice((2, 2, 2), 0), *tpu_slice((2, 2, 1), 1)]
    with pytest.raises(PartitioningError, match=r"slices of \[4, 8\] devices"):
        arrange(slices(chips), (1, 1, 4, 2), (2, 1, 1, 1))
