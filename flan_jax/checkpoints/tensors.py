"""What all checkpoint formats share: tensors by name, read and written one at a time.

A format offers a `TensorReader` and a `TensorWriter`, and a *layout*: where each tensor of ours, or
each layer of it, lies among its tensors. Loading and converting are loops over a layout, so a model
passes through memory a tensor at a time, and no format knows another.

Names of ours are those of a saved `TrainState`: `params/encoder/layers/mlp/wo/kernel`, `step`,
`opt_state/v_row/encoder/...`; layers are stacked along axis 0 (names with `/layers/`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from flan_jax.errors import UserError


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or does not fit the model."""


class TensorInfo(NamedTuple):
    """What a tensor's header says."""

    shape: tuple[int, ...]
    dtype: np.dtype


class TensorReader(Protocol):
    """An opened checkpoint: headers are known, data is read when asked for.

    Attributes:
      path: of the checkpoint, for messages.
      infos: its tensors by their names there.
    """

    path: str
    infos: Mapping[str, TensorInfo]

    def read(self, name: str, index: int | None = None, axis: int = 0) -> np.ndarray:
        """A tensor, or its slice `index` along `axis` (that dimension is dropped).

        Raises:
          CheckpointError: the data is missing, truncated or unreadable.
        """
        ...

    def close(self) -> None:
        """Frees files and maps."""
        ...


class TensorWriter(Protocol):
    """A checkpoint being written in a folder of its own, which the caller moves into place."""

    def write(self, name: str, value: np.ndarray, index: int | None = None, axis: int = 0) -> None:
        """A tensor, or its slice `index` along `axis`, as declared when the writer was made.

        Raises:
          CheckpointError: the data cannot be written (a full disk).
        """
        ...

    def close(self) -> None:
        """Finishes the files. Everything declared must have been written."""
        ...


@dataclass(frozen=True)
class Part:
    """Where one tensor of ours, or one layer of it, lies in another format.

    Attributes:
      ours: name of our tensor.
      shape: its shape, of the one layer if `layer` is given.
      layer: index along our leading axis; None for a tensor that is not stacked.
      theirs: name of their tensor.
      their_shape: its shape, of the one slice if `their_index` is given.
      their_index, their_axis: the slice of their tensor that it is, if theirs is stacked.
      transpose: whether axes are in reverse order there; else values are only reshaped.
    """

    ours: str
    shape: tuple[int, ...]
    theirs: str
    their_shape: tuple[int, ...]
    layer: int | None = None
    their_index: int | None = None
    their_axis: int = 0
    transpose: bool = False

    def to_ours(self, value: np.ndarray) -> np.ndarray:
        """Our array from theirs; the dtype stays."""
        return value.T if self.transpose else value.reshape(self.shape)

    def to_theirs(self, value: np.ndarray) -> np.ndarray:
        """Their array from ours; the dtype stays."""
        return value.T if self.transpose else value.reshape(self.their_shape)


Layout = Sequence[Part]
