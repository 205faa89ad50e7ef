"""What a checkpoint was trained on, as its run wrote it down."""

from __future__ import annotations

from typing import Any

from flan_jax.checkpoints import detect
from flan_jax.checkpoints.detect import checkpoint_format
from flan_jax.checkpoints.own import read_run
from flan_jax.checkpoints.tensors import CheckpointError


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
    if detect.is_hub(initial_checkpoint):
        return ()
    try:
        if not detect.exists(initial_checkpoint):
            return (initial_checkpoint,)
        if checkpoint_format(initial_checkpoint) != "flan_jax":
            return ()
    except CheckpointError:  # a bucket that cannot be read from here
        return (initial_checkpoint,)
    before = trained_on_of(initial_checkpoint)
    return (initial_checkpoint,) if before is None else before


def _document(path: str) -> dict[str, Any] | None:
    """The run's document in a checkpoint of ours; None if there is none that names a mixture."""
    try:
        if checkpoint_format(path) != "flan_jax":
            return None
    except CheckpointError:
        return None
    document = read_run(path)
    return document if "mixture_or_task_name" in document.get("stream", {}) else None
