"""Small T5X checkpoints for tests, and arrays by names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from flan_jax.checkpoints import t5x
from flan_jax.checkpoints.tensors import Layout, TensorReader, TensorWriter
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import named_leaves
from flan_jax.train.state import TrainState

# Large enough that Adafactor factors with min_dim_size_to_factor = FACTOR_AT.
FACTOR_AT = 8
SHARED = T5Config(
    vocab_size=24,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=3,
    head_dim=5,
    mlp_dim=12,
    dropout_rate=0.25,
    dtype="float32",
)


def read_ours(reader: TensorReader, layout: Layout) -> dict[tuple[str, int | None], np.ndarray]:
    """Our tensors by name and layer."""
    return {
        (part.ours, part.layer): part.to_ours(
            reader.read(part.theirs, part.their_index, part.their_axis)
        )
        for part in layout
    }


def write_ours(
    writer: TensorWriter,
    layout: Layout,
    ours: Mapping[tuple[str, int | None], np.ndarray],
) -> None:
    """Writes them where a layout has them."""
    for part in layout:
        value = part.to_theirs(ours[part.ours, part.layer])
        writer.write(part.theirs, value, part.their_index, part.their_axis)
    writer.close()


def random_ours(layout: Layout, seed: int = 0) -> dict[tuple[str, int | None], np.ndarray]:
    """Random numbers for a layout; step 7; zeros for slots that are not used."""
    rng = np.random.default_rng(seed)
    ours = {}
    for part in layout:
        value = rng.standard_normal(part.shape).astype(np.float32)
        if part.ours == "step":
            value = np.asarray(7, np.int32)
        elif part.ours.startswith("opt_state/") and part.shape == (1,):
            value = np.zeros((1,), np.float32)
        ours[part.ours, part.layer] = value
    return ours


def write_sample(
    folder: Path,
    config: T5Config = SHARED,
    *,
    form: str = "legacy",
    optimizer: bool = True,
    dtype: str = "float32",
) -> dict[tuple[str, int | None], np.ndarray]:
    """Writes a checkpoint of random numbers and its config.gin; returns our tensors."""
    scanned = config.relative_attention_per_layer
    layout = t5x.t5x_layout(config, scanned, optimizer=optimizer, min_dim_size_to_factor=FACTOR_AT)
    infos, axes = t5x.layout_infos(layout, dtype)
    ours = random_ours(layout)
    if form == "legacy":
        writer = t5x.create_t5x_legacy(folder, infos)
    else:
        writer = t5x.create_t5x_orbax(folder, infos, axes)
    write_ours(writer, layout, ours)
    t5x.write_t5x_config(folder.parent, config, scanned=scanned)
    return ours


def load(
    path: Path, config: T5Config, like: TrainState, min_dim_size_to_factor: int = 128
) -> TrainState:
    """A checkpoint as a train state, with NumPy arrays; without optimizer if `like` has none."""
    reader = t5x.open_t5x(path)
    layout = t5x.t5x_layout(
        config,
        reader.infos,
        optimizer=like.opt_state is not None,
        min_dim_size_to_factor=min_dim_size_to_factor,
    )
    arrays = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in named_leaves(like).items()}
    for (name, layer), value in read_ours(reader, layout).items():
        arrays[name][() if layer is None else layer] = value
    return jax.tree.unflatten(jax.tree.structure(like), list(arrays.values()))
