"""What the tests of Hugging Face's format share: tiny models, and writing them as such a folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flan_jax.checkpoints.hf import create_hf, hf_infos, hf_layout
from flan_jax.checkpoints.source import open_source
from flan_jax.models.architecture import initialise
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import named_leaves

_T5: dict[str, Any] = {
    "vocab_size": 384,
    "emb_dim": 32,
    "num_heads": 4,
    "head_dim": 8,
    "mlp_dim": 48,
    "num_encoder_layers": 3,
    "num_decoder_layers": 2,
    "dtype": "float32",
}
_PALM: dict[str, Any] = {
    "vocab_size": 384,
    "emb_dim": 32,
    "num_heads": 3,
    "head_dim": 16,
    "mlp_dim": 48,
    "num_layers": 2,
    "dtype": "float32",
    # Not Cohere's default, nor that of any other model.
    "norm_epsilon": 3e-5,
    "max_timescale": 5_000.0,
}
CONFIGS = {
    "t5_v1_1": T5Config(**{**_T5, "num_decoder_layers": 4}),
    "t5_v1_0": T5Config(**_T5, logits_via_embedding=True, mlp_activations=("relu",)),
    "umt5": T5Config(**_T5, relative_attention_per_layer=True, mlp_activations=("silu", "linear")),
    "umt5_tied": T5Config(
        **_T5,
        relative_attention_per_layer=True,
        logits_via_embedding=True,
        mlp_activations=("gelu",),
        relative_attention_num_buckets=16,
    ),
    "palm": PalmConfig(**_PALM),
    "palm_untied": PalmConfig(**_PALM, logits_via_embedding=False),
}


def random_model(config: T5Config | PalmConfig, seed: int = 0) -> Any:
    """A model of NumPy leaves, norms' scales not all one; nothing is compiled."""
    rng = np.random.default_rng(seed)
    abstract = jax.eval_shape(lambda: initialise(config, jax.random.key(0)))

    def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
        mean, spread = (1.0, 0.1) if name.endswith("scale") else (0.0, 1.0)
        if name.endswith("kernel"):
            spread = shape[-2] ** -0.5
        return (mean + spread * rng.normal(size=shape)).astype(np.float32)

    leaves = [fill(name, leaf.shape) for name, leaf in named_leaves(abstract).items()]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def load_model(path: Path) -> Any:
    """Any checkpoint's model, with NumPy leaves."""
    source = open_source(path)
    config = dataclasses.replace(source.config, dtype="float32")
    abstract = jax.eval_shape(lambda: initialise(config, jax.random.key(0)))
    leaves = {
        name: np.empty(leaf.shape, np.float32) for name, leaf in named_leaves(abstract).items()
    }
    for part in source.layout:
        if part.ours.startswith("params/"):
            target = leaves[part.ours.removeprefix("params/")]
            value = source.reader.read(part.theirs, part.their_index, part.their_axis)
            target[... if part.layer is None else part.layer] = part.to_ours(value)
    source.close()
    return jax.tree.unflatten(jax.tree.structure(abstract), list(leaves.values()))


def leaves_by_name(model: Any) -> dict[str, np.ndarray]:
    return {f"params/{name}": np.asarray(leaf) for name, leaf in named_leaves(model).items()}


def export(model: Any, folder: Path, dtype: str = "float32", **options: Any) -> list[str]:
    """Writes a model as a Hugging Face folder; returns the writer's notes."""
    layout, leaves = hf_layout(model.config), leaves_by_name(model)
    writer = create_hf(folder, hf_infos(layout, dtype), model.config, **options)
    for part in layout:
        value = leaves[part.ours]
        writer.write(
            part.theirs, part.to_theirs(value if part.layer is None else value[part.layer])
        )
    writer.close()
    return writer.notes
