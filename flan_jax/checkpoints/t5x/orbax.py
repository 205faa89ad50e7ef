"""T5X's present format: the item `state` of a folder `checkpoint_<step>`, written by Orbax."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flan_jax.checkpoints import remote
from flan_jax.checkpoints.orbax_arrays import COMMIT_FILE, OrbaxReader, OrbaxWriter
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo

STATE = "state"
_CHECKPOINT_METADATA = "_CHECKPOINT_METADATA"
_HANDLER = "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler"


def open_orbax(path: str | Path) -> OrbaxReader:
    """Opens a checkpoint that T5X wrote through Orbax; names are those of its train state.

    Raises:
      CheckpointError: its list of arrays is missing or damaged, or an array is missing.
    """
    return OrbaxReader(remote.join(path, STATE), str(path))


class T5XOrbaxWriter:
    """Writes a checkpoint that T5X restores through Orbax: a `TensorWriter`.

    Args:
      folder: is made; to be called `checkpoint_<step>` in the end.
      infos: all tensors by T5X's names.
      stacked_axes: of tensors that will be written slice by slice, the axis of the slices.

    Raises:
      CheckpointError: the folder cannot be written to.
    """

    def __init__(
        self,
        folder: str | Path,
        infos: Mapping[str, TensorInfo],
        stacked_axes: Mapping[str, int] | None = None,
    ):
        self._folder = Path(remote.absolute(folder))
        self._arrays = OrbaxWriter(self._folder / STATE, infos, stacked_axes)

    def write(self, name: str, value: np.ndarray, index: int | None = None, axis: int = 0) -> None:
        """See `TensorWriter`."""
        self._arrays.write(name, value, index, axis)

    def close(self) -> None:
        """Writes what names the arrays and marks the checkpoint as whole."""
        self._arrays.close()
        metadata = {
            "item_handlers": {STATE: _HANDLER},
            "metrics": {},
            "performance_metrics": {},
            "init_timestamp_nsecs": None,
            "commit_timestamp_nsecs": None,
            "custom_metadata": {},
        }
        try:
            (self._folder / _CHECKPOINT_METADATA).write_text(json.dumps(metadata))
            (self._folder / COMMIT_FILE).write_text("Written by flan-jax convert\n")
        except OSError as error:
            raise CheckpointError(f"{self._folder} cannot be written: {error.strerror}") from error
