"""Starting from somebody's checkpoint: ours, T5X's or Hugging Face's, found out by its files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flan_jax.checkpoints import hf, t5x
from flan_jax.checkpoints.manager import (
    CheckpointError,
    CheckpointManager,
    RestoreCheckpointConfig,
    restore_params_only,
    split_step,
)
from flan_jax.locate import locate
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.sharding import PjitPartitioner, logical_axes, named_leaves, with_shardings
from flan_jax.train.state import TrainState

# Fields of T5Config that a checkpoint fixes.
_ARCHITECTURE = (
    "vocab_size",
    "emb_dim",
    "num_heads",
    "num_encoder_layers",
    "num_decoder_layers",
    "head_dim",
    "mlp_dim",
    "mlp_activations",
    "logits_via_embedding",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
)


def resolve_path(config: RestoreCheckpointConfig | None) -> str | None:
    """The one path to start from, None for none; relative ones may lie in the package.

    Raises:
      CheckpointError: several paths, or one that does not exist and must.
    """
    if config is None or not config.path:
        return None
    paths = [config.path] if isinstance(config.path, str) else list(config.path)
    if len(paths) > 1:
        raise CheckpointError(
            f"utils.RestoreCheckpointConfig.path: one checkpoint is needed, found {len(paths)}"
        )
    found = locate(paths[0])
    path = paths[0] if found is None else str(found)
    if config.mode == "latest" and Path(path).is_dir() and split_step(path) is None:
        latest = CheckpointManager(path, None).latest_step()
        path = path if latest is None else f"{path.rstrip('/')}/checkpoint_{latest}"
    if not Path(path).is_dir():
        if config.fallback_to_scratch:
            return None
        raise CheckpointError(_missing(path))
    return path


def _missing(path: str) -> str:
    folder = Path(path).parent
    there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    beside = f"; {folder} holds {', '.join(there[:10])}" if there else ""
    return f"checkpoint {path} does not exist (INITIAL_CHECKPOINT_PATH, CHECKPOINT_PATH){beside}"


def checkpoint_format(path: str) -> str:
    """`flan_jax`, `t5x` or `hf`. Raises CheckpointError if it is none of them."""
    folder = Path(path)
    if (folder / "run").is_dir() and (folder / "state").is_dir():
        return "flan_jax"
    if (folder / "config.json").is_file():
        return "hf"
    if (folder / "checkpoint").is_file():
        return "t5x"
    raise CheckpointError(
        f"{path} is no checkpoint that can be read here: expected one of ours (state/, run/), "
        "T5X's legacy format (a file `checkpoint`), or Hugging Face's (config.json and "
        "model.safetensors)"
    )


def restore_initial(path: str, model: EncoderDecoderModel, abstract: TrainState) -> dict[str, Any]:
    """What a checkpoint holds of a train state.

    Args:
      path: a checkpoint's folder.
      model: the model, whose dimensions the checkpoint must have.
      abstract: ShapeDtypeStructs with shardings.

    Returns:
      `params`, and `step` and `opt_state` if the checkpoint has them, laid out as `abstract`.

    Raises:
      CheckpointError: nothing readable is there, or it does not fit the model.
    """
    kind = checkpoint_format(path)
    if kind == "flan_jax":
        folder, step = _split(path)
        state, _ = CheckpointManager(folder, None).restore(step, abstract)
        return {"params": state.params, "step": state.step, "opt_state": state.opt_state}
    try:
        if kind == "hf":
            found = {"params": _read_hf(path, model)}
        else:
            read = t5x.load_t5x_legacy(path, abstract.params, abstract.opt_state)
            found = {"params": read.model, "step": read.step, "opt_state": read.optimizer_state}
        return {name: _place(value, getattr(abstract, name)) for name, value in found.items()}
    except (ValueError, FileNotFoundError) as error:
        raise CheckpointError(str(error)) from error


def restore_params(path: str, model: EncoderDecoderModel, partitioner: PjitPartitioner) -> Any:
    """The parameters of any readable checkpoint, laid out over the current mesh.

    Raises:
      CheckpointError: see `restore_initial`.
    """
    mesh = jax.sharding.get_mesh()
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    shardings = partitioner.shardings(logical_axes(abstract), mesh, abstract)
    abstract = with_shardings(abstract, shardings)
    kind = checkpoint_format(path)
    if kind == "flan_jax":
        return restore_params_only(path, abstract)
    try:
        if kind == "hf":
            return _place(_read_hf(path, model), abstract)
        return _place(t5x.load_t5x_legacy(path, abstract).model, abstract)
    except (ValueError, FileNotFoundError) as error:
        raise CheckpointError(str(error)) from error


def _read_hf(path: str, model: EncoderDecoderModel) -> Any:
    config, params = hf.load_hf(path, dtype=model.module.dtype)
    ours = dataclasses.asdict(model.module)
    different = [
        f"  {name}: {value} in the checkpoint, {ours[name]} in the model"
        for name, value in dataclasses.asdict(config).items()
        if name in _ARCHITECTURE and value != ours[name]
    ]
    if different:
        raise CheckpointError(f"{path} does not fit the configured model:\n" + "\n".join(different))
    return params


def _split(path: str) -> tuple[str, int]:
    found = split_step(str(Path(path).resolve()))
    if found is None:
        raise CheckpointError(f"{path}: a checkpoint's folder is called checkpoint_<step>")
    return found


def _place(tree: Any, abstract: Any) -> Any:
    """The tree's values, laid out as `abstract` says.

    Its structure is that of `abstract`, which holds the configured model's settings where a file
    has its writer's, such as the dropout rate.
    """
    like = named_leaves(abstract)
    values = named_leaves(tree)
    if list(values) != list(like):
        raise ValueError(f"other names than the model's: {sorted(set(values) ^ set(like))}")
    placed = [
        jax.device_put(np.asarray(values[name], leaf.dtype), leaf.sharding)
        for name, leaf in like.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract), placed)
