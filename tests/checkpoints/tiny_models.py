"""A T5 small enough to write a checkpoint of in no time, and what tests do with checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from flan_jax.checkpoints.own import PARAMS, OwnWriter, is_stacked
from flan_jax.checkpoints.tensors import TensorInfo, TensorReader
from flan_jax.models.architecture import ModelConfig, abstract_parameters, to_document
from flan_jax.models.t5 import T5Config

CONFIG = T5Config(
    vocab_size=48,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=3,
    head_dim=8,
    mlp_dim=24,
    dtype="float32",
)


def make_arrays(config: ModelConfig = CONFIG, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 parameters by their names in a checkpoint of ours, and a step."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {
        f"{PARAMS}{name}": rng.normal(size=leaf.shape).astype(np.float32)
        for name, leaf in abstract_parameters(config).items()
    }
    return arrays | {"step": np.asarray(7, np.int32)}


def write_own(
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    config: ModelConfig | None = CONFIG,
    **run: Any,
) -> Path:
    """A checkpoint of ours of these arrays."""
    document = {"start_step": 0, **run}
    if config is not None:
        document["model"] = to_document(config)
    infos = {name: TensorInfo(array.shape, array.dtype) for name, array in arrays.items()}
    writer = OwnWriter(folder, infos, document)
    for name, array in arrays.items():
        if is_stacked(name):
            for layer, value in enumerate(array):
                writer.write(name, value, layer)
        else:
            writer.write(name, array)
    writer.close()
    return folder


def read_all(reader: TensorReader) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint; closes it."""
    arrays = {name: reader.read(name) for name in reader.infos}
    reader.close()
    return arrays


def assert_same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """The same names, dtypes, shapes and bits."""
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


def fingerprint(folder: Path) -> dict[str, tuple[int, str]]:
    """Times of change and contents of all files below a folder."""
    return {
        str(file.relative_to(folder)): (
            os.stat(file).st_mtime_ns,
            sha256(file.read_bytes()).hexdigest(),
        )
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
