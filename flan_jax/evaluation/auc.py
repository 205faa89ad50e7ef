"""The area under the ROC curve of a model's likelihood of "yes", with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from flan_jax.evaluation.answer_files import AnswersError, answer_files, answer_rows
from flan_jax.evaluation.statistics import RESAMPLES, Interval, percentile_interval

YES, NO = "yes", "no"


class RankedFileError(AnswersError):
    """A file of results has no likelihoods of yes and no."""


@dataclass(frozen=True)
class Auc:
    """How well a score tells positives from negatives.

    Attributes:
      value: percent: how often a positive item scores above a negative one, ties counted half.
      interval: 95%, by bootstrap over items.
      positives, negatives: how many.
    """

    value: float
    interval: Interval
    positives: int
    negatives: int


def auc_roc(scores: Float[np.ndarray, " items"], positive: Bool[np.ndarray, " items"]) -> float:
    """Area under the ROC curve in [0, 1], by ranks with ties (Mann & Whitney, 1947).

    Raises:
      ValueError: there is no positive item, or no negative one.
    """
    count = int(positive.sum())
    others = len(positive) - count
    if not count or not others:
        raise ValueError("the area needs at least one positive and one negative item")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # The mean rank of each distinct score, from 1.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def auc_with_interval(
    scores: Float[np.ndarray, " items"],
    positive: Bool[np.ndarray, " items"],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Auc:
    """The area in percent, its interval by resampling positives and negatives each on their own.

    (Resampled together, a small set could lose one of the two.)
    """
    value = auc_roc(scores, positive)
    generator = np.random.default_rng(seed)
    kinds = [scores[positive], scores[~positive]]
    label = np.repeat([True, False], [len(kind) for kind in kinds])
    samples = np.empty(resamples)
    for i in range(resamples):
        drawn = [kind[generator.integers(0, len(kind), len(kind))] for kind in kinds]
        samples[i] = auc_roc(np.concatenate(drawn), label)
    low, high = percentile_interval(samples)
    return Auc(100 * value, Interval(100 * low, 100 * high), len(kinds[0]), len(kinds[1]))


def likelihood_of_yes(option_scores: Mapping[str, float]) -> float:
    """Probability of yes, normalised over yes and no, from their log-probabilities in nats."""
    return 1 / (1 + math.exp(min(700.0, option_scores[NO] - option_scores[YES])))


def read_likelihoods(files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(likelihoods of yes [items], whether yes is right [items]) of an evaluation job's rows.

    Rows have `option_scores` with yes and no, and `target`.

    Raises:
      RankedFileError: a row has not; names file and line.
    """
    scores, positive = [], []
    for place, row in answer_rows(answer_files(files)):
        try:
            scores.append(likelihood_of_yes(row["option_scores"]))
            if row["target"] not in (YES, NO):
                raise ValueError(f"target {row['target']!r} is neither {YES} nor {NO}")
            positive.append(row["target"] == YES)
        except (KeyError, TypeError, ValueError) as error:
            raise RankedFileError(
                f"{place}: expected `option_scores` of {YES} and {NO} and a `target`, as a job "
                f"writes them for a protocol that ranks; found {type(error).__name__}: {error}"
            ) from error
    if not scores:
        raise RankedFileError(f"{', '.join(map(str, files))}: no rows")
    if all(positive) or not any(positive):
        raise RankedFileError(f"all targets are {YES if positive[0] else NO}: there is no curve")
    return np.array(scores), np.array(positive, bool)
