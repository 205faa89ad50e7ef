"""Finding out which of T5X's formats a folder is in, and opening it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flan_jax.checkpoints import remote
from flan_jax.checkpoints.orbax_arrays import ZarrReader
from flan_jax.checkpoints.t5x.legacy import INDEX, LegacyReader, LegacyWriter
from flan_jax.checkpoints.t5x.orbax import STATE, T5XOrbaxWriter, open_orbax
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo

_METADATA = "_METADATA"
_PREFIX = "checkpoint_"


def t5x_format(path: str | Path) -> str | None:
    """`legacy` or `orbax` by a folder's files; None if it is no T5X checkpoint.

    A folder with an item `state` that Orbax wrote counts as T5X's; checkpoints of ours have one
    too, but an item `run` as well.

    Raises:
      CheckpointError: the folder cannot be read.
    """
    if remote.read_file(path, INDEX) is not None:
        return "legacy"
    state = remote.join(path, STATE)
    return "orbax" if remote.read_file(state, _METADATA) is not None else None


def open_t5x(path: str | Path) -> ZarrReader:
    """Opens a T5X checkpoint of either format.

    Names are T5X's: `target/…`, `state/param_states/…/v_row`, `state/step`.

    Args:
      path: a folder `checkpoint_<step>`; local or gs://.

    Raises:
      CheckpointError: it is none (perhaps a folder of checkpoints), damaged, or unreadable.
    """
    kind = t5x_format(path)
    if kind is None:
        raise CheckpointError(_not_a_checkpoint(path))
    if kind == "legacy":
        return LegacyReader(path)
    return open_orbax(path)


def create_t5x_legacy(folder: str | Path, infos: Mapping[str, TensorInfo]) -> LegacyWriter:
    """A writer of T5X's legacy format; see `LegacyWriter`.

    Args:
      folder: is made; to be called `checkpoint_<step>` in the end.
      infos: all tensors by T5X's names (`layout_infos`).
    """
    return LegacyWriter(folder, infos)


def create_t5x_orbax(
    folder: str | Path,
    infos: Mapping[str, TensorInfo],
    stacked_axes: Mapping[str, int] | None = None,
) -> T5XOrbaxWriter:
    """A writer of what T5X restores through Orbax; see `T5XOrbaxWriter`.

    Args:
      folder: is made; to be called `checkpoint_<step>` in the end.
      infos: all tensors by T5X's names (`layout_infos`).
      stacked_axes: of tensors that will be written slice by slice, the axis of the slices.
    """
    return T5XOrbaxWriter(folder, infos, stacked_axes)


def _not_a_checkpoint(path: str | Path) -> str:
    names = remote.list_folder(path)
    if not names:
        return f"{path} does not exist or is empty: expected a folder {_PREFIX}<step>"
    steps = [name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX)]
    newest = max((int(step) for step in steps if step.isdigit()), default=None)
    if newest is not None:
        return (
            f"{path} holds checkpoints but is none itself: give one of them, such as the newest,"
            f" {remote.join(path, f'{_PREFIX}{newest}')}"
        )
    if STATE in names:
        return (
            f"{path} is damaged: {remote.join(path, STATE, _METADATA)} is missing; it was not"
            " copied, or not saved, completely"
        )
    return (
        f"{path} is no T5X checkpoint: expected a file '{INDEX}' (legacy format) or a folder"
        f" '{STATE}' (Orbax), found {', '.join(names[:10])}"
    )
