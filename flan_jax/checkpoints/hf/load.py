"""Whole models in memory at once; `open_hf_model` streams."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from flan_jax.checkpoints.hf.folder import Folder
from flan_jax.checkpoints.hf.model import open_hf_model
from flan_jax.checkpoints.hf.safetensors_files import SafetensorsReader
from flan_jax.models.architecture import initialise
from flan_jax.models.palm import Palm, PalmConfig
from flan_jax.models.t5 import T5, T5Config
from flan_jax.sharding import named_leaves


def read_safetensors(file: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a .safetensors file."""
    path = Path(file)
    reader = SafetensorsReader(Folder(path.parent), path.name)
    return {name: reader.read(name) for name in reader.infos}


def load_hf(
    folder: str | Path, *, dtype: str = "float32"
) -> tuple[T5Config | PalmConfig, T5 | Palm]:
    """Configuration and parameters (NumPy leaves, float32) of a Hugging Face folder.

    Args:
      folder: as for `open_hf_model`.
      dtype: of activations.

    Raises:
      CheckpointError: see `open_hf_model`.
    """
    opened = open_hf_model(folder, dtype=dtype)
    config = opened.config
    abstract = jax.eval_shape(lambda: initialise(config, jax.random.key(0)))
    values = {name: np.empty(x.shape, np.float32) for name, x in named_leaves(abstract).items()}
    for part in opened.layout:
        target = values[part.ours.removeprefix("params/")]
        value = part.to_ours(opened.reader.read(part.theirs))
        target[... if part.layer is None else part.layer] = value
    opened.reader.close()
    return config, jax.tree.unflatten(jax.tree.structure(abstract), list(values.values()))
