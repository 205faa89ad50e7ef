"""Arrays in Orbax's format (OCDBT or one Zarr folder each), read and written a piece at a time.

Orbax itself takes and gives whole trees. What it writes is simple, though: a JSON file `_METADATA`
that names the arrays, and Zarr arrays in TensorStore's OCDBT store. Reading and writing these by
TensorStore keeps one piece of one array in memory, and Orbax restores the result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from flan_jax.checkpoints import remote
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo

_METADATA = "_METADATA"
_MANIFEST = "manifest.ocdbt"
COMMIT_FILE = "commit_success.txt"
CHUNK_BYTES = 32 << 20  # of what is written
_PIECE_BYTES = 64 << 20  # of what is read or written at a time
_DICT_KEY = 2  # Orbax's key_type of dictionaries
# As Orbax configures its stores: arrays' headers lie in the tree, data in files of their own.
_OCDBT_CONFIG = {
    "max_inline_value_bytes": 1024,
    "max_decoded_node_bytes": 100_000_000,
    "manifest_kind": "single",
}


class ZarrReader:
    """Opened Zarr arrays: a `TensorReader`.

    Args:
      path: of the checkpoint, for messages.
      stores: TensorStore's arrays by their names.

    Attributes:
      path: for messages.
      infos: shapes and dtypes by the arrays' names.
    """

    def __init__(self, path: str, stores: Mapping[str, Any]):
        self.path = path
        self._stores = dict(stores)
        self.infos: Mapping[str, TensorInfo] = {
            name: TensorInfo(tuple(store.shape), np.dtype(store.dtype.numpy_dtype))
            for name, store in stores.items()
        }
        # The slices of one array that lie in the same chunks are decoded together, once.
        self._block: tuple[str, int, int, np.ndarray] | None = None

    def read(self, name: str, index: int | None = None, axis: int = 0) -> np.ndarray:
        """See `TensorReader`. Slices are views of a block that is kept until another is read."""
        store = self._stores[name]
        if index is None:
            self._block = None
            return self._fetch(name, store)
        if self._block is not None:
            kept, kept_axis, start, block = self._block
            if (kept, kept_axis) == (name, axis) and start <= index < start + block.shape[axis]:
                return block.take(index - start, axis)
        self._block = None
        extent = store.chunk_layout.read_chunk.shape[axis] or 1
        start = index // extent * extent
        box = [slice(None)] * len(store.shape)
        box[axis] = slice(start, min(start + extent, store.shape[axis]))
        block = self._fetch(name, store[tuple(box)])
        if block.shape[axis] == 1:
            return block.squeeze(axis)
        self._block = (name, axis, start, block)
        return block.take(index - start, axis)

    def _fetch(self, name: str, store: Any) -> np.ndarray:
        store = store[tensorstore.d[:].translate_to[0]] if len(store.shape) else store
        out = np.empty(store.shape, store.dtype.numpy_dtype)
        try:
            for box in pieces(store.shape, _chunk_shape(store), out.itemsize):
                out[box] = store[box].read().result()
        except (ValueError, OSError) as error:
            raise CheckpointError(_damaged(self.path, name, error)) from error
        return out

    def close(self) -> None:
        """Frees what is held."""
        self._block = None
        self._stores.clear()


class OrbaxReader(ZarrReader):
    """A tree of arrays that Orbax wrote (or `OrbaxWriter`): a `TensorReader`.

    Names of the arrays are the keys of the tree joined by "/".

    Args:
      folder: with `_METADATA`; local or in a bucket.
      path: of the checkpoint, for messages; the folder by default.

    Raises:
      CheckpointError: there is no such tree, an array's header is missing or unreadable.
    """

    def __init__(self, folder: str | Path, path: str | None = None):
        place = remote.absolute(folder)
        shown = path or place
        super().__init__(shown, _open_arrays(place, shown, _tree_keys(place, shown)))


def _tree_keys(folder: str, path: str) -> dict[str, str]:
    """Keys in the store by the arrays' names."""
    text = remote.read_file(folder, _METADATA)
    if text is None:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {remote.join(folder, _METADATA)} is missing, the list"
            " of its arrays. It was not copied, or not saved, completely"
        )
    try:
        entries = json.loads(text)["tree_metadata"].values()
        paths = [
            [str(key["key"]) for key in entry["key_metadata"]]
            for entry in entries
            if entry["value_metadata"].get("value_type") != "None"
            and not entry["value_metadata"].get("skip_deserialize")
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {remote.join(folder, _METADATA)} is not Orbax's list of"
            f" arrays ({type(error).__name__}: {error})"
        ) from error
    return {"/".join(parts): ".".join(parts) for parts in paths}


def _open_arrays(folder: str, path: str, keys: Mapping[str, str]) -> dict[str, Any]:
    metadata = json.loads(remote.read_file(folder, _METADATA) or b"{}")
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    # Else chunks of zeros are left out, and one that was lost cannot be told from them.
    stores_all = bool(metadata.get("store_array_data_equal_to_fill_value"))
    base = remote.kvstore_spec(folder)
    ocdbt = remote.read_file(folder, _MANIFEST) is not None
    if not ocdbt and metadata.get("use_ocdbt"):
        raise CheckpointError(
            f"checkpoint {path} is damaged: {remote.join(folder, _MANIFEST)} is missing"
        )
    opened, context = {}, remote.ocdbt_context()
    for name, key in keys.items():
        store = (
            {"driver": "ocdbt", "base": base, "path": f"{key}/", "cache_pool": "cache_pool#ocdbt"}
            if ocdbt
            else {**base, "path": f"{base['path']}{key}/"}
        )
        spec = {"driver": driver, "kvstore": store, "fill_missing_data_reads": not stores_all}
        opened[name] = tensorstore.open(spec, open=True, read=True, context=context)
    arrays = {}
    for name, future in opened.items():
        try:
            arrays[name] = future.result(timeout=remote.TIMEOUT_S)
        except (ValueError, OSError) as error:
            raise CheckpointError(_damaged(path, name, error)) from error
    return arrays


def _damaged(path: str, name: str, error: BaseException) -> str:
    return (
        f"checkpoint {path} is damaged: the array {name} is missing or cannot be read. "
        f"{remote.unreadable(path, error)}"
    )


def _chunk_shape(store: Any) -> tuple[int, ...]:
    return tuple(store.chunk_layout.read_chunk.shape) if store.shape else ()


def pieces(
    shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int
) -> Iterator[tuple[slice, ...]]:
    """Boxes that cover an array, of whole chunks, each about `_PIECE_BYTES` or one chunk large."""
    extents, size = list(shape), math.prod(shape) * itemsize
    for dim, chunk in enumerate(chunks):
        if size <= _PIECE_BYTES:
            break
        rest = size // max(extents[dim], 1)
        rows = max(_PIECE_BYTES // max(rest, 1) // chunk, 1) * chunk
        extents[dim] = min(rows, extents[dim])
        size = rest * extents[dim]
    grid = [
        range(-(-full // extent)) if extent else range(0)
        for full, extent in zip(shape, extents, strict=True)
    ]
    for position in np.ndindex(*map(len, grid)):
        yield tuple(
            slice(i * extent, min((i + 1) * extent, full))
            for i, extent, full in zip(position, extents, shape, strict=True)
        )


def chunk_shape(shape: tuple[int, ...], itemsize: int, stacked_axis: int | None) -> tuple[int, ...]:
    """Chunks of at most `CHUNK_BYTES`, split along leading axes; slices of a stack are apart."""
    chunks = list(shape)
    if stacked_axis is not None:
        chunks[stacked_axis] = 1
    for dim in range(len(chunks)):
        while math.prod(chunks) * itemsize > CHUNK_BYTES and chunks[dim] > 1:
            chunks[dim] = -(-chunks[dim] // 2)
    return tuple(max(size, 1) for size in chunks)


class OrbaxWriter:
    """Writes a tree of arrays that Orbax restores: a `TensorWriter`.

    Args:
      folder: is made; local.
      infos: arrays by the keys of the tree joined by "/".
      stacked_axes: of arrays that will be written slice by slice, the axis of the slices.

    Raises:
      CheckpointError: the folder cannot be written to.
    """

    def __init__(
        self,
        folder: str | Path,
        infos: Mapping[str, TensorInfo],
        stacked_axes: Mapping[str, int] | None = None,
    ):
        self._folder, self._infos = remote.absolute(folder), dict(infos)
        self._written: dict[str, set[int | None]] = {}
        # A commit rewrites the store's whole index, so small pieces share one.
        self._batch, self._batch_bytes = tensorstore.Transaction(), 0
        self._stacked_axes = dict(stacked_axes or {})
        base, context = remote.kvstore_spec(folder), remote.ocdbt_context()
        self._chunks = {
            name: chunk_shape(info.shape, info.dtype.itemsize, self._stacked_axes.get(name))
            for name, info in self._infos.items()
        }
        try:
            Path(self._folder).mkdir(parents=True)
            stores = {
                name: tensorstore.open(
                    {
                        "driver": "zarr",
                        "kvstore": {
                            "driver": "ocdbt",
                            "base": base,
                            "config": _OCDBT_CONFIG,
                            "path": f"{name.replace('/', '.')}/",
                        },
                        "metadata": {
                            "shape": info.shape,
                            "chunks": self._chunks[name],
                            "dtype": _zarr_dtype(info.dtype),
                            "compressor": {"id": "zstd", "level": 1},
                        },
                        "store_data_equal_to_fill_value": True,
                    },
                    create=True,
                    context=context,
                )
                for name, info in self._infos.items()
            }
            self._stores = {name: store.result() for name, store in stores.items()}
        except (ValueError, OSError) as error:
            raise CheckpointError(remote.unwritable(self._folder, error)) from error

    def write(self, name: str, value: np.ndarray, index: int | None = None, axis: int = 0) -> None:
        """See `TensorWriter`."""
        store, chunks = self._stores[name], list(self._chunks[name])
        if index is not None:
            box: list[Any] = [slice(None)] * len(chunks)
            box[axis] = index
            store = store[tuple(box)]
            del chunks[axis]
        value, dtype = np.asarray(value), self._infos[name].dtype
        if tuple(value.shape) != tuple(store.shape):
            raise ValueError(f"{name}: {value.shape} given, {tuple(store.shape)} declared")
        try:
            for piece in pieces(value.shape, tuple(chunks), dtype.itemsize):
                part = np.asarray(value[piece], dtype)
                store.with_transaction(self._batch)[piece].write(part).result()
                self._batch_bytes += part.nbytes
                if self._batch_bytes >= _PIECE_BYTES:
                    self._commit()
        except (ValueError, OSError) as error:
            raise CheckpointError(remote.unwritable(self._folder, error)) from error
        self._written.setdefault(name, set()).add(index)

    def _commit(self) -> None:
        self._batch.commit_async().result()
        self._batch, self._batch_bytes = tensorstore.Transaction(), 0

    def close(self) -> None:
        """Writes the list of arrays. Raises ValueError if one was not written wholly."""
        unwritten = [name for name in self._infos if not self._is_written(name)]
        if unwritten:
            raise ValueError(f"{self._folder}: not written: {', '.join(unwritten)}")
        try:
            self._commit()
        except (ValueError, OSError) as error:
            raise CheckpointError(remote.unwritable(self._folder, error)) from error
        self._stores.clear()
        tree = {}
        for name in self._infos:
            parts = name.split("/")
            tree[str(tuple(parts))] = {
                "key_metadata": [{"key": part, "key_type": _DICT_KEY} for part in parts],
                "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
            }
        metadata = {
            "tree_metadata": tree,
            "use_ocdbt": True,
            "use_zarr3": False,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None,
        }
        try:
            (Path(self._folder) / _METADATA).write_text(json.dumps(metadata))
            (Path(self._folder) / COMMIT_FILE).write_text("Written by flan-jax convert\n")
        except OSError as error:
            raise CheckpointError(remote.unwritable(self._folder, error)) from error

    def _is_written(self, name: str) -> bool:
        written = self._written.get(name, set())
        axis = self._stacked_axes.get(name)
        slices = 0 if axis is None else self._infos[name].shape[axis]
        return None in written or 0 < slices == len(written)


def _zarr_dtype(dtype: np.dtype) -> str:
    """Zarr's name; extension types (bfloat16) have their own."""
    return dtype.name if dtype.kind == "V" else dtype.str
