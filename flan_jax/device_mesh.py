"""Which device stands where in a mesh: slices over the data-centre network, chips on the torus.

The logical mesh is the same whatever this says; how fast its collectives are is not. A TPU slice is
a torus of two or three dimensions, and a group of devices that fills whole dimensions of it can use
all their links, while one that fills half a dimension has no ring of its own. Slices are joined by
a network tens of times slower than the torus, which only the outermost parallelism can bear.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.experimental import mesh_utils

from flan_jax.errors import UserError

Submesh = tuple[int, int, int, int]


class PartitioningError(UserError, ValueError):
    """The mesh does not fit the devices, the model or the batch, or a rule is missing."""


def slices(devices: Sequence[Any], *, by_process: bool = False) -> list[list[Any]]:
    """Devices by slice, in the order of slices; a slice has one torus (or NVLink domain).

    Args:
      devices: of all processes.
      by_process: whether devices that do not know their slice, as those of CPUs, are grouped by
        process: several processes then play several slices.
    """
    groups: dict[int, list[Any]] = defaultdict(list)
    for device in devices:
        index = getattr(device, "slice_index", None)
        if index is None:
            index = device.process_index if by_process else 0
        groups[index].append(device)
    return [groups[index] for index in sorted(groups)]


def arrange(
    groups: Sequence[Sequence[Any]],
    ici_shape: Sequence[int],
    dcn_shape: Sequence[int],
    submesh: Submesh | None = None,
) -> np.ndarray:
    """Devices in the shape of the logical mesh, dcn_shape * ici_shape (axis by axis).

    Args:
      groups: the devices of each slice.
      ici_shape: sizes of the mesh axes within a slice, the busiest axis last.
      dcn_shape: sizes of the mesh axes across slices: along an axis, slices vary slowest.
      submesh: the block (x, y, z, cores) of the torus that the last axis takes; see `by_submesh`.

    Raises:
      PartitioningError: slices of different sizes, or sizes that do not fit them.
    """
    sizes = sorted({len(group) for group in groups})
    if len(sizes) > 1:
        raise PartitioningError(f"slices must be of one size, found slices of {sizes} devices.")
    if math.prod(dcn_shape) != len(groups) or math.prod(ici_shape) != sizes[0]:
        raise PartitioningError(
            f"a mesh of {tuple(ici_shape)} in a slice and {tuple(dcn_shape)} across slices does"
            f" not fit {len(groups)} slice(s) of {sizes[0]} devices: the sizes must multiply to"
            " those."
        )
    blocks = [_within_slice(group, ici_shape, submesh) for group in groups]
    grid = np.stack(blocks).reshape(*dcn_shape, *ici_shape)
    axes = len(ici_shape)
    order = [k for axis in range(axes) for k in (axis, axes + axis)]
    shape = [across * within for across, within in zip(dcn_shape, ici_shape, strict=True)]
    return grid.transpose(order).reshape(shape)


def _within_slice(
    devices: Sequence[Any], shape: Sequence[int], submesh: Submesh | None
) -> np.ndarray:
    if submesh is not None and hasattr(devices[0], "coords"):
        return by_submesh(devices, shape, submesh)
    try:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    except NotImplementedError as error:
        raise PartitioningError(
            f"a mesh of {tuple(shape)} cannot be laid on the torus {torus(devices).shape} (x, y,"
            " z, cores): choose sizes that multiply from its factors, or the block of the last"
            " axis by partitioning.PjitPartitioner.model_parallel_submesh."
        ) from error


def by_submesh(devices: Sequence[Any], shape: Sequence[int], submesh: Submesh) -> np.ndarray:
    """Devices of a TPU slice such that the last axis fills blocks of the torus.

    T5X's `model_parallel_submesh`: on a 4x4x32 torus, (4, 4, 1, 1) gives a last axis of 16 the
    whole 4x4 planes, whose four links per chip its all-reduces can then all use, and leaves the
    rings of 32 to the other axes.

    Args:
      devices: of one slice, with `coords` and `core_on_chip`.
      shape: sizes of the mesh axes; the last is the product of `submesh`.
      submesh: (x, y, z, cores) of a block.

    Raises:
      PartitioningError: if blocks do not tile the torus.
    """
    grid = torus(devices)
    if any(length % block for length, block in zip(grid.shape, submesh, strict=True)):
        raise PartitioningError(
            f"model_parallel_submesh={submesh} does not tile the slice, which is {grid.shape}"
            " (x, y, z, cores): each number must divide the one of the slice."
        )
    split = [
        n for pair in zip(grid.shape, submesh, strict=True) for n in (pair[0] // pair[1], pair[1])
    ]
    tiled = grid.reshape(split).transpose([*range(0, 8, 2), *range(1, 8, 2)])
    return tiled.reshape(shape)


def torus(devices: Sequence[Any]) -> np.ndarray:
    """The devices of a TPU slice by position: object array [x, y, z, cores].

    Raises:
      PartitioningError: if the devices do not fill a block.
    """
    positions = np.array([(*device.coords, device.core_on_chip) for device in devices])
    positions -= positions.min(axis=0)
    grid = np.full(positions.max(axis=0) + 1, None, dtype=object)
    for position, device in zip(positions, devices, strict=True):
        grid[tuple(position)] = device
    if len(devices) != grid.size or any(device is None for device in grid.flat):
        raise PartitioningError(
            f"{len(devices)} devices do not fill the block {grid.shape} (x, y, z, cores) that they"
            " span."
        )
    return grid
