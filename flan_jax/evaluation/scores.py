"""Scores of a run: by task, by cluster and overall, with intervals, baselines and comparisons.

A mean over tasks counts every task once, however many items it has.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax.draws import stable_hash
from flan_jax.errors import UserError
from flan_jax.evaluation import statistics as stats
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.scorers import Judgement, Scorer, get_scorer

OVERALL, HELD_IN, HELD_OUT = "overall", "held-in", "held-out"
# Tasks of which it is not known whether they are held out.
UNKNOWN = "unknown exposure"


@dataclasses.dataclass(frozen=True)
class ItemScore:
    """One item by its task's first metric: `value` in [0, 1], None for a corpus metric."""

    value: float | None
    parsed: bool


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of a task, or the mean over some tasks. Shares lie in [0, 1].

    Attributes:
      name: of the task or cluster, or `overall`, `held-in`, `held-out`, `unknown exposure`.
      metric: name of the metric; `mixed` for a mean over tasks with different ones.
      value, low, high: the score and its confidence interval.
      n: items.
      members: names of its tasks.
      held_out: whether all its tasks are held out; None if that is not known.
      unparsed: outputs without a recognisable answer; they count as wrong.
      chance: score of guessing among the options, if all items have options.
      majority: score of always giving the most frequent answer.
      baseline: mean over tasks of the better of these two.
      edge, edge_low, edge_high: `value - baseline` and its interval (paired bootstrap).
      ceiling: share of answers that the vocabulary can write at all.
      metrics: all metrics of a task, the first one included.
      samples, baseline_samples: resampled scores [resamples].
    """

    name: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    members: tuple[str, ...] = dataclasses.field(repr=False)
    held_out: bool | None
    unparsed: int
    chance: float | None
    majority: float
    baseline: float
    edge: float
    edge_low: float
    edge_high: float
    ceiling: float
    metrics: Mapping[str, float] = dataclasses.field(repr=False)
    samples: np.ndarray = dataclasses.field(repr=False, compare=False)
    baseline_samples: np.ndarray = dataclasses.field(repr=False, compare=False)

    @property
    def tasks(self) -> int:
        """How many tasks it is of."""
        return len(self.members)

    @property
    def standing(self) -> str:
        """`held-in`, `held-out` or `unknown exposure`."""
        return {True: HELD_OUT, False: HELD_IN, None: UNKNOWN}[self.held_out]

    @property
    def interval(self) -> stats.Interval:
        """The confidence interval of `value`."""
        return stats.Interval(self.low, self.high)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: shares in percent, no samples."""
        row: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                continue
            if isinstance(value, Mapping):
                value = {key: 100 * share for key, share in value.items()}
            elif isinstance(value, float):
                value = 100 * value
            row[field.name] = value
        return row


@dataclasses.dataclass(frozen=True)
class Scores:
    """All scores of one set of predictions.

    Attributes:
      overall: mean over tasks.
      held_in, held_out, unknown: means over the tasks of each kind; None if there are none.
      tasks, clusters: by name, in the order of the requests.
      items: by request id.
      level: of the intervals.
      seed, resamples: of the bootstrap.
    """

    overall: Score
    held_in: Score | None
    held_out: Score | None
    tasks: Mapping[str, Score]
    clusters: Mapping[str, Score]
    items: Mapping[str, ItemScore] = dataclasses.field(repr=False)
    level: float = stats.LEVEL
    seed: int = 0
    resamples: int = stats.RESAMPLES
    unknown: Score | None = None

    def summary(self) -> dict[str, Score]:
        """`overall`, and where there are such tasks `held-in`, `held-out`, `unknown exposure`."""
        rows = (self.held_in, self.held_out, self.unknown, self.overall)
        return {score.name: score for score in rows if score is not None}

    def as_dict(self) -> dict[str, Any]:
        """For JSON: shares in percent."""
        return {
            "level": self.level,
            "bootstrap": {"seed": self.seed, "resamples": self.resamples},
            "summary": {name: score.as_dict() for name, score in self.summary().items()},
            "clusters": {name: score.as_dict() for name, score in self.clusters.items()},
            "tasks": {name: score.as_dict() for name, score in self.tasks.items()},
        }


def score(
    requests: Sequence[Request],
    predictions: Mapping[str, str],
    *,
    resamples: int = stats.RESAMPLES,
    seed: int = 0,
    level: float = stats.LEVEL,
) -> Scores:
    """Scores `predictions` (text by request id), each task by its metrics.

    Args:
      requests: what was asked, in any order.
      predictions: one for each request; others are ignored.
      resamples: of the bootstrap.
      seed: of the bootstrap.
      level: of the confidence intervals.

    Raises:
      UserError: no requests, a prediction is missing, or a metric is unknown.
    """
    if not requests:
        raise UserError("nothing to score: the plan has no requests")
    missing = [request.id for request in requests if request.id not in predictions]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(requests)} requests have no prediction "
            f"({', '.join(missing[:3])} …): finish the evaluation first"
        )
    by_task: dict[str, list[Request]] = {}
    for request in requests:
        by_task.setdefault(request.task, []).append(request)
    tasks: dict[str, Score] = {}
    clusters: dict[str, list[Score]] = {}
    items: dict[str, ItemScore] = {}
    for name, members in by_task.items():
        # By id, so that the resampled items do not depend on the order of the requests.
        members.sort(key=lambda request: request.id)
        task_score, task_items = _score_task(members, predictions, resamples, seed, level)
        tasks[name] = task_score
        clusters.setdefault(members[0].cluster, []).append(task_score)
        items |= task_items
    kinds = {
        name: [task for task in tasks.values() if task.standing == name]
        for name in (HELD_IN, HELD_OUT, UNKNOWN)
    }
    means = {name: mean_score(name, some, level) if some else None for name, some in kinds.items()}
    return Scores(
        overall=mean_score(OVERALL, list(tasks.values()), level),
        held_in=means[HELD_IN],
        held_out=means[HELD_OUT],
        unknown=means[UNKNOWN],
        tasks=tasks,
        clusters={name: mean_score(name, scores, level) for name, scores in clusters.items()},
        items=items,
        level=level,
        seed=seed,
        resamples=resamples,
    )


def _score_task(
    requests: Sequence[Request],
    predictions: Mapping[str, str],
    resamples: int,
    seed: int,
    level: float,
) -> tuple[Score, dict[str, ItemScore]]:
    scorers = [get_scorer(name) for name in requests[0].metrics]
    if not scorers:
        raise UserError(f"task {requests[0].task} names no metric")
    main, count = scorers[0], len(requests)
    judgements = [main.judge(r, predictions[r.id]) for r in requests]
    values = _statistics(judgements)
    metrics = {main.name: float(main.finish(values.sum(axis=0), count))}
    for scorer in scorers[1:]:
        others = _statistics([scorer.judge(r, predictions[r.id]) for r in requests])
        metrics[scorer.name] = float(scorer.finish(others.sum(axis=0), count))
    value = metrics[main.name]
    draws = stable_hash(seed, "bootstrap", requests[0].task)
    samples = stats.bootstrap(values, main.finish, draws, resamples)
    chance, majority, constant = _baselines(requests, main)
    baseline_samples = stats.bootstrap(constant, main.finish, draws, resamples)
    baseline = float(main.finish(constant.sum(axis=0), count))
    if main.binary:
        interval = stats.wilson(values[:, 0].sum(), count, level)
    else:
        interval = stats.percentile_interval(samples, level)
    edge = stats.percentile_interval(samples - baseline_samples, level)
    result = Score(
        name=requests[0].task,
        metric=main.name,
        value=value,
        low=interval.low,
        high=interval.high,
        n=count,
        members=(requests[0].task,),
        held_out=requests[0].held_out,
        unparsed=sum(not judgement.parsed for judgement in judgements),
        chance=chance,
        majority=majority,
        baseline=baseline,
        edge=value - baseline,
        edge_low=edge.low,
        edge_high=edge.high,
        ceiling=sum(r.representable for r in requests) / count,
        metrics=metrics,
        samples=samples,
        baseline_samples=baseline_samples,
    )
    items = {
        r.id: ItemScore(j.statistics[0] if main.per_item else None, j.parsed)
        for r, j in zip(requests, judgements, strict=True)
    }
    return result, items


def _statistics(judgements: Iterable[Judgement]) -> np.ndarray:
    """[items, width] float64."""
    return np.array([judgement.statistics for judgement in judgements], np.float64)


def _baselines(
    requests: Sequence[Request], scorer: Scorer
) -> tuple[float | None, float, np.ndarray]:
    """(chance, majority, statistics [items, width] of the better one).

    The majority baseline knows the most frequent answer of these very items, which a model does
    not: it errs on the strict side.
    """
    # Ties go to the answer that sorts first, so that the order of requests does not matter.
    counts = Counter(request.answer_text for request in requests)
    constant = min(counts, key=lambda text: (-counts[text], text))
    if scorer.binary:
        hits = np.array([[float(r.answer_text == constant)] for r in requests])
    else:
        plain = (dataclasses.replace(r, target=r.answer, options=(), option_texts=())
                 for r in requests)  # fmt: skip
        hits = _statistics(scorer.judge(r, constant) for r in plain)
    majority = float(scorer.finish(hits.sum(axis=0), len(requests)))
    if not scorer.binary or not all(request.option_texts for request in requests):
        return None, majority, hits
    guesses = np.array([[1 / len(request.option_texts)] for request in requests])
    chance = float(guesses.mean())
    return chance, majority, guesses if chance > majority else hits


def mean_score(
    name: str,
    scores: Sequence[Score],
    level: float = stats.LEVEL,
    weights: Sequence[float] | None = None,
) -> Score:
    """The mean over tasks, with an interval from resampling the items within each task.

    Where a task has all its items right or all wrong, there is nothing to resample in it; the mean
    then combines Wilson's intervals of the tasks instead. `weights` sum to 1; None for equal ones.
    """
    samples = np.average([score.samples for score in scores], axis=0, weights=weights)
    baseline_samples = np.average(
        [score.baseline_samples for score in scores], axis=0, weights=weights
    )
    mean = functools.partial(_mean, scores, weights)
    value = mean(lambda score: score.value)
    if len(scores) == 1:
        interval = scores[0].interval
    elif any(np.ptp(score.samples) == 0 for score in scores):
        values = [score.value for score in scores]
        intervals = [score.interval for score in scores]
        value, interval = stats.mean_of_intervals(values, intervals, weights)
    else:
        interval = stats.percentile_interval(samples, level)
    edge = stats.percentile_interval(samples - baseline_samples, level)
    metric_names = {score.metric for score in scores}
    has_chance = all(score.chance is not None for score in scores)
    return Score(
        name=name,
        metric=metric_names.pop() if len(metric_names) == 1 else "mixed",
        value=value,
        low=interval.low,
        high=interval.high,
        n=sum(score.n for score in scores),
        members=tuple(name for score in scores for name in score.members),
        held_out=_all_held_out(scores),
        unparsed=sum(score.unparsed for score in scores),
        chance=mean(lambda score: score.chance or 0.0) if has_chance else None,
        majority=mean(lambda score: score.majority),
        baseline=mean(lambda score: score.baseline),
        edge=mean(lambda score: score.edge),
        edge_low=edge.low,
        edge_high=edge.high,
        ceiling=mean(lambda score: score.ceiling),
        metrics={},
        samples=samples,
        baseline_samples=baseline_samples,
    )


def _all_held_out(scores: Sequence[Score]) -> bool | None:
    """False if one is held in, else None if it is not known of one, else True."""
    kinds = {score.held_out for score in scores}
    return False if False in kinds else None if None in kinds else True


def _mean(
    scores: Sequence[Score], weights: Sequence[float] | None, of: Callable[[Score], float]
) -> float:
    values = [of(score) for score in scores]
    if weights is None:
        return sum(values) / len(values)
    return sum(w * value for w, value in zip(weights, values, strict=True))


@dataclasses.dataclass(frozen=True)
class Difference:
    """How a score changed, `after - before`, on the same items.

    Attributes:
      name: of the task, cluster or mean.
      value, low, high: the difference and its interval (paired bootstrap over items).
      before, after: the two scores.
      gained, lost: items that scored higher, or lower; None for a corpus metric.
    """

    name: str
    value: float
    low: float
    high: float
    before: float
    after: float
    gained: int | None
    lost: int | None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two runs, item by item; `summary` has the keys of `Scores.summary`."""

    summary: Mapping[str, Difference]
    clusters: Mapping[str, Difference]
    tasks: Mapping[str, Difference]


def compare(before: Scores, after: Scores) -> Comparison:
    """The paired differences of two sets of scores of the same requests.

    Raises:
      UserError: the scores are of different items, or were resampled differently.
    """
    if before.items.keys() != after.items.keys():
        raise UserError(
            "only scores of the same items can be compared: "
            f"{len(before.items.keys() ^ after.items.keys())} items are in one run only"
        )
    how = [(scores.level, scores.seed, scores.resamples) for scores in (before, after)]
    if how[0] != how[1]:
        raise UserError(f"the two runs were resampled differently (level, seed, resamples): {how}")
    if before.summary().keys() != after.summary().keys():
        raise UserError(
            "the two runs differ in which tasks are held out: score both for the same mixture "
            "(`trained` of plan)"
        )
    moves: dict[str, list[int] | None] = {}
    for task in after.tasks:
        moves[task] = [0, 0]
    for item, old in before.items.items():
        new, counts = after.items[item], moves[item.rpartition("/")[0]]
        if counts is None:
            continue
        if old.value is None or new.value is None:
            moves[item.rpartition("/")[0]] = None
            continue
        counts[0] += new.value > old.value
        counts[1] += new.value < old.value

    def pair(old: Mapping[str, Score], new: Mapping[str, Score]) -> dict[str, Difference]:
        return {name: _difference(old[name], new[name], moves, after.level) for name in new}

    return Comparison(
        summary=pair(before.summary(), after.summary()),
        clusters=pair(before.clusters, after.clusters),
        tasks=pair(before.tasks, after.tasks),
    )


def _difference(
    before: Score, after: Score, moves: Mapping[str, Sequence[int] | None], level: float
) -> Difference:
    # Both were resampled with the same draws of the same items, so this is the paired bootstrap.
    interval = stats.percentile_interval(after.samples - before.samples, level)
    counts = [moves[task] for task in after.members]
    known = [count for count in counts if count is not None]
    complete = len(known) == len(counts)
    return Difference(
        name=after.name,
        value=after.value - before.value,
        low=interval.low,
        high=interval.high,
        before=before.value,
        after=after.value,
        gained=sum(count[0] for count in known) if complete else None,
        lost=sum(count[1] for count in known) if complete else None,
    )
