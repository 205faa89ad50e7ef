"""Our own checkpoints: Orbax, one folder a step, with everything a run needs to go on exactly.

A folder `checkpoint_<step>` holds the arrays (`state`: parameters by T5X-like names, optimizer,
step) and a small JSON document (`run`: position of the data iterator, step the run began at, gin
config, parameter names' owner). Saving is asynchronous and atomic: a folder that is there is whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gin
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from flan_jax.checkpoints import remote
from flan_jax.checkpoints.tensors import CheckpointError
from flan_jax.errors import UserError
from flan_jax.sharding import named_leaves
from flan_jax.suggestions import did_you_mean

PREFIX = "checkpoint"


@gin.configurable(module="utils")
@dataclass(frozen=True)
class SaveCheckpointConfig:
    """When to save. Argument names are T5X's.

    Attributes:
      period: steps between checkpoints; the last step is always saved.
      keep: newest checkpoints kept; None keeps all.
      keep_period: checkpoints at multiples of this are kept for good; None for none.
      save_dataset: kept for T5X's sake; the data iterator's position (a few bytes) is always saved.
    """

    period: int = 1000
    keep: int | None = None
    keep_period: int | None = None
    save_dataset: bool = True

    def __post_init__(self) -> None:
        if self.period < 1:
            raise UserError(f"utils.SaveCheckpointConfig.period must be >= 1, found {self.period}")


@gin.configurable(module="utils")
@dataclass(frozen=True)
class RestoreCheckpointConfig:
    """What to start from when the run's own folder holds no checkpoint. Names are T5X's.

    Attributes:
      path: a checkpoint of ours, of T5X or of Hugging Face: a folder, `gs://bucket/path` or
        `hf://owner/name`; None or [] to start from scratch.
      mode: `specific` (path is one checkpoint) or `latest` (path is a folder of checkpoints).
      assignment_map: pairs (pattern of names in the model, name in the checkpoint or None), to
        restore parts, or parts of other names; see `flan_jax.checkpoints.assignment`.
      strict: whether the checkpoint may hold no parameter that the model lacks, and must have been
        trained with the model's vocabulary.
      fallback_to_scratch: start from random weights if `path` does not exist, and initialise
        freshly what it does not hold.
      dtype: `float32` or `bfloat16`, to which parameters are rounded when read; they are float32
        in training all the same. None: as they were saved.
    """

    path: str | tuple[str, ...] | list[str] | None = None
    mode: str = "specific"
    assignment_map: Any = None
    strict: bool = True
    fallback_to_scratch: bool = False
    dtype: str | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("mode", ("specific", "latest")),
            ("dtype", (None, "float32", "bfloat16")),
        ):
            value = getattr(self, name)
            if value not in known:
                names = [each for each in known if each is not None]
                raise UserError(
                    f"utils.RestoreCheckpointConfig.{name} must be {names[0]!r} or {names[1]!r}, "
                    f"found {value!r}{did_you_mean(str(value), names)}"
                )


@gin.configurable(module="utils")
@dataclass(frozen=True)
class CheckpointConfig:
    """Saving and restoring; either may be None."""

    save: SaveCheckpointConfig | None = None
    restore: RestoreCheckpointConfig | None = None


class CheckpointManager:
    """Checkpoints of one run.

    Args:
      folder: the run's MODEL_DIR; or a bucket's (`gs://…`), which needs TensorFlow or gcsfs.
      config: None for reading only.

    Raises:
      CheckpointError: the bucket cannot be read.
    """

    def __init__(self, folder: str | Path, config: SaveCheckpointConfig | None):
        if remote.is_remote(folder):
            remote.list_folder(folder)  # says within seconds if it cannot be read
        self.folder = (
            epath.Path(folder).resolve() if "://" not in str(folder) else epath.Path(folder)
        )
        self._period = config.period if config else None
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                step_prefix=PREFIX,
                max_to_keep=config.keep if config else None,
                keep_period=config.keep_period if config else None,
                create=config is not None,
                read_only=config is None,
                # In a bucket it would delete all folders that are no checkpoints, such as metrics;
                # what an interrupted save left there is deleted by the next save of that step.
                cleanup_tmp_directories=config is not None and not remote.is_remote(folder),
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "run": ocp.JsonCheckpointHandler(),
            },
        )

    def latest_step(self) -> int | None:
        """The newest whole checkpoint's step, None without any."""
        return self._manager.latest_step()

    def all_steps(self) -> list[int]:
        """Steps of all whole checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def path(self, step: int) -> str:
        """The folder of a step's checkpoint."""
        return str(self.folder / f"{PREFIX}_{step}")

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is to be saved after `step`."""
        return self._period is not None and step % self._period == 0

    def reached_preemption(self, step: int) -> bool:
        """Whether the runtime announced on any host that this job is to end."""
        return self._manager.reached_preemption(step)

    def save(self, step: int, state: Any, run: Mapping[str, Any], *, wait: bool = False) -> None:
        """Saves in the background, unless `wait`. A step that is saved already is left alone."""
        if step not in self._manager.all_steps():
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(to_names(state)), run=ocp.args.JsonSave(dict(run))
            )
            self._manager.save(step, args=args, force=True)
        if wait:
            self._manager.wait_until_finished()

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """The state and run document of a step, laid out as `abstract_state` says.

        Args:
          step: one of `all_steps`.
          abstract_state: ShapeDtypeStructs with shardings, of the same structure as was saved.

        Raises:
          CheckpointError: the checkpoint does not fit, or cannot be read.
        """
        path = self.path(step)
        with self._named_damage(step):
            saved = self._manager.item_metadata(step)["state"]
            if not named_leaves(saved):
                raise ValueError("state/_METADATA, the list of its arrays, is missing or damaged")
        _check_fits(path, named_leaves(saved), named_leaves(to_names(abstract_state)))
        with self._named_damage(step):
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(to_names(abstract_state)),
                    run=ocp.args.JsonRestore(),
                ),
            )
        return from_names(restored["state"], abstract_state), restored["run"]

    @contextlib.contextmanager
    def _named_damage(self, step: int) -> Iterator[None]:
        """Says which checkpoint cannot be read, and which others there are."""
        try:
            yield
        except (OSError, KeyError, ValueError, TypeError) as error:
            others = ", ".join(str(each) for each in self.all_steps() if each != step)
            raise CheckpointError(
                f"checkpoint {self.path(step)} is damaged: {remote.reason(error)}\n"
                + (f"Remove it to go on from step {others}" if others else "There is no other one")
            ) from error

    def restore_run(self, step: int) -> dict[str, Any]:
        """The run document of a step, without its arrays."""
        args = ocp.args.Composite(run=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["run"]

    def wait(self) -> None:
        """Waits until what is being saved is on disk; raises what went wrong in the background."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def close(self) -> None:
        """Waits and frees threads."""
        self._manager.close()


def to_names(tree: Any) -> dict[str, Any]:
    """Nested dictionaries of a tree's leaves, by their names: what is on disk does not depend on
    the Python classes that hold it.
    """
    nested: dict[str, Any] = {}
    for name, leaf in named_leaves(tree).items():
        *parents, last = name.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return nested


def from_names(nested: Mapping[str, Any], like: Any) -> Any:
    """The inverse of `to_names`, for a tree of the structure of `like`."""
    leaves = []
    for name in named_leaves(like):
        node: Any = nested
        for part in name.split("/"):
            node = node[part]
        leaves.append(node)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _check_fits(path: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    problems = [f"  {name} is missing in the checkpoint" for name in wanted if name not in saved]
    problems += [f"  {name} is not in the model" for name in saved if name not in wanted]
    for name in wanted:
        if name in saved and tuple(saved[name].shape) != tuple(wanted[name].shape):
            problems.append(
                f"  {name}: {tuple(saved[name].shape)} in the checkpoint, "
                f"{tuple(wanted[name].shape)} in the model"
            )
    if problems:
        # The optimizer's state follows the parameters: these say more.
        problems.sort(key=lambda problem: problem.startswith("  opt_state/"))
        shown = "\n".join(problems[:20])
        more = f"\n  … and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CheckpointError(
            f"checkpoint {path} does not fit the configured model:\n{shown}{more}\n"
            "Use the gin file of the model (and optimizer) that wrote it."
        )


def split_step(path: str) -> tuple[str, int] | None:
    """(folder, step) of a path like `folder/checkpoint_100`, None if it is not one."""
    folder, _, name = path.rstrip("/").rpartition("/")
    prefix, _, step = name.rpartition("_")
    return (folder or ".", int(step)) if prefix == PREFIX and step.isdigit() else None


def parameter_hash(tree: Any) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all leaves, in the order of their names.

    Gathers one array at a time to this host, so it must be called by all processes.
    """
    from hashlib import sha256

    digest = sha256()
    for name, leaf in sorted(named_leaves(tree).items()):
        array = _to_host(leaf)
        digest.update(f"{name}:{array.dtype}:{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _to_host(array: jax.Array) -> np.ndarray:
    if getattr(array, "is_fully_addressable", True):
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
