"""The formats that a checkpoint can be written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flan_jax.checkpoints import own
from flan_jax.checkpoints.plan import our_shapes
from flan_jax.checkpoints.tensors import (
    CheckpointError,
    Layout,
    TensorInfo,
    TensorReader,
    TensorWriter,
)
from flan_jax.models.architecture import ModelConfig, to_document
from flan_jax.models.t5 import T5Config

FORMATS = ("orbax", "hf", "t5x")
_SLOTS = ("v_row", "v_col", "v", "m")  # of AdafactorState


@dataclass(frozen=True)
class Target:
    """What is to be written.

    Attributes:
      kind: the format in words.
      layout: where tensors of ours will lie in it.
      create: makes the writer in a new folder, given the headers of all tensors.
      open: opens what was written.
      one_dtype: whether all its tensors must have the same dtype.
    """

    kind: str
    layout: Layout
    create: Callable[[Path, Mapping[str, TensorInfo]], TensorWriter]
    open: Callable[[Path], TensorReader]
    one_dtype: bool = False


def own_target(source: Layout, config: ModelConfig, run: Mapping[str, Any]) -> Target:
    """Ours: all that the source has, and the step.

    Args:
      source: layout of what is read.
      config: of the model.
      run: entries of the run document beside the model.
    """
    shapes = our_shapes(source)
    shapes |= {name: shape for name, shape in _unused_slots(shapes).items() if name not in shapes}
    shapes.setdefault(own.STEP, ())
    infos = {name: TensorInfo(shape, np.dtype(np.float32)) for name, shape in shapes.items()}
    document = {**run, "model": to_document(config)}
    return Target(
        "flan_jax (Orbax)",
        own.own_layout(infos),
        lambda folder, infos: own.OwnWriter(folder, infos, document),
        own.open_own,
    )


def _unused_slots(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Adafactor's slots that a parameter does not use: (1,) zeros, a layer. T5X may omit them.

    Parameters without any slot are not trained, and have none here either.
    """
    slots = [name.removeprefix(own.OPT_STATE) for name in shapes if name.startswith(own.OPT_STATE)]
    if not any(slot.startswith("v_row/") for slot in slots):
        return {}
    trained = dict.fromkeys(slot.partition("/")[2] for slot in slots if slot != "count")
    return {
        f"{own.OPT_STATE}{slot}/{name}": (
            (shapes[own.PARAMS + name][0], 1) if own.is_stacked(name) else (1,)
        )
        for name in trained
        for slot in _SLOTS
    }


def hf_target(config: ModelConfig, vocabulary: Any, tokenizer_source: str | None) -> Target:
    """Hugging Face's: parameters alone.

    Args:
      config: of the model, without adapters.
      vocabulary: to make tokenizer files of; None for none.
      tokenizer_source: a Hugging Face folder whose tokenizer files are copied.

    Raises:
      CheckpointError: transformers has no such model.
    """
    from flan_jax.checkpoints.hf import config_to_hf, hf_layout, open_hf
    from flan_jax.checkpoints.hf.writer import create_hf

    config_to_hf(config)  # refuses what cannot be said there

    def create(folder: Path, infos: Mapping[str, TensorInfo]) -> TensorWriter:
        return create_hf(
            folder, infos, config, vocabulary=vocabulary, tokenizer_source=tokenizer_source
        )

    return Target("Hugging Face", hf_layout(config), create, open_hf, one_dtype=True)


def t5x_target(
    config: ModelConfig,
    *,
    form: str,
    scanned: bool,
    optimizer: bool,
    momentum: bool,
    tile_bias: bool,
) -> Target:
    """T5X's.

    Args:
      config: of the model, without adapters.
      form: `orbax` or `legacy`.
      scanned: whether the layers are stacked.
      optimizer: whether Adafactor's state is written.
      momentum: whether that has momentum.
      tile_bias: see `t5x_layout`.

    Raises:
      CheckpointError: T5X has no such model, or that layout has not.
    """
    from flan_jax.checkpoints import t5x

    if not isinstance(config, T5Config):
        raise CheckpointError(
            "T5X's public code has no PaLM: convert to hf, or keep our own format (orbax)"
        )
    layout = t5x.t5x_layout(
        config, scanned, optimizer=optimizer, momentum=momentum, tile_bias=tile_bias
    )
    _, axes = t5x.layout_infos(layout)

    def create(folder: Path, infos: Mapping[str, TensorInfo]) -> TensorWriter:
        if form == "orbax":
            writer = t5x.create_t5x_orbax(folder, infos, axes)
        else:
            writer = t5x.create_t5x_legacy(folder, infos)
        t5x.write_t5x_config(folder, config, scanned=scanned)
        return writer

    words = "Orbax" if form == "orbax" else "legacy format"
    kind = f"T5X ({words}, {'' if scanned else 'un'}scanned)"
    return Target(kind, layout, create, t5x.open_t5x)
