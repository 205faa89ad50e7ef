"""Stopping when the loss is no number, with the evidence kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from flan_jax.data.reader import Batch
from flan_jax.errors import UserError
from flan_jax.files import write_atomically
from flan_jax.train.setup import Setup


class TrainingDivergedError(UserError, RuntimeError):
    """The loss, the gradient or the update became infinite or NaN."""


def check_finite(
    step: int, metrics: dict[str, Any], batch: Batch, setup: Setup, model_dir: str
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
    folder = Path(model_dir) / f"diverged_step_{step}"
    folder.mkdir(parents=True, exist_ok=True)
    process = jax.process_index()
    np.savez_compressed(folder / f"batch-{process}.npz", **batch)  # type: ignore[arg-type]
    write_atomically(folder / f"batch-{process}.txt", _text(batch, setup))
    norms = f"gradient norm {float(metrics['grad_norm'])}, update norm {float(update)}"
    raise TrainingDivergedError(
        f"training diverged at step {step}: loss {float(loss)}, {norms}. The batch is in {folder} "
        "(arrays and text); no checkpoint of this state was kept. Try a lower learning rate, "
        "float32 activations (network.T5Config.dtype), or look for odd examples in the batch."
    )


def _text(batch: Batch, setup: Setup) -> str:
    """Every row's inputs and targets, segment by segment."""
    tasks = setup.maker.task_names
    lines = []
    for row in range(len(batch["encoder_input_tokens"])):
        inputs, targets = batch["encoder_input_tokens"][row], batch["decoder_target_tokens"][row]
        in_ids = batch.get("encoder_segment_ids", (batch["encoder_input_tokens"] > 0))[row]
        out_ids = batch.get("decoder_segment_ids", (batch["decoder_target_tokens"] > 0))[row]
        for segment in range(1, int(np.max(out_ids)) + 1):
            here = out_ids == segment
            task = tasks[int(batch["decoder_task_ids"][row][here][0])]
            text_in = setup.maker.inputs_vocabulary.decode(inputs[in_ids == segment])
            text_out = setup.maker.targets_vocabulary.decode(targets[here])
            lines.append(
                f"row {row} segment {segment} {task}\n  inputs:  {text_in}\n  targets: {text_out}"
            )
    return "\n".join(lines) + "\n"
