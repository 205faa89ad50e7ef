"""From sums over tokens to the numbers people read."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax.data.packing import count_tokens
from flan_jax.data.reader import Batch

Sums = Mapping[str, Any]


class MetricSums:
    """Adds up what the steps report until it is time to write a row.

    Args:
      task_names: tasks of the mixture, in the order of `decoder_task_ids`.
    """

    def __init__(self, task_names: Sequence[str] = ()):
        self._task_names = tuple(task_names)
        self._sums: dict[str, np.ndarray] = {}
        self._last: dict[str, float] = {}

    def add(self, sums: Sums, last: Mapping[str, float] | None = None) -> None:
        """Adds sums over tokens; of `last`, the newest value counts."""
        for name, value in sums.items():
            if name in ("loss", "z_loss"):  # normalised as configured: cannot be added up
                continue
            value = np.asarray(value, np.float64)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._last.update(last or {})

    def row(self) -> dict[str, Any]:
        """Means per target token, newest values, and the loss of each task seen; then starts anew.

        `loss` is in nats a target token, z-loss left out.
        """
        weight = max(float(self._sums["weight_sum"]), 1.0)
        row: dict[str, Any] = {
            "loss": float(self._sums["cross_entropy"]) / weight,
            "accuracy": float(self._sums["correct"]) / weight,
            "target_tokens": int(self._sums["weight_sum"]),
            **self._last,
        }
        if "per_task_loss" in self._sums:
            row["tasks"] = {
                name: {"loss": float(loss / tokens), "target_tokens": int(tokens)}
                for name, loss, tokens in zip(
                    self._task_names,
                    self._sums["per_task_loss"],
                    self._sums["per_task_weight_sum"],
                    strict=True,
                )
                if tokens
            }
        self._sums, self._last = {}, {}
        return row


class Clock:
    """Steps and tokens per second since the last row."""

    def __init__(self, share: float = 1.0) -> None:
        """`share` of a global batch is what this process counts."""
        self._share = share
        self.restart()

    def restart(self) -> None:
        """Forgets what was counted."""
        self._start, self._tokens, self._steps = time.perf_counter(), 0, 0

    def count(self, batch: Batch) -> None:
        """Counts tokens that are not padding, of inputs and targets, of all processes."""
        self._tokens += count_tokens(batch) / self._share
        self._steps += 1

    def rates(self) -> dict[str, float]:
        """Rates since the last call; then starts anew."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        rates = {
            "tokens_per_second": self._tokens / seconds,
            "steps_per_second": self._steps / seconds,
        }
        self.restart()
        return rates
