"""What kind of checkpoint a path is, told by its files."""

from __future__ import annotations

import re
from pathlib import Path

from flan_jax.checkpoints import remote
from flan_jax.checkpoints.own import is_own
from flan_jax.checkpoints.tensors import CheckpointError

FLAN_JAX, T5X, HF = "flan_jax", "t5x", "hf"
_HF_SCHEME = "hf://"
_HF_FILES = re.compile(r"(config\.json|(model|pytorch_model).*\.(safetensors|bin|index\.json))$")
_STEP = re.compile(r"checkpoint_(\d+)$")


def is_hub(path: str | Path) -> bool:
    """Whether a path names a repository of the Hugging Face hub: `hf://organisation/name`."""
    return str(path).startswith(_HF_SCHEME)


def exists(path: str | Path) -> bool:
    """Whether there may be a checkpoint; the hub is not asked.

    Raises:
      CheckpointError: a bucket cannot be read.
    """
    return is_hub(path) or remote.is_folder(path)


def find_format(path: str | Path) -> str | None:
    """`flan_jax`, `t5x` or `hf`; None if the folder is no checkpoint.

    Raises:
      CheckpointError: it cannot be read.
    """
    if is_hub(path):
        return HF
    names = remote.list_folder(path)
    if is_own(path):
        return FLAN_JAX
    if "checkpoint" in names or "state" in names:
        return T5X
    return HF if any(_HF_FILES.match(name) for name in names) else None


def checkpoint_format(path: str | Path) -> str:
    """`flan_jax`, `t5x` or `hf`. Raises CheckpointError if it is none of them."""
    found = find_format(path)
    if found is not None:
        return found
    names = remote.list_folder(path)
    steps = list_steps(path)
    if steps:
        raise CheckpointError(
            f"{path} holds the checkpoints of steps {', '.join(map(str, steps))}: name one of them,"
            f" such as {remote.join(path, f'checkpoint_{steps[-1]}')}"
        )
    raise CheckpointError(
        f"{path} is no checkpoint that can be read here (it holds "
        f"{', '.join(names[:10]) or 'nothing'}): expected one of ours (folders state and run), "
        "T5X's (a file `checkpoint`, or a folder state), or Hugging Face's (config.json and "
        "model.safetensors)"
    )


def list_steps(path: str | Path) -> list[int]:
    """Steps of the folders `checkpoint_<step>` in a folder, ascending."""
    found = (_STEP.match(name) for name in remote.list_folder(path))
    return sorted(int(match.group(1)) for match in found if match)


def find_checkpoint(path: str, *, latest: bool = False) -> str:
    """The checkpoint that a path names: itself, or the only (or latest) one in that folder.

    Raises:
      CheckpointError: it holds several, of which none was asked for.
    """
    if is_hub(path) or find_format(path) is not None:
        return path
    steps = list_steps(path)
    if len(steps) == 1 or (steps and latest):
        return remote.join(path, f"checkpoint_{steps[-1]}")
    return path


def step_of(path: str | Path) -> int | None:
    """The step in a name like `checkpoint_100`."""
    found = _STEP.search(str(path).rstrip("/"))
    return int(found.group(1)) if found else None
