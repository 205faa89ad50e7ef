"""How many examples were truncated, by task: nothing is cut off silently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flan_jax.data.packing import INPUTS_CUT, NO_TASK, TARGETS_CUT, TokenizedExample


class TaskTruncation(NamedTuple):
    """Examples of one task: all, those with truncated inputs, and those with truncated targets."""

    examples: int
    inputs: int
    targets: int


class TruncationCounts:
    """Adds up, by task, examples and those whose inputs or targets were cut.

    Args:
      task_names: tasks of the mixture, in the order of `TokenizedExample.task`.
    """

    def __init__(self, task_names: Sequence[str]):
        self._names = tuple(task_names)
        self._counts = np.zeros((len(self._names), 3), np.int64)

    def add(self, examples: Iterable[TokenizedExample]) -> None:
        """Counts examples."""
        found = [(example.task, example.cut) for example in examples]
        tasks, cuts = np.array(found, np.int64).reshape(-1, 2).T
        self._add(tasks, cuts)

    def add_batch(self, batch: Mapping[str, np.ndarray]) -> None:
        """Counts the examples of rows built with `cuts=True`, of either architecture.

        Raises:
          KeyError: the rows have no `decoder_cuts`.
        """
        cuts, tasks = batch["decoder_cuts"], batch["decoder_task_ids"]
        if "decoder_positions" in batch:
            starts = batch["decoder_positions"] == 0
        else:
            starts = np.broadcast_to(np.arange(tasks.shape[-1]) == 0, tasks.shape)
        starts = starts & (tasks != NO_TASK)
        self._add(tasks[starts], cuts[starts])

    def _add(self, tasks: np.ndarray, cuts: np.ndarray) -> None:
        for column, counted in enumerate(
            (cuts >= 0, cuts & INPUTS_CUT > 0, cuts & TARGETS_CUT > 0)
        ):
            self._counts[:, column] += np.bincount(tasks[counted], minlength=len(self._names))

    def by_task(self) -> dict[str, TaskTruncation]:
        """Counts of the tasks that were seen, by name."""
        return {
            name: TaskTruncation(*counts)
            for name, counts in zip(self._names, self._counts.tolist(), strict=True)
            if counts[0]
        }

    def total(self) -> TaskTruncation:
        """Counts of all tasks together."""
        return TaskTruncation(*self._counts.sum(axis=0).tolist())
