"""Lays out host arrays over a mesh: each process holds what its own devices get, and one piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

Read = Callable[[], np.ndarray]
Index = tuple[slice, ...]


def place(
    leaf: jax.ShapeDtypeStruct,
    pieces: Sequence[Read | None],
    stacked: bool,
    fresh: jax.Array | None = None,
) -> jax.Array:
    """An array of the shape, dtype and sharding of `leaf`.

    Args:
      leaf: what to make.
      pieces: one function that reads it whole; if `stacked`, one a layer, in order. None: what
        `fresh` has, or zeros.
      stacked: whether the pieces lie along a new first axis.
      fresh: like `leaf`.

    Returns:
      The array. On the host it takes the memory of this process's shards and of one piece.
    """
    sharding: Any = leaf.sharding
    indices: dict[Any, Index] = sharding.addressable_devices_indices_map(leaf.shape)
    shards = {_key(index, leaf.shape): index for index in indices.values()}
    buffers = {
        each: _begin(leaf, index, fresh, complete=all(pieces)) for each, index in shards.items()
    }
    for position, read in enumerate(pieces):
        if read is None:
            continue
        if stacked and not any(_has_layer(index, position, leaf) for index in shards.values()):
            continue
        value = read()
        for each, index in shards.items():
            if not stacked:
                buffers[each][...] = value[index]
            elif _has_layer(index, position, leaf):
                start = index[0].indices(leaf.shape[0])[0]
                buffers[each][position - start] = value[tuple(index[1:])]
        del value
    arrays = [
        jax.device_put(buffers[_key(index, leaf.shape)], device)
        for device, index in indices.items()
    ]
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, arrays)


def _key(index: Index, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """The same for slices that are the same."""
    return tuple(each.indices(size)[:2] for each, size in zip(index, shape, strict=True))


def _has_layer(index: Index, layer: int, leaf: Any) -> bool:
    start, stop, _ = index[0].indices(leaf.shape[0])
    return start <= layer < stop


def _begin(
    leaf: jax.ShapeDtypeStruct,
    index: Index,
    fresh: jax.Array | None,
    complete: bool,
) -> np.ndarray:
    """A shard's values before any piece is read."""
    shape = leaf.sharding.shard_shape(leaf.shape)  # pyright: ignore[reportOptionalMemberAccess]
    if complete or fresh is None:
        return np.empty(shape, leaf.dtype) if complete else np.zeros(shape, leaf.dtype)
    wanted = _key(index, leaf.shape)
    return next(
        np.array(shard.data)
        for shard in fresh.addressable_shards
        if _key(shard.index, leaf.shape) == wanted
    )
