"""What a checkpoint was trained on, as its run wrote it down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flan_jax.checkpoints.initial import checkpoint_format
from flan_jax.checkpoints.manager import CheckpointError, CheckpointManager, split_step


def trained_on_of(path: str) -> tuple[str, ...] | None:
    """Names of the mixtures that a checkpoint was trained on, those of the checkpoint that its run
    began with included; None if it does not say, as those of T5X and Hugging Face.

    Where an earlier checkpoint of ours is gone, its path stands for what it was trained on, which
    no mixture is called.
    """
    document = _document(path)
    if document is None:
        return None
    own = (document["stream"]["mixture_or_task_name"],)
    return own + trained_before(document.get("initial_checkpoint"))


def trained_before(initial_checkpoint: str | None) -> tuple[str, ...]:
    """As `trained_on_of`, of the checkpoint that a run begins with.

    A base model from elsewhere adds nothing: what it was pre-trained on is not known, and no part
    of what is called held out here.
    """
    if not initial_checkpoint:
        return ()
    if not Path(initial_checkpoint).is_dir():
        return (initial_checkpoint,)
    if checkpoint_format(initial_checkpoint) != "flan_jax":
        return ()
    before = trained_on_of(initial_checkpoint)
    return (initial_checkpoint,) if before is None else before


def _document(path: str) -> dict[str, Any] | None:
    """The run's document in a checkpoint of ours; None if there is none that names a mixture."""
    found = split_step(str(Path(path).resolve()))
    try:
        if found is None or checkpoint_format(path) != "flan_jax":
            return None
    except CheckpointError:
        return None
    folder, step = found
    document = CheckpointManager(folder, None).restore_run(step)
    return document if "mixture_or_task_name" in document.get("stream", {}) else None
