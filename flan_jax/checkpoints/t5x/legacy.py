"""T5X's legacy format: a msgpack index, `checkpoint`, and a folder of zarr chunks an array.

Leaves of the index are arrays, or TensorStore specs of zarr arrays beside it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from flax import serialization

from flan_jax.checkpoints import remote
from flan_jax.checkpoints.orbax_arrays import ZarrReader, pieces
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo

INDEX = "checkpoint"
VERSION = 3
_CHUNK_BYTES = 64 << 20  # T5X's
_PARAMETERS = "target/"
_MAX_IN_FLIGHT = 4  # pieces being written: gzip is slow, and each takes one thread


class LegacyReader(ZarrReader):
    """A legacy checkpoint: a `TensorReader`.

    Args:
      folder: `checkpoint_<step>`; local or in a bucket.

    Attributes:
      infos: tensors by T5X's names: `target/…`, `state/param_states/…/v_row`, `state/step`.

    Raises:
      CheckpointError: its index is damaged or of another version, or an array is missing or is
        not what the index says.
    """

    def __init__(self, folder: str | Path):
        path = remote.absolute(folder)
        leaves = _flatten(_read_index(path))
        specs = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, Mapping)}
        super().__init__(path, _open_arrays(path, specs))
        self._inline = {name: leaf for name, leaf in leaves.items() if name not in specs}
        inline = {name: TensorInfo(x.shape, x.dtype) for name, x in self._inline.items()}
        self.infos = {**self.infos, **inline}

    def read(self, name: str, index: int | None = None, axis: int = 0) -> np.ndarray:
        """See `TensorReader`."""
        if name not in self._inline:
            return super().read(name, index, axis)
        value = self._inline[name]
        return value if index is None else value.take(index, axis)


def _read_index(path: str) -> Mapping[str, Any]:
    file = remote.join(path, INDEX)
    text = remote.read_file(path, INDEX)
    if text is None:
        raise CheckpointError(f"{file} not found: it is the index of a legacy T5X checkpoint")
    try:
        index: Any = serialization.msgpack_restore(text)
    except Exception as error:  # msgpack and flax raise many kinds for a damaged file
        raise CheckpointError(
            f"{file} is truncated or damaged ({len(text)} bytes, {type(error).__name__}: {error}):"
            " copy it again"
        ) from error
    if not isinstance(index, Mapping) or not isinstance(index.get("optimizer"), Mapping):
        raise CheckpointError(f"{file} is no index of a T5X checkpoint: it has no 'optimizer'")
    if index.get("version") != VERSION:
        raise CheckpointError(
            f"{file}: format version {index.get('version')!r}, known is {VERSION} (T5X's since June"
            " 2021); let a current T5X restore and save it"
        )
    return index["optimizer"]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Arrays and specs by their names; None, which stands for no state, is left out."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and "driver" not in value:
            flat.update(_flatten(value, f"{name}/"))
        elif isinstance(value, Mapping):
            flat[name] = value
        elif value is not None:
            flat[name] = np.asarray(value)
    return flat


def _open_arrays(path: str, specs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Opens all arrays at once; their headers must be what the index says."""
    pending = {
        name: tensorstore.open(
            _spec(path, name, spec), open=True, read=True, context=remote.context()
        )
        for name, spec in specs.items()
    }
    opened = {}
    for name, future in pending.items():
        recorded = specs[name]
        try:
            opened[name] = remote.wait(future, path)
        except CheckpointError as error:
            raise CheckpointError(f"{path} is damaged: the array of {name}: {error}") from error
        shape = tuple(recorded.get("metadata", {}).get("shape", opened[name].shape))
        said = shape, recorded.get("dtype", opened[name].dtype.name)
        found = tuple(opened[name].shape), opened[name].dtype.name
        if said != found:
            raise CheckpointError(
                f"{path} is damaged: {name} is {_show(*found)} in its array, {_show(*said)} in the"
                f" file {INDEX}: they do not belong together"
            )
    return opened


def _show(shape: tuple[int, ...], dtype: str) -> str:
    return f"{dtype} {shape}"


def _spec(path: str, name: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of an array beside the index.

    Only the last part of the recorded path counts: it may be relative, or lie in the bucket
    ('t5x-dummy-bucket') and folder that the checkpoint was written to.
    """
    if recorded.get("driver") != "zarr":
        raise CheckpointError(
            f"{path}: {name} is stored by TensorStore's driver {recorded.get('driver')!r}, T5X"
            " writes 'zarr'"
        )
    kvstore = recorded.get("kvstore")
    where = str((kvstore.get("path") if isinstance(kvstore, Mapping) else "") or "")
    where = where or str(recorded.get("path") or "")
    place = remote.join(path, where.rstrip("/").rpartition("/")[2])
    if not where or not (remote.is_remote(path) or Path(place).is_dir()):
        raise CheckpointError(
            f"{remote.join(path, INDEX)} refers to {where!r}, but {place} does not exist: the"
            " checkpoint was not copied completely"
        )
    return {
        "driver": "zarr",
        "kvstore": remote.kvstore_spec(place),
        # T5X leaves chunks of zeros out. The optimizer's state has such; a parameter's chunk that
        # is not there was lost.
        "fill_missing_data_reads": not name.startswith(_PARAMETERS),
    }


def chunk_shape(shape: tuple[int, ...], itemsize: int, stacked_axis: int | None) -> tuple[int, ...]:
    """Chunks as T5X chooses them: of at most 64 MiB, dividing the shape, the largest dimension cut
    first. Arrays larger than that whose slices are written one by one have them in chunks apart.
    """
    chunks = list(shape)
    target = _CHUNK_BYTES // itemsize
    if stacked_axis is not None and math.prod(shape) > target:
        chunks[stacked_axis] = 1
    while math.prod(chunks) > target:
        dim = chunks.index(max(chunks))
        chunks[dim] = next(n for n in range(chunks[dim] - 1, 0, -1) if shape[dim] % n == 0)
    return tuple(chunks)


def is_inline(name: str, infos: Mapping[str, TensorInfo]) -> bool:
    """Whether T5X keeps a tensor in the index: what has no logical axes, thus is not partitioned.

    These are the step, factored second moments, and the placeholders of slots not used; other
    slots have their parameter's shape and axes.
    """
    if name.startswith(_PARAMETERS):
        return False
    parameter = name.removeprefix("state/param_states/").rpartition("/")[0]
    target = infos.get(_PARAMETERS + parameter)
    slot = name.rpartition("/")[2]
    return target is None or slot not in ("v", "m") or infos[name].shape != target.shape


class LegacyWriter:
    """Writes a legacy checkpoint: a `TensorWriter`.

    Slices of an array of up to 64 MiB are gathered and written together, larger ones as they come.

    Args:
      folder: is made; local.
      infos: all tensors by T5X's names.

    Raises:
      CheckpointError: the folder cannot be written to.
    """

    def __init__(self, folder: str | Path, infos: Mapping[str, TensorInfo]):
        self._folder = Path(remote.absolute(folder))
        self._infos = dict(infos)
        self._stores: dict[str, Any] = {}
        self._index: dict[str, Any] = {}
        self._gathered: dict[str, np.ndarray] = {}
        self._in_flight: deque[Any] = deque()
        self._missing: dict[str, set[int]] = {}  # slices, of tensors begun
        try:
            self._folder.mkdir(parents=True)
        except OSError as error:
            raise CheckpointError(remote.unwritable(self._folder, error)) from error

    def write(self, name: str, value: np.ndarray, index: int | None = None, axis: int = 0) -> None:
        """See `TensorWriter`."""
        info = self._infos[name]
        value = np.asarray(value, info.dtype)
        shape = info.shape if index is None else (*info.shape[:axis], *info.shape[axis + 1 :])
        if value.shape != shape:
            raise ValueError(f"{name}: {value.shape} given, {shape} declared")
        missing = self._missing.setdefault(
            name, set() if index is None else set(range(info.shape[axis]))
        )
        box: tuple[Any, ...] = () if index is None else (slice(None),) * axis + (index,)
        if index is not None:
            missing.discard(index)
        if is_inline(name, self._infos):
            self._index.setdefault(name, np.zeros(info.shape, info.dtype))[(*box, ...)] = value
        elif index is not None and info.dtype.itemsize * math.prod(info.shape) <= _CHUNK_BYTES:
            whole = self._gathered.setdefault(name, np.empty(info.shape, info.dtype))
            whole[(*box, ...)] = value
            if not missing:
                self._write_chunks(name, self._gathered.pop(name), None, 0)
        else:
            self._write_chunks(name, value, index, axis)

    def close(self) -> None:
        """Writes the index. Raises ValueError if something was not written wholly."""
        unwritten = [name for name in self._infos if self._missing.get(name) != set()]
        if unwritten:
            raise ValueError(f"{self._folder}: not written: {', '.join(unwritten)}")
        optimizer: dict[str, Any] = {}
        for name, leaf in sorted(self._index.items()):
            *parents, last = name.split("/")
            node = optimizer
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = leaf
        document = {"version": VERSION, "optimizer": optimizer}
        try:
            self._wait(0)
            text = serialization.msgpack_serialize(document, in_place=True)
            (self._folder / INDEX).write_bytes(text)
        except (ValueError, OSError) as error:
            raise CheckpointError(remote.unwritable(self._folder, error)) from error

    def _write_chunks(self, name: str, value: np.ndarray, index: int | None, axis: int) -> None:
        """Writes a tensor or its slice, some chunks at a time."""
        if name not in self._stores:
            self._stores[name] = self._create(name, None if index is None else axis)
        store = self._stores[name]
        chunks = list(store.chunk_layout.write_chunk.shape) if store.shape else []
        if index is not None:
            store = store[(slice(None),) * axis + (index,)]
            del chunks[axis]
        try:
            for piece in pieces(value.shape, tuple(chunks), value.itemsize):
                self._in_flight.append(store[piece].write(value[piece]))
                self._in_flight[-1].copy.result()  # the value may change from here on
                self._wait(_MAX_IN_FLIGHT)
        except (ValueError, OSError) as error:
            raise CheckpointError(remote.unwritable(self._folder, error)) from error

    def _wait(self, left: int) -> None:
        """Until at most `left` writes are still being compressed and stored."""
        while len(self._in_flight) > left:
            self._in_flight.popleft().result()

    def _create(self, name: str, stacked_axis: int | None) -> Any:
        info, place = self._infos[name], name.replace("/", ".")
        spec = {
            "driver": "zarr",
            "dtype": info.dtype.name,
            "kvstore": {"driver": "file", "path": f"{place}/"},
            "metadata": {
                "chunks": list(chunk_shape(info.shape, info.dtype.itemsize, stacked_axis)),
                "compressor": {"id": "gzip", "level": 1},
                "shape": list(info.shape),
            },
        }
        self._index[name] = spec
        kvstore = remote.kvstore_spec(self._folder / place)
        future = tensorstore.open(
            {**spec, "kvstore": kvstore, "store_data_equal_to_fill_value": True},
            create=True,
            context=remote.context(),
        )
        try:
            return future.result()
        except (ValueError, OSError) as error:
            raise CheckpointError(remote.unwritable(self._folder, error)) from error
