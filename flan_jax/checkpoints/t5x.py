"""Reads checkpoints that T5X wrote in its legacy format, parameters and Adafactor state.

A legacy checkpoint is a folder with a msgpack index, `checkpoint`, whose leaves are arrays or
TensorStore specs of zarr arrays beside it. Names are T5X's: `target/...` for parameters,
`state/param_states/.../{v_row,v_col,v,m}` and `state/step` for the optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorstore
from flax import serialization

from flan_jax.models.t5 import T5
from flan_jax.sharding import named_leaves
from flan_jax.train.optimizer import AdafactorState

_INDEX = "checkpoint"
_VERSIONS = (3,)
_SLOTS = ("v_row", "v_col", "v", "m")


class T5XCheckpoint(NamedTuple):
    """Trees with NumPy leaves, to be placed by `jax.device_put(tree, shardings)`.

    Attributes:
      model: like the model passed in.
      optimizer_state: like the state passed in; None if there was none.
      step: training steps done.
    """

    model: T5
    optimizer_state: AdafactorState | None
    step: int


def read_t5x_legacy(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint folder (`.../checkpoint_<step>`) by their T5X names.

    Raises:
      FileNotFoundError: without an index, or if an array's folder is missing.
      ValueError: for another version of the format.
    """
    folder = Path(path)
    index_file = folder / _INDEX
    if not index_file.is_file():
        looks = " (it looks like an Orbax checkpoint)" if (folder / "state").is_dir() else ""
        raise FileNotFoundError(
            f"{folder} has no file {_INDEX!r}, the index of a legacy T5X checkpoint{looks}. Pass"
            " the folder checkpoint_<step> itself."
        )
    index: Any = serialization.msgpack_restore(index_file.read_bytes())
    if index.get("version") not in _VERSIONS:
        raise ValueError(
            f"{index_file}: format version {index.get('version')!r}, known are {_VERSIONS}."
        )
    leaves = _flatten(index["optimizer"])
    opened = {
        name: _open(folder, leaf) if isinstance(leaf, Mapping) else np.asarray(leaf)
        for name, leaf in leaves.items()
    }
    # All reads are started before the first is awaited.
    pending = {
        name: leaf.read() if isinstance(leaf, tensorstore.TensorStore) else leaf
        for name, leaf in opened.items()
    }
    return {
        name: leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf.result())
        for name, leaf in pending.items()
    }


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and "driver" not in value:
            flat.update(_flatten(value, f"{name}/"))
        elif value is not None:
            flat[name] = value
    return flat


def _open(folder: Path, spec: Mapping[str, Any]) -> tensorstore.TensorStore:
    # Only the last part of the path counts: the recorded one may be relative, or name the bucket
    # that the checkpoint was written to.
    recorded = spec["kvstore"].get("path") or spec.get("path") or ""
    array_folder = folder / Path(recorded.rstrip("/")).name
    if not recorded or not array_folder.is_dir():
        raise FileNotFoundError(
            f"{folder / _INDEX} refers to {recorded!r}, but {array_folder} does not exist: the"
            " checkpoint was not copied completely."
        )
    kvstore = {"driver": "file", "path": f"{array_folder}/"}
    return tensorstore.open({"driver": "zarr", "kvstore": kvstore}, open=True, read=True).result()


def t5x_names(name: str, num_layers: int) -> list[str]:
    """T5X's names of our parameter: one, or one a layer if ours is stacked.

    `encoder/layers/mlp/wo/kernel` is `encoder/layers_0/mlp/wo/kernel`, ...; others are the same.
    """
    if "/layers/" not in name:
        return [name]
    return [name.replace("/layers/", f"/layers_{i}/") for i in range(num_layers)]


def _num_layers(name: str, model: T5) -> int:
    config = model.config
    is_encoder = name.startswith("encoder/")
    return config.num_encoder_layers if is_encoder else config.num_decoder_layers


def _assemble(
    arrays: Mapping[str, np.ndarray], sources: Mapping[str, list[str]], targets: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Our arrays by name (stacked where ours are), and what is wrong."""
    result, problems = {}, []
    for name, target in targets.items():
        names = sources[name]
        absent = [source for source in names if source not in arrays]
        if absent:
            problems += [f"  missing: {source}" for source in absent]
            continue
        stacked = "/layers/" in name
        expected = tuple(target.shape[1:] if stacked else target.shape)
        wrong = [source for source in names if arrays[source].shape != expected]
        if wrong:
            problems += [
                f"  wrong shape: {source} is {arrays[source].shape}, the model has {expected}"
                for source in wrong
            ]
            continue
        parts = [np.asarray(arrays[source], dtype=target.dtype) for source in names]
        result[name] = np.stack(parts) if stacked else parts[0]
    return result, problems


def _raise_if_any(path: str | Path, problems: Iterable[str]) -> None:
    lines = sorted(problems)
    if lines:
        raise ValueError(
            f"{path} does not fit this model:\n"
            + "\n".join(lines)
            + "\nCheck the model's gin file (sizes, mlp_activations, logits_via_embedding)."
        )


def load_t5x_legacy(
    path: str | Path, model: T5, optimizer_state: AdafactorState | None = None
) -> T5XCheckpoint:
    """Reads a legacy checkpoint (layout of T5X's examples/t5) into our trees.

    Args:
      path: the folder `checkpoint_<step>`.
      model: arrays or ShapeDtypeStructs (`jax.eval_shape(model_def.init, key)`).
      optimizer_state: likewise (`jax.eval_shape(optimizer.init, model)`); None to leave the
        optimizer's state out.

    Raises:
      ValueError: listing missing and unexpected names and wrong shapes.
    """
    arrays = read_t5x_legacy(path)
    step = int(arrays.get("state/step", 0))
    targets = named_leaves(model)
    names = {name: t5x_names(name, _num_layers(name, model)) for name in targets}
    sources = {n: [f"target/{source}" for source in group] for n, group in names.items()}
    values, problems = _assemble(arrays, sources, targets)
    known = {source for group in sources.values() for source in group}
    found = {name for name in arrays if name.startswith("target/")}
    problems += [f"  unexpected: {name}" for name in found - known]
    treedef = jax.tree.structure(model)
    slots = {}
    if optimizer_state is not None:
        for slot in _SLOTS:
            sources = {
                n: [f"state/param_states/{source}/{slot}" for source in group]
                for n, group in names.items()
            }
            slot_targets = named_leaves(getattr(optimizer_state, slot))
            slots[slot], slot_problems = _assemble(arrays, sources, slot_targets)
            problems += slot_problems
    _raise_if_any(path, problems)
    state = None
    if optimizer_state is not None:
        trees = (treedef.unflatten([slots[slot][n] for n in targets]) for slot in _SLOTS)
        state = AdafactorState(np.int32(step), *trees)  # pyright: ignore[reportArgumentType]
    return T5XCheckpoint(treedef.unflatten([values[n] for n in targets]), state, step)
