"""Our own checkpoints as tensors by name, without a train state: to convert and to start from.

What a training run saves, and resumes from, is `manager.CheckpointManager`'s; the files are the
same: `state` (arrays) and `run` (a JSON document), and so are what is written here.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flan_jax.checkpoints import remote
from flan_jax.checkpoints.orbax_arrays import COMMIT_FILE, OrbaxReader, OrbaxWriter
from flan_jax.checkpoints.tensors import CheckpointError, Part, TensorInfo

STATE, RUN = "state", "run"
PARAMS, OPT_STATE, STEP = "params/", "opt_state/", "step"
_RUN_FILE = "metadata"
_RUN_ENTRIES = {"model": dict, "vocabulary": dict, "config": str}
_HANDLERS = "orbax.checkpoint._src.handlers"
_BINDING = re.compile(
    r"network\.(T5Config|PalmConfig)\.(\w+) = (.*?)(?:  # (?:= (.*), )?from .*)?$"
)


def is_own(path: str | Path) -> bool:
    """Whether a folder is a checkpoint of ours, by its files."""
    return {STATE, RUN} <= set(remote.list_folder(path))


def open_own(path: str | Path) -> OrbaxReader:
    """The arrays of a checkpoint of ours by their names, such as `params/encoder/…` or `step`.

    Raises:
      CheckpointError: it is damaged.
    """
    return OrbaxReader(remote.join(path, STATE), str(path))


def read_run(path: str | Path) -> dict[str, Any]:
    """The run document of a checkpoint of ours.

    Raises:
      CheckpointError: it is missing or damaged.
    """
    folder = remote.join(path, RUN)
    text = remote.read_file(folder, _RUN_FILE)
    file = remote.join(folder, _RUN_FILE)
    if text is None:
        raise CheckpointError(f"checkpoint {path} is damaged: {file} is missing")
    try:
        run = json.loads(text)
    except ValueError as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {file} is not JSON: {error}"
        ) from error
    if not isinstance(run, dict):
        raise CheckpointError(f"checkpoint {path} is damaged: {file} must be a map: {run!r:.60}")
    for name, kind in _RUN_ENTRIES.items():
        if run.get(name) is not None and not isinstance(run[name], kind):
            raise CheckpointError(
                f"checkpoint {path} is damaged: {name!r} in {file} must be a "
                f"{'map' if kind is dict else 'text'}, found {run[name]!r:.60}"
            )
    return run


def own_layout(infos: Mapping[str, TensorInfo]) -> list[Part]:
    """Where tensors of ours lie in a checkpoint of ours: themselves, layer by layer."""
    parts = []
    for name, info in infos.items():
        if not is_stacked(name):
            parts.append(Part(name, info.shape, name, info.shape))
            continue
        shape = info.shape[1:]
        parts += [
            Part(name, shape, name, shape, layer=layer, their_index=layer)
            for layer in range(info.shape[0])
        ]
    return parts


def is_stacked(name: str) -> bool:
    """Whether a tensor of ours holds all layers of a stack along its first axis."""
    return "/layers/" in name


class OwnWriter:
    """Writes a checkpoint of ours that `CheckpointManager` restores: a `TensorWriter`.

    Args:
      folder: is made; to be called `checkpoint_<step>` in the end.
      infos: all its tensors.
      run: the run document.

    Raises:
      CheckpointError: the folder cannot be written to.
    """

    def __init__(self, folder: str | Path, infos: Mapping[str, TensorInfo], run: Mapping[str, Any]):
        self._folder, self._run = Path(folder), dict(run)
        self._began = time.time_ns()
        stacked = {name: 0 for name in infos if is_stacked(name)}
        self._arrays = OrbaxWriter(self._folder / STATE, infos, stacked)

    def write(self, name: str, value: np.ndarray, index: int | None = None, axis: int = 0) -> None:
        """See `TensorWriter`."""
        self._arrays.write(name, value, index, axis)

    def close(self) -> None:
        """Finishes the files."""
        self._arrays.close()
        handlers = {
            RUN: f"{_HANDLERS}.json_checkpoint_handler.JsonCheckpointHandler",
            STATE: f"{_HANDLERS}.standard_checkpoint_handler.StandardCheckpointHandler",
        }
        metadata = {
            "item_handlers": handlers,
            "metrics": {},
            "performance_metrics": {},
            "init_timestamp_nsecs": self._began,
            "commit_timestamp_nsecs": time.time_ns(),
            "custom_metadata": {},
        }
        files = {
            f"{RUN}/{_RUN_FILE}": json.dumps(self._run),
            f"{RUN}/{COMMIT_FILE}": "Written by flan-jax convert\n",
            "_CHECKPOINT_METADATA": json.dumps(metadata),
            COMMIT_FILE: "Written by flan-jax convert\n",
        }
        try:
            (self._folder / RUN).mkdir()
            for name, text in files.items():
                (self._folder / name).write_text(text)
        except OSError as error:
            raise CheckpointError(f"{self._folder} cannot be written: {error}") from error


def config_of(
    run: Mapping[str, Any], infos: Mapping[str, TensorInfo], path: str
) -> tuple[Any, str | None]:
    """The architecture of a checkpoint of ours, and how it was found out if it does not say.

    It is the run document's `model`; in older checkpoints what the run's gin configuration binds;
    failing that, what the shapes of the arrays say.

    Returns:
      T5Config or PalmConfig, and a note (None if the document says it).

    Raises:
      CheckpointError: nothing says it, or the document is of another version.
    """
    from flan_jax.models.architecture import ArchitectureError, from_document

    try:
        if run.get("model") is not None:
            return from_document(run["model"]), None
        document = _bound(run.get("config") or "")
        if document is not None:
            return from_document(document), "the architecture was read from the run's gin config"
    except ArchitectureError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error
    return _inferred(infos, path), (
        "the architecture was inferred from shapes: activations are T5 v1.1's (gelu, linear) if the"
        " MLP is gated, else relu"
    )


def _bound(text: str) -> dict[str, Any] | None:
    """An architecture document of the bindings in a gin configuration that we wrote."""
    values: dict[str, Any] = {}
    kinds: set[str] = set()
    for line in text.splitlines():
        found = _BINDING.match(line)
        if found is None:
            continue
        kind, name, value, resolved = found.groups()
        try:
            values[name] = ast.literal_eval(resolved or value)
        except (ValueError, SyntaxError):
            continue
        kinds.add(kind)
    if len(kinds) != 1 or "vocab_size" not in values:
        return None
    values.pop("lora", None)
    return {"type": "t5" if kinds == {"T5Config"} else "palm", "config": values}


def _inferred(infos: Mapping[str, TensorInfo], path: str) -> Any:
    from flan_jax.models.t5 import T5Config

    def shape(name: str) -> tuple[int, ...]:
        return infos[f"{PARAMS}{name}"].shape

    try:
        vocab_size, emb_dim = shape("token_embedder/embedding")
        layer = "encoder/layers/relpos_bias/rel_embedding"
        per_layer = f"{PARAMS}{layer}" in infos
        heads, buckets = shape(layer if per_layer else "encoder/relpos_bias/rel_embedding")[-2:]
        gated = f"{PARAMS}encoder/layers/mlp/wi_0/kernel" in infos
        mlp = shape("encoder/layers/mlp/wi_0/kernel" if gated else "encoder/layers/mlp/wi/kernel")
        query = shape("encoder/layers/attention/query/kernel")
        return T5Config(
            vocab_size=vocab_size,
            emb_dim=emb_dim,
            num_heads=heads,
            num_encoder_layers=query[0],
            num_decoder_layers=shape("decoder/layers/mlp/wo/kernel")[0],
            head_dim=query[2] // heads,
            mlp_dim=mlp[2],
            mlp_activations=("gelu", "linear") if gated else ("relu",),
            logits_via_embedding=f"{PARAMS}decoder/logits_dense/kernel" not in infos,
            relative_attention_num_buckets=buckets,
            relative_attention_per_layer=per_layer,
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} does not say its architecture, and its arrays are not those of a"
            f" T5 ({error})"
        ) from error


def without_adapters(config: Any) -> Any:
    """The architecture that merging adapters gives."""
    return dataclasses.replace(config, lora=None) if getattr(config, "lora", None) else config
