"""A Hugging Face model folder as a whole: configuration, tensors, and where ours are among them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flan_jax.checkpoints.hf.config import EMBEDDING, HEAD, config_from_hf, read_hf_config
from flan_jax.checkpoints.hf.layout import check_layout, hf_layout
from flan_jax.checkpoints.hf.weights import HfReader, open_hf
from flan_jax.checkpoints.tensors import CheckpointError, Layout
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config


@dataclass(frozen=True)
class HfModel:
    """An opened folder, checked against its config.json.

    Attributes:
      reader: of its tensors, in the dtypes they have there; ours are float32 (the cast is exact).
      hf: its config.json.
      config: ours for it.
      layout: our parameters' places among its tensors.
      notes: lines on what was decided, tied, cast or left out, for the user.
    """

    reader: HfReader
    hf: dict[str, Any]
    config: T5Config | PalmConfig
    layout: Layout
    notes: list[str]


def open_hf_model(path: str | Path, *, dtype: str = "float32") -> HfModel:
    """Opens a folder (or `hf://org/name@revision`) and checks all names, shapes and dtypes.

    Args:
      path: as for `open_hf`.
      dtype: of activations, for `config`.

    Raises:
      CheckpointError: a file is missing or damaged, the architecture is not supported, or the
        tensors do not fit it.
    """
    hf, reader = read_hf_config(path), open_hf(path)
    try:
        config, head, notes = config_from_hf(hf, reader, dtype=dtype)
        layout = hf_layout(config, head)
        spare = check_layout(layout, reader.infos, reader.path)
        embedding = EMBEDDING[hf["model_type"]]
        for name in spare:
            copied = name.endswith(("embed_tokens.weight", HEAD))
            if copied and not reader.equal(name, embedding):
                raise CheckpointError(
                    f"{reader.path}: {name} differs from {embedding}. Encoder and decoder with"
                    " embeddings of their own are not supported."
                )
            notes.append(f"{name}: left out ({'a copy of ' + embedding if copied else 'unused'})")
        notes += _casts(reader, {part.theirs for part in layout})
    except BaseException:
        reader.close()
        raise
    return HfModel(reader, hf, config, layout, notes)


def _casts(reader: HfReader, names: set[str]) -> list[str]:
    counts = Counter(reader.infos[name].dtype.name for name in names)
    return [
        f"{count} tensors cast from {dtype} to float32{' (rounded)' if dtype == 'float64' else ''}"
        for dtype, count in sorted(counts.items())
        if dtype != "float32"
    ]
