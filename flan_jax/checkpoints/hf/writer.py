"""Writes a Hugging Face model folder: safetensors (sharded if large), config.json, tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flan_jax.checkpoints.hf.config import config_to_hf, generation_config
from flan_jax.checkpoints.hf.safetensors_files import (
    SafetensorsWriter,
    cannot_write,
    data_bytes,
)
from flan_jax.checkpoints.hf.tokenizer import copy_tokenizer, write_tokenizer
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config

# transformers' default.
MAX_SHARD_BYTES = 5 * 10**9
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class HfWriter:
    """A `TensorWriter` of a folder's tensors.

    Each shard is a file as soon as the first of its tensors comes, and closed after the last.

    Attributes:
      path: the folder.
      notes: lines for the user: which tokenizer files there are.
    """

    def __init__(self, path: Path, shards: Mapping[str, dict[str, TensorInfo]], notes: list[str]):
        self.path, self.notes = str(path), notes
        self._shards = dict(shards)
        self._file_of = {name: file for file, infos in shards.items() for name in infos}
        self._open: dict[str, SafetensorsWriter] = {}
        self._done: set[str] = set()

    def write(self, name: str, value: np.ndarray, index: int | None = None, axis: int = 0) -> None:
        """A tensor, or its slice `index` along axis 0, cast to the declared dtype.

        Raises:
          CheckpointError: the disk is full, or the tensor or shape was not declared.
        """
        if name not in self._file_of:
            raise CheckpointError(f"{self.path}: tensor {name} was not declared.")
        file = self._file_of[name]
        if file in self._done:
            raise CheckpointError(f"{self.path}: tensor {name} is written twice.")
        if file not in self._open:
            where = Path(self.path) / file
            self._open[file] = SafetensorsWriter(where, self._shards[file], {"format": "pt"})
        self._open[file].write(name, value, index, axis)
        if self._open[file].complete:
            self._close(file)

    def close(self) -> None:
        """Finishes the files.

        Raises:
          CheckpointError: a declared tensor was not written, or the disk is full.
        """
        for file in list(self._open):
            self._close(file)
        missing = sorted(self._shards.keys() - self._done)
        if missing:
            raise CheckpointError(
                f"{self.path}: {', '.join(missing[:5])} would be empty: no tensor was written."
            )

    def _close(self, file: str) -> None:
        self._open.pop(file).close()
        self._done.add(file)


def create_hf(
    folder: str | Path,
    infos: Mapping[str, TensorInfo],
    config: T5Config | PalmConfig,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    tokenizer_source: str | Path | None = None,
    vocabulary: Vocabulary | None = None,
) -> HfWriter:
    """Starts a folder that `from_pretrained` of transformers 4 and 5 reads.

    Everything but the tensors is written here: config.json, generation_config.json, the index of
    shards if there are several, and the tokenizer's files.

    Args:
      folder: an empty or new one, which the caller moves into place when all is written.
      infos: the tensors by transformers' names, as `hf_infos(hf_layout(config), dtype)` gives them.
      config: of the model.
      max_shard_bytes: of one file; a tensor that is larger has a file of its own.
      tokenizer_source: a Hugging Face folder whose tokenizer files are copied.
      vocabulary: else, what to make tokenizer files of.

    Raises:
      CheckpointError: transformers has no such model, or the disk has not enough space.
    """
    root = Path(folder)
    document = config_to_hf(config, _dtype_of(infos))
    shards = plan_shards(infos, max_shard_bytes)
    try:
        root.mkdir(parents=True, exist_ok=True)
        needed, free = data_bytes(infos), shutil.disk_usage(root).free
        if needed > free:
            raise CheckpointError(
                f"{root}: {needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free there."
            )
        _write_json(root / "config.json", document)
        _write_json(root / "generation_config.json", generation_config(config))
        if len(shards) > 1:
            weight_map = {name: file for file, part in shards.items() for name in part}
            metadata = {"total_size": data_bytes(infos)}
            index = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
            _write_json(root / _INDEX, index)
        notes = copy_tokenizer(tokenizer_source, root) if tokenizer_source else []
        if not notes and vocabulary is not None:
            decoder_only = isinstance(config, PalmConfig)
            notes = write_tokenizer(root, vocabulary, decoder_only=decoder_only)
    except OSError as error:
        raise cannot_write(str(root), error) from error
    notes = notes or ["no tokenizer files: neither the source nor the settings have a vocabulary"]
    return HfWriter(root, shards, notes)


def plan_shards(
    infos: Mapping[str, TensorInfo], max_bytes: int
) -> dict[str, dict[str, TensorInfo]]:
    """Tensors by file, in the order given, each file as full as `max_bytes` allows."""
    groups: list[dict[str, TensorInfo]] = [{}]
    size = 0
    for name, info in infos.items():
        added = data_bytes({name: info})
        if groups[-1] and size + added > max_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = info
        size += added
    if len(groups) == 1:
        return {_SINGLE: groups[0]}
    return {
        f"model-{number:05d}-of-{len(groups):05d}.safetensors": group
        for number, group in enumerate(groups, start=1)
    }


def _dtype_of(infos: Mapping[str, TensorInfo]) -> str:
    dtypes = {info.dtype.name for info in infos.values()}
    if len(dtypes) != 1:
        raise CheckpointError(f"all tensors must have one dtype, found {sorted(dtypes)}.")
    return dtypes.pop()


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
