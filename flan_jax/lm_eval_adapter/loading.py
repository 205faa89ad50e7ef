"""A model from gin files and a checkpoint, without a command line of ours around it."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gin
from jax.sharding import Mesh, NamedSharding

from flan_jax.checkpoints.initial import resolve_path, restore_params
from flan_jax.checkpoints.manager import RestoreCheckpointConfig
from flan_jax.cli.gin_command import CONFIGURABLE_MODULES
from flan_jax.config import load
from flan_jax.config.flags import quote_if_bare
from flan_jax.errors import UserError
from flan_jax.evaluation.answering import least_batch
from flan_jax.evaluation.generation import make_mesh
from flan_jax.models.language_model import LanguageModel
from flan_jax.sharding import PjitPartitioner

# Comes after the model's gin files; has the mesh and the checkpoint's settings.
RUN_FILE = "runs/lm_eval.gin"


@dataclass(frozen=True)
class LoadedModel:
    """Parameters on a mesh; use them under `partitioner.use(mesh)`.

    Attributes:
      model: network and vocabularies.
      params: parameters on the mesh.
      partitioner: rules for decoding.
      mesh: where they are.
      batch_sharding: how rows are split over the mesh.
      batch_size: rows at a time, a multiple of what the mesh splits.
    """

    model: LanguageModel
    params: Any
    partitioner: PjitPartitioner
    mesh: Mesh
    batch_sharding: NamedSharding
    batch_size: int


@gin.configurable(module="lm_eval_adapter", denylist=["batch_size"])
def load_model(
    *,
    model: LanguageModel,
    restore_checkpoint_cfg: RestoreCheckpointConfig,
    partitioner: PjitPartitioner,
    batch_size: int,
) -> LoadedModel:
    """Restores a checkpoint.

    Args:
      model: network and vocabularies.
      restore_checkpoint_cfg: which checkpoint, of any format.
      partitioner: mesh and rules.
      batch_size: rows at a time; rounded up to what the mesh can split.

    Raises:
      UserError: something is configured wrongly, or the checkpoint does not fit.
    """
    path = resolve_path(restore_checkpoint_cfg)
    if path is None:
        raise UserError("no checkpoint is given: add checkpoint=PATH to --model_args")
    partitioner = partitioner.for_decoding()
    mesh = partitioner.make_mesh()
    least = least_batch(partitioner.batch_sharding(mesh, mesh.devices.size))
    batch_size = -(-batch_size // least) * least
    mesh, sharding = make_mesh(partitioner, batch_size)
    with partitioner.use(mesh):
        params = restore_params(path, model, partitioner, restore_checkpoint_cfg)
    return LoadedModel(model, params, partitioner, mesh, sharding, batch_size)


def load_from_gin(
    checkpoint: str, gin_files: str, batch_size: int, macros: Mapping[str, Any]
) -> LoadedModel:
    """Loads a model as `flan-jax infer` would.

    Args:
      checkpoint: of any format.
      gin_files: of the model and its vocabulary, joined by `+`.
      batch_size: rows at a time.
      macros: further macros by name.

    Raises:
      ConfigError: listing all mistakes in the files.
      UserError: no gin file is given, or the checkpoint does not fit.
    """
    names = [name for name in gin_files.split("+") if name]
    if not names:
        raise UserError(
            "no gin file is given: add gin_file=MODEL.gin to --model_args, several joined by '+' "
            "(gin_file=models/t5/small.gin+vocabularies/t5.gin)"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.ERROR)
    for module in CONFIGURABLE_MODULES:
        importlib.import_module(module)
    bindings = {"CHECKPOINT_PATH": repr(checkpoint)}
    bindings |= {name: quote_if_bare(str(value)) for name, value in macros.items()}
    load(
        [*names, RUN_FILE],
        [f"{name} = {value}" for name, value in bindings.items()],
        required=("load_model",),
    )
    return load_model(batch_size=batch_size)  # pyright: ignore[reportCallIssue] (gin)
