"""Sums become means, the newest values stay, and every row starts anew."""

from __future__ import annotations

import numpy as np
import pytest

from flan_jax.train.metrics import Clock, MetricSums


def sums(cross_entropy: float, correct: float, weight: float, *per_task: tuple[float, float]):
    losses, weights = zip(*per_task, strict=True)
    return {
        "loss": np.float32(1e9),  # normalised as configured; must not show
        "z_loss": np.float32(1e9),
        "cross_entropy": np.float32(cross_entropy),
        "correct": np.float32(correct),
        "weight_sum": np.float32(weight),
        "per_task_loss": np.array(losses, np.float32),
        "per_task_weight_sum": np.array(weights, np.float32),
    }


def test_means_weigh_tokens_not_steps():
    metrics = MetricSums(["a", "b", "c"])
    metrics.add(sums(10, 1, 10, (10, 10), (0, 0), (0, 0)), {"grad_norm": 5.0})
    metrics.add(sums(90, 8, 30, (30, 10), (60, 20), (0, 0)), {"grad_norm": 7.0})
    assert metrics.row() == {
        "loss": 2.5,
        "accuracy": 0.225,
        "target_tokens": 40,
        "grad_norm": 7.0,
        "tasks": {
            "a": {"loss": 2.0, "target_tokens": 20},
            "b": {"loss": 3.0, "target_tokens": 20},
        },
    }


def test_a_row_starts_anew():
    metrics = MetricSums(["a"])
    metrics.add(sums(10, 1, 10, (10, 10)), {"grad_norm": 5.0})
    metrics.row()
    metrics.add(sums(4, 1, 2, (4, 2)))
    assert metrics.row() == {
        "loss": 2.0,
        "accuracy": 0.5,
        "target_tokens": 2,
        "tasks": {"a": {"loss": 2.0, "target_tokens": 2}},
    }


def test_a_batch_of_padding_has_loss_zero():
    metrics = MetricSums(["a"])
    metrics.add(sums(0, 0, 0, (0, 0)))
    assert metrics.row() == {"loss": 0.0, "accuracy": 0.0, "target_tokens": 0, "tasks": {}}


def test_clock_counts_tokens_that_are_not_padding(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("flan_jax.train.metrics.time.perf_counter", lambda: now[0])
    clock = Clock()
    batch = {
        "encoder_input_tokens": np.array([[5, 6, 1, 0], [7, 1, 0, 0]]),
        "decoder_target_tokens": np.array([[8, 1, 0], [1, 0, 0]]),
    }
    clock.count(batch)
    clock.count(batch)
    now[0] = 104.0
    assert clock.rates() == {"tokens_per_second": 4.0, "steps_per_second": 0.5}
    clock.count(batch)
    clock.restart()
    now[0] = 105.0
    assert clock.rates() == {"tokens_per_second": 0.0, "steps_per_second": 0.0}
