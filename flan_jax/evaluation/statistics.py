"""Uncertainty of scores: bootstrap over items, Wilson's interval, and means over tasks.

Everything is a pure function of its arguments: the generator is made here from an explicit seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import mul
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

RESAMPLES = 2_000
LEVEL = 0.95
# Indices drawn at a time, which bounds memory.
_CHUNK = 4_000_000


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def z_of(level: float = LEVEL) -> float:
    """How many standard errors to each side hold `level` of a normal distribution."""
    return NormalDist().inv_cdf((1 + level) / 2)


def wilson(successes: float, count: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval for a proportion (Wilson, 1927): sound at 0 and 1, too.

    Raises:
      ValueError: `count` is not positive, or `successes` not within [0, count].
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"need 0 <= successes <= count and count >= 1: {successes}, {count}")
    z = z_of(level)
    share = successes / count
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # At the ends the interval reaches 0 or 1 exactly; rounding must not deny that.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return Interval(low, high)


def bootstrap_sums(statistics: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Sums over items drawn with replacement: [resamples, width] from [items, width].

    The same seed and number of items give the same draws, whatever the statistics: so two systems'
    resamples of the same items are paired.
    """
    count = len(statistics)
    if count == 0:
        raise ValueError("no items to resample")
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // (count * statistics.shape[1]))
    parts = []
    for first in range(0, resamples, rows):
        size = (min(rows, resamples - first), count)
        parts.append(statistics[generator.integers(0, count, size)].sum(axis=1))
    return np.concatenate(parts)


def bootstrap(
    statistics: np.ndarray,
    finish: Callable[[np.ndarray, int], np.ndarray],
    seed: int,
    resamples: int = RESAMPLES,
) -> np.ndarray:
    """Resampled scores [resamples] of statistics [items, width]."""
    return finish(bootstrap_sums(statistics, seed, resamples), len(statistics))


def percentile_interval(samples: np.ndarray, level: float = LEVEL) -> Interval:
    """The middle `level` of resampled scores (Efron's percentile interval)."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def paired_bootstrap(
    before: np.ndarray, after: np.ndarray, seed: int, resamples: int = RESAMPLES
) -> np.ndarray:
    """Resampled mean differences [resamples] of two scores of the same items, each [items]."""
    if before.shape != after.shape:
        raise ValueError(f"paired scores need one shape, found {before.shape} and {after.shape}")
    differences = (after - before)[:, None]
    return bootstrap_sums(differences, seed, resamples)[:, 0] / len(differences)


def unpaired_bootstrap(
    before: np.ndarray, after: np.ndarray, seed: int, resamples: int = RESAMPLES
) -> np.ndarray:
    """Resampled differences of means [resamples] of independent items, [items] and [others]."""
    seeds = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    means = [
        bootstrap_sums(scores[:, None], int(part), resamples)[:, 0] / len(scores)
        for scores, part in zip((before, after), seeds, strict=True)
    ]
    return means[1] - means[0]


def mean_of_intervals(
    values: Sequence[float], intervals: Sequence[Interval], weights: Sequence[float] | None = None
) -> tuple[float, Interval]:
    """(mean, interval) of independent estimates from theirs (MOVER; Zou & Donner, 2008).

    For means over tasks of which some have all items right or all wrong: there the bootstrap has
    nothing to vary and would claim certainty. `weights` sum to 1; None for equal ones.
    """
    shares = [1 / len(values)] * len(values) if weights is None else list(weights)
    mean = sum(values) / len(values) if weights is None else sum(map(mul, shares, values))
    below, above = 0.0, 0.0
    for share, value, interval in zip(shares, values, intervals, strict=True):
        below += (share * (value - interval.low)) ** 2
        above += (share * (interval.high - value)) ** 2
    return mean, Interval(mean - math.sqrt(below), mean + math.sqrt(above))


# How alike the answers of two systems are taken to be, item by item, before they are compared. Of
# checkpoints of one model it is usually more, of unrelated models less.
PAIRED_CORRELATION = 0.5


class NoiseFloor(NamedTuple):
    """What a score's own noise hides.

    Attributes:
      standard_error: of the score, as it stands.
      at_half: of the score if every subtask were at one half, the worst case for right-or-wrong
        items; a matter of sizes alone.
      unpaired: the least difference between two systems that leaves zero out of its interval, if
        they answered different items.
      paired: the same on the same items, where the two systems' results correlate by
        PAIRED_CORRELATION.
    """

    standard_error: float
    at_half: float
    unpaired: float
    paired: float


def noise_floor(
    standard_error: float, counts: Sequence[int], weights: Sequence[float], level: float = LEVEL
) -> NoiseFloor:
    """The noise floor of a weighted mean over subtasks of `counts` items, in the unit of scores.

    Var(a - b) is 2 SE^2 (1 - correlation) for two scores of equal standard error SE.
    """
    at_half = math.sqrt(sum(w * w * 0.25 / n for w, n in zip(weights, counts, strict=True)))
    unpaired = z_of(level) * math.sqrt(2) * standard_error
    return NoiseFloor(
        standard_error, at_half, unpaired, unpaired * math.sqrt(1 - PAIRED_CORRELATION)
    )
