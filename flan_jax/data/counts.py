"""What is counted about the examples trained on: truncated ones, and rows that are read again.

Counts are taken over the whole global batch before each process keeps its rows, so that every
process has all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax.data.packing import INPUTS_CUT, NO_TASK, TARGETS_CUT
from flan_jax.data.schedule import Schedule

# Entries of rows that no model reads.
CUTS, WINDOWS = "decoder_cuts", "windows"
NOT_TRAINED_ON = (CUTS, WINDOWS)
# Entries of counted batches: Int64[tasks, 3], examples and those of truncated inputs and targets;
# the last window of the schedule that the batch reaches into.
TRUNCATION, WINDOW = "truncation", "window"


def count_batch(batch: Mapping[str, np.ndarray], num_tasks: int) -> dict[str, np.ndarray]:
    """The counts of a global batch whose rows have CUTS and WINDOWS."""
    cuts, tasks = batch[CUTS], batch["decoder_task_ids"]
    if "decoder_positions" in batch:
        starts = batch["decoder_positions"] == 0
    else:
        starts = np.broadcast_to(np.arange(tasks.shape[-1]) == 0, tasks.shape)
    starts = starts & (tasks != NO_TASK)
    tasks, cuts = tasks[starts], cuts[starts]
    kinds = (cuts >= 0, cuts & INPUTS_CUT > 0, cuts & TARGETS_CUT > 0)
    columns = [np.bincount(tasks[kind], minlength=num_tasks) for kind in kinds]
    return {TRUNCATION: np.stack(columns, axis=1), WINDOW: batch[WINDOWS].max()}


def take_counts(batch: dict[str, Any]) -> dict[str, np.ndarray]:
    """Takes the counts out of a batch; what is left goes to the model."""
    return {name: batch.pop(name) for name in (TRUNCATION, WINDOW) if name in batch}


def truncation_metrics(counts: np.ndarray, task_names: Sequence[str]) -> dict[str, Any]:
    """Examples read and truncated, and the tasks whose examples were truncated, from TRUNCATION."""
    examples, inputs, targets = counts.sum(axis=0).tolist()
    by_task = {
        name: {"examples": row[0], "inputs": row[1], "targets": row[2]}
        for name, row in zip(task_names, counts.tolist(), strict=True)
        if row[1] or row[2]
    }
    found = {"examples": examples, "inputs_truncated": inputs, "targets_truncated": targets}
    return found | ({"truncated": by_task} if by_task else {})


class Repeats:
    """How far tasks are through their rows: small ones begin again long before large ones end.

    Args:
      schedule: of the run.
    """

    def __init__(self, schedule: Schedule):
        self._names = list(schedule.proportions)
        shares = np.array(list(schedule.proportions.values()))
        self._shares = shares / shares.sum()
        sizes = [schedule.sizes[name] for name in self._names]
        self._sizes = np.array([np.inf if size is None else size for size in sizes])
        self._window = schedule.window

    def epochs(self, window: int) -> np.ndarray:
        """How often each task's rows were read by the end of `window`: Float64[tasks].

        Exact to one draw, as the schedule itself is.
        """
        return (window + 1) * self._window * self._shares / self._sizes

    def metrics(self, window: int) -> dict[str, Any]:
        """`tasks_repeating`, whose rows were all read before, and who repeats most, how often."""
        epochs = self.epochs(window)
        most = int(epochs.argmax())
        return {
            "tasks_repeating": int((epochs > 1).sum()),
            "most_epochs": float(epochs[most]),
            "most_epochs_task": self._names[most],
        }
