"""The tensors of a Hugging Face folder: one file or several with an index, of either kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from flan_jax.checkpoints.hf.folder import Folder
from flan_jax.checkpoints.hf.hub import resolve
from flan_jax.checkpoints.hf.safetensors_files import SafetensorsReader
from flan_jax.checkpoints.hf.torch_bin import TorchReader
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo

# In transformers' order of preference.
_FILES = (
    ("model.safetensors", SafetensorsReader),
    ("pytorch_model.bin", TorchReader),
)


class _Shard(Protocol):
    @property
    def path(self) -> str: ...
    @property
    def infos(self) -> Mapping[str, TensorInfo]: ...

    def read(self, name: str, index: int | None = None, axis: int = 0) -> np.ndarray: ...
    def read_rows(self, name: str, start: int, stop: int | None) -> np.ndarray: ...
    def close(self) -> None: ...


class HfReader:
    """A `TensorReader` of a folder's tensors, wherever among its files they lie.

    Attributes:
      path: the folder.
      files: names of the files that hold the tensors.
      infos: tensors by name.
    """

    def __init__(self, path: str, shards: Mapping[str, _Shard]):
        self.path, self.files = path, tuple(shards)
        self._shard: dict[str, _Shard] = {}
        infos: dict[str, TensorInfo] = {}
        self.infos: Mapping[str, TensorInfo] = infos
        self._shards = shards
        for file, shard in shards.items():
            for name, info in shard.infos.items():
                if name in self.infos:
                    raise CheckpointError(
                        f"{path}: tensor {name} is both in {Path(self._shard[name].path).name}"
                        f" and in {file}. Remove the files of another save."
                    )
                infos[name], self._shard[name] = info, shard

    def read(self, name: str, index: int | None = None, axis: int = 0) -> np.ndarray:
        """A tensor, or its slice `index` along `axis`, in the dtype that the file has."""
        return self._of(name).read(name, index, axis)

    def read_rows(self, name: str, start: int, stop: int | None) -> np.ndarray:
        """Rows `start` up to `stop` (None: the last) along axis 0."""
        return self._of(name).read_rows(name, start, stop)

    def equal(self, first: str, second: str, chunk_bytes: int = 64 << 20) -> bool:
        """Whether two tensors have the same values; compared some rows at a time."""
        one, other = self.infos[first], self.infos[second]
        if one.shape != other.shape:
            return False
        if not one.shape:
            return bool(np.array_equal(self.read(first), self.read(second)))
        row_bytes = max(1, int(np.prod(one.shape[1:], dtype=np.int64)) * one.dtype.itemsize)
        step = max(1, chunk_bytes // row_bytes)
        return all(
            np.array_equal(
                self.read_rows(first, start, start + step),
                self.read_rows(second, start, start + step),
            )
            for start in range(0, one.shape[0], step)
        )

    def close(self) -> None:
        for shard in self._shards.values():
            shard.close()

    def _of(self, name: str) -> _Shard:
        if name not in self._shard:
            raise CheckpointError(f"{self.path} has no tensor {name}.")
        return self._shard[name]


def open_hf(path: str | Path) -> HfReader:
    """Opens the tensors of a Hugging Face folder; only headers are read.

    Args:
      path: a folder, local or on storage that fsspec knows (`gs://…`), or a repository of the hub
        (`hf://org/name@revision`).

    Raises:
      CheckpointError: no weights, a missing or damaged file, an index that does not fit them.
    """
    folder = Folder(resolve(path))
    for name, kind in _FILES:
        if folder.has(name):
            return HfReader(folder.path, {name: kind(folder, name)})
        index = f"{name}.index.json"
        if folder.has(index):
            return _open_shards(folder, index, kind)
    raise CheckpointError(
        f"{folder.path} has no weights that can be read: expected model.safetensors,"
        " pytorch_model.bin, or either's .index.json with its shards; found"
        f" {', '.join(folder.names()[:20]) or 'nothing'}. Weights of TensorFlow and Flax must be"
        " saved by transformers as safetensors first."
    )


def _open_shards(folder: Folder, index: str, kind: type) -> HfReader:
    where = f"{folder.path}/{index}"
    content = folder.json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{where} has no weight_map: it is no index of shards.")
    files = set(weight_map.values())
    if not all(isinstance(file, str) for file in files):
        raise CheckpointError(f"{where} has no weight_map of file names: it is no index of shards.")
    files = sorted(files)
    missing = [file for file in files if not folder.has(file)]
    if missing:
        raise CheckpointError(
            f"{where} lists {len(files)} shards, of which {', '.join(missing[:5])}"
            f"{' …' if len(missing) > 5 else ''} are missing. Copy or download the folder again."
        )
    reader = HfReader(folder.path, {file: kind(folder, file) for file in files})
    absent = sorted(weight_map.keys() - reader.infos.keys())
    unlisted = sorted(reader.infos.keys() - weight_map.keys())
    if absent or unlisted:
        raise CheckpointError(
            f"{where} and its shards disagree: {_some('in no shard', absent)}"
            f"{'; ' if absent and unlisted else ''}{_some('not in the index', unlisted)}. The"
            " folder mixes files of different saves."
        )
    return reader


def _some(what: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} tensors are {what} ({', '.join(names[:3])}{' …' if names[3:] else ''})"
