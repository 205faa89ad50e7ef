"""Each parameter's shape, logical axes, place on the mesh and bytes; compiles nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from flan_jax.plan.steps import PlannedRun, bytes_per_device
from flan_jax.sharding import named_leaves
from flan_jax.train.setup import abstract_train_state, train_state_axes

COLUMNS = ("name", "shape", "dtype", "logical axes", "mesh axes", "MiB a device")
_OPTIMIZER = "optimizer/"


@dataclass(frozen=True)
class Placed:
    """An array of the train state.

    Attributes:
      name: as checkpoints have it; the optimizer's begin with "optimizer/".
      shape, dtype: of the whole array.
      logical_axes: a name for each dimension, None where it has none.
      spec: the mesh axes that each dimension is split over.
      bytes_per_device: what one device holds.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    logical_axes: tuple[str | None, ...]
    spec: tuple[tuple[str, ...] | str | None, ...]
    bytes_per_device: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """The row of a table."""
        return (
            self.name,
            " × ".join(map(str, self.shape)) or "scalar",
            self.dtype,
            ", ".join(name or "-" for name in self.logical_axes) or "-",
            ", ".join(_shown(axes) for axes in self.spec) or "-",
            f"{self.bytes_per_device / 2**20:,.3f}",
        )


def place(run: PlannedRun, mesh: Mesh | AbstractMesh) -> list[Placed]:
    """All parameters, then all arrays of the optimizer.

    Raises:
      UserError: the mesh does not fit the model.
    """
    _, state = abstract_train_state(run.model, run.trainer, run.partitioner, mesh)
    _, _, axes = train_state_axes(run.model, run.trainer)
    return [
        *_placed("", state.params, axes.params),
        *_placed(_OPTIMIZER, state.opt_state, axes.opt_state),
    ]


def totals(placed: Iterable[Placed]) -> dict[str, int]:
    """Bytes a device of the parameters and of the optimizer's arrays."""
    sums = {"parameters": 0, "optimizer": 0}
    for array in placed:
        part = "optimizer" if array.name.startswith(_OPTIMIZER) else "parameters"
        sums[part] += array.bytes_per_device
    return sums


def _placed(prefix: str, shapes: Any, axes: Any) -> list[Placed]:
    leaves = named_leaves(shapes)
    return [
        Placed(
            prefix + name,
            tuple(leaf.shape),
            str(leaf.dtype),
            tuple(names),
            (*leaf.sharding.spec, *(None,) * (leaf.ndim - len(leaf.sharding.spec))),
            bytes_per_device(leaf),
        )
        for (name, leaf), names in zip(leaves.items(), jax.tree.leaves(axes), strict=True)
    ]


def _shown(axes: tuple[str, ...] | str | None) -> str:
    if axes is None:
        return "-"
    return axes if isinstance(axes, str) else "(" + ", ".join(axes) + ")"
