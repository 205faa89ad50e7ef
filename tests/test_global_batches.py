"""Which rows a process reads, and what becomes of them."""

from __future__ import annotations

from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from flan_jax.global_batches import global_batch, process_rows, process_share
from flan_jax.sharding import PjitPartitioner


class OfProcess(NamedSharding):
    """A sharding seen from a process that has some of the devices of this one."""

    parts: list[int]
    count: int

    def addressable_devices_indices_map(self, global_shape):  # type: ignore[override]
        size = global_shape[0] // self.count
        return {part: (slice(part * size, (part + 1) * size),) for part in self.parts}


def seen_from(parts: list[int], count: int) -> OfProcess:
    mesh = jax.sharding.AbstractMesh((1, count, 1, 1), ("replica", "data", "fsdp", "tensor"))
    sharding = OfProcess(mesh, PartitionSpec(("replica", "data", "fsdp")))
    object.__setattr__(sharding, "parts", parts)
    object.__setattr__(sharding, "count", count)
    return sharding


@pytest.mark.parametrize(
    ("parts", "rows"),
    [
        ([0], [0, 1]),
        ([2, 3], [4, 5, 6, 7]),
        ([0, 2], [0, 1, 4, 5]),  # as a torus has it
        ([3, 3, 3, 3], [6, 7]),  # four devices that split `tensor`
    ],
)
def test_rows_are_those_of_the_process_s_devices(parts, rows):
    sharding = seen_from(parts, 4)
    assert process_rows(sharding, 8).tolist() == rows
    assert process_share(sharding) == Fraction(len(rows), 8)


def test_one_process_has_all_rows():
    partitioner = PjitPartitioner(data=1)
    sharding = partitioner.batch_sharding(partitioner.make_mesh(jax.devices()[:1]))
    assert process_rows(sharding, 6).tolist() == list(range(6))
    assert process_share(sharding) == 1
    batch = {"ids": np.arange(12).reshape(6, 2), "weights": np.ones(6, np.float32)}
    placed = global_batch(batch, sharding)
    for name, array in batch.items():
        np.testing.assert_array_equal(placed[name], array)
        assert placed[name].sharding == sharding


@given(st.data())
def test_local_rows_land_where_they_belong(data):
    """What the callback cuts out of a process's rows are the rows of the global batch."""
    count = data.draw(st.integers(1, 6))
    parts = data.draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True))
    sharding = seen_from(parts, count)
    rows = np.arange(count * 3)
    mine = process_rows(sharding, len(rows))
    asked = []

    def make_array(shape, target, callback):
        del target
        assert shape == rows.shape
        asked.extend(sharding.addressable_devices_indices_map(shape).values())
        for index in sharding.addressable_devices_indices_map(shape).values():
            np.testing.assert_array_equal(callback(index), rows[index])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flan_jax.global_batches.jax.make_array_from_callback", make_array)
        global_batch({"rows": rows[mine]}, sharding)
    assert len(asked) == len(parts)
