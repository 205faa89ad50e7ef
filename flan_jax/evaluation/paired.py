"""Differences of two systems on the same items of a benchmark: the paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flan_jax.draws import stable_hash
from flan_jax.errors import UserError
from flan_jax.evaluation import statistics as stats
from flan_jax.evaluation.scores import Scores

# Scores in [0, 1] of each item, by its id `<subtask>/<index>`.
ItemValues = Mapping[str, float]


@dataclass(frozen=True)
class PairedDifference:
    """`after - before` in percentage points.

    Attributes:
      value, low, high: the difference of the means and its confidence interval.
      before, after: the two means, in percent.
      gained, lost: items that scored higher, or lower.
      n: items.
    """

    value: float
    low: float
    high: float
    before: float
    after: float
    gained: int
    lost: int
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class PairedComparison:
    """Two systems on a benchmark: the mean as its protocol has it, and each subtask."""

    overall: PairedDifference
    subtasks: Mapping[str, PairedDifference]


def values_of(scores: Scores) -> dict[str, float]:
    """What each item scored. Raises UserError: the metric has no scores of single items."""
    values = {identity: item.value for identity, item in scores.items.items()}
    found = {identity: value for identity, value in values.items() if value is not None}
    if len(found) < len(values):
        raise UserError(
            f"{scores.overall.metric} is no mean of single items' scores, so that items cannot be "
            "paired; look at the two intervals instead"
        )
    return found


def compare_items(
    before: ItemValues,
    after: ItemValues,
    mean: Literal["macro", "micro"] = "macro",
    *,
    resamples: int = stats.RESAMPLES,
    seed: int = 0,
    level: float = stats.LEVEL,
) -> PairedComparison:
    """The paired differences of two systems' scores of the same items.

    Items are resampled within each subtask. A difference of which no item is the cause has no
    interval: [0, 0].

    Args:
      before, after: scores by item.
      mean: of the subtasks: `macro` counts each once, `micro` each item.
      resamples, seed, level: of the interval.

    Raises:
      UserError: the items are not the same, or there are none.
    """
    if before.keys() != after.keys():
        alone = before.keys() ^ after.keys()
        raise UserError(
            f"only scores of the same items can be compared: {len(alone):,} of "
            f"{len(before.keys() | after.keys()):,} items have one score only "
            f"({min(alone)} is one)"
        )
    if not before:
        raise UserError("no items to compare")
    by_subtask: dict[str, list[str]] = {}
    for identity in sorted(before):
        by_subtask.setdefault(identity.rpartition("/")[0], []).append(identity)
    pairs, samples = [], []
    for subtask, ids in by_subtask.items():
        pair = np.array([[before[i], after[i]] for i in ids], np.float64)
        change = (pair[:, 1] - pair[:, 0])[:, None]
        draws = stable_hash(seed, "bootstrap", subtask)
        pairs.append(pair)
        samples.append(stats.bootstrap_sums(change, draws, resamples)[:, 0] / len(ids))
    sizes = np.array([len(pair) for pair in pairs], np.float64)
    weights = sizes / sizes.sum() if mean == "micro" else np.full(len(pairs), 1 / len(pairs))
    return PairedComparison(
        overall=_difference(pairs, samples, weights, level),
        subtasks={
            name: _difference([pair], [sample], np.ones(1), level)
            for name, pair, sample in zip(by_subtask, pairs, samples, strict=True)
        },
    )


def _difference(
    pairs: Sequence[np.ndarray], samples: Sequence[np.ndarray], weights: np.ndarray, level: float
) -> PairedDifference:
    before, after = (weights @ [pair[:, side].mean() for pair in pairs] for side in (0, 1))
    interval = stats.percentile_interval(weights @ np.array(samples), level)
    return PairedDifference(
        value=float(100 * (after - before)),
        low=100 * interval.low,
        high=100 * interval.high,
        before=float(100 * before),
        after=float(100 * after),
        gained=int(sum((pair[:, 1] > pair[:, 0]).sum() for pair in pairs)),
        lost=int(sum((pair[:, 1] < pair[:, 0]).sum() for pair in pairs)),
        n=sum(len(pair) for pair in pairs),
    )
