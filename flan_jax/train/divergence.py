"""Stopping when the loss is no number, with the evidence kept."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from flan_jax.data.packing import NO_TASK
from flan_jax.data.reader import Batch
from flan_jax.errors import UserError
from flan_jax.files import write_atomically
from flan_jax.run_folder import RunFolder
from flan_jax.train.setup import Setup


class TrainingDivergedError(UserError, RuntimeError):
    """The loss, the gradient or the update became infinite or NaN."""


def check_finite(
    step: int,
    metrics: dict[str, Any],
    batch: Batch,
    setup: Setup,
    run_folder: RunFolder | str,
) -> dict[str, Any]:
    """The metrics without `loss` and `update_norm`, if these and the gradient's norm are finite.

    A finite gradient with an update that is not makes the next state worthless, which must not be
    saved.

    Raises:
      TrainingDivergedError: after writing the batch that was trained on (arrays and text).
    """
    loss, update = metrics.pop("loss"), metrics.pop("update_norm")
    if np.isfinite([loss, metrics["grad_norm"], update]).all():
        return metrics
    if isinstance(run_folder, str):
        run_folder = RunFolder(run_folder)
    folder = run_folder.local / f"diverged_step_{step}"
    folder.mkdir(parents=True, exist_ok=True)
    process = jax.process_index()
    np.savez_compressed(folder / f"batch-{process}.npz", **batch)  # type: ignore[arg-type]
    write_atomically(folder / f"batch-{process}.txt", _text(batch, setup))
    norms = f"gradient norm {float(metrics['grad_norm'])}, update norm {float(update)}"
    raise TrainingDivergedError(
        f"training diverged at step {step}: loss {float(loss)}, {norms}. The batch is in "
        f"{run_folder.shown(folder)} (arrays and text); no checkpoint of this state was kept. Try "
        "a lower learning rate, float32 activations (ACTIVATION_DTYPE), or look for odd examples "
        "in the batch."
    )


def _text(batch: Batch, setup: Setup) -> str:
    """Every row's inputs and targets, segment by segment."""
    maker = setup.maker
    targets = batch["decoder_target_tokens"]
    segments = batch.get("decoder_segment_ids")
    if segments is None:
        segments = (batch["decoder_task_ids"] != NO_TASK).astype(np.int32)
    lines = []
    for row in range(len(targets)):
        for segment in range(1, int(np.max(segments[row])) + 1):
            here = segments[row] == segment
            task = maker.task_names[int(batch["decoder_task_ids"][row][here][0])]
            text_in = maker.inputs_vocabulary.decode(_inputs(batch, row, segment, here).tolist())
            weighs = here & (batch["decoder_loss_weights"][row] > 0)
            text_out = maker.targets_vocabulary.decode(targets[row][weighs].tolist())
            lines.append(
                f"row {row} segment {segment} {task}\n  inputs:  {text_in}\n  targets: {text_out}"
            )
    return "\n".join(lines) + "\n"


def _inputs(batch: Batch, row: int, segment: int, here: np.ndarray) -> np.ndarray:
    """Input tokens of a segment, whose places in the decoder are `here`."""
    tokens = batch.get("encoder_input_tokens")
    if tokens is None:  # a decoder-only row: what weighs nothing are inputs
        return batch["decoder_target_tokens"][row][here & (batch["decoder_loss_weights"][row] == 0)]
    ids = batch.get("encoder_segment_ids", tokens > 0)
    return tokens[row][ids[row] == segment]
