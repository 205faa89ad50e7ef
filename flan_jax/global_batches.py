"""Batches that several processes make together: who reads which rows, one array out of all parts.

With `batch` split over (replica, data, fsdp), a process reads the rows that its devices hold.
Processes that hold different parts of `tensor` for the same rows read the same ones, and on a torus
the rows of one process need not follow each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import jax
import numpy as np
from jax.sharding import NamedSharding

from flan_jax.sharding import as_tuple


def process_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Which rows of a global batch this process has on its devices: Int[Array, "rows"], ascending.

    Args:
      sharding: `PjitPartitioner.batch_sharding`.
      batch_size: rows of all processes together; divisible by the parts of the batch.
    """
    held = np.zeros(batch_size, bool)
    for index in sharding.addressable_devices_indices_map((batch_size,)).values():
        assert index is not None
        held[index[0]] = True
    return np.flatnonzero(held)


def process_share(sharding: NamedSharding) -> Fraction:
    """The part of a global batch's rows that this process has; the parts may sum to over 1."""
    parts = math.prod(sharding.mesh.shape[axis] for axis in as_tuple(sharding.spec[0]))
    return Fraction(len(process_rows(sharding, parts)), parts)


def global_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Global arrays [batch, …] out of each process's rows [rows, …], those of `process_rows`."""
    rows = len(next(iter(batch.values())))
    batch_size = int(rows / process_share(sharding))
    mine = process_rows(sharding, batch_size)

    def assemble(local: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(batch_size)
            first = int(np.searchsorted(mine, start))
            return local[(slice(first, first + stop - start), *index[1:])]

        return jax.make_array_from_callback((batch_size, *local.shape[1:]), sharding, part)

    return {name: assemble(local) for name, local in batch.items()}
