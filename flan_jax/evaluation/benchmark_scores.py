"""The result of one protocol: its score, what it is made of, and how far it can be trusted.

Scores, intervals and differences are in percent. `schemas/benchmark_result.json` describes
`BenchmarkResult.as_dict()`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from flan_jax.evaluation import statistics as stats
from flan_jax.evaluation.benchmarks import BenchmarkProtocol, Choice, ProtocolDefinition
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.scorers import get_scorer
from flan_jax.evaluation.scores import Score, Scores, mean_score, score
from flan_jax.overlap.benchmarks import is_benchmark
from flan_jax.overlap.held_out import UNKNOWN, HeldOutStatus, Trained, held_out_status

FORMAT = 1
# What a prompt or an output may have suffered; counted for a benchmark and for each subtask.
COUNTS = (
    "unparsed",
    "truncated",
    "dropped_exemplars",
    "unknown_tokens",
    "length_limited",
    "unrepresentable",
)


@dataclasses.dataclass(frozen=True)
class Part:
    """The score of a subtask, or of a group of them. Scores in percent.

    Attributes:
      score, low, high: with its confidence interval.
      n: items.
      subtasks: of a group.
      chance: score of guessing.
      normalized: 100 (score - chance) / (100 - chance), averaged over a group's subtasks.
      majority: score of always giving the most frequent answer.
      ceiling: share of items of which the vocabulary can write a right answer, in percent; None
        for predictions from elsewhere, whose vocabulary is not known.
      metrics: all metrics by name, the score's own included.
      counts: items by what befell them, see COUNTS.
    """

    score: float
    low: float
    high: float
    n: int
    subtasks: tuple[str, ...]
    chance: float
    normalized: float
    majority: float
    ceiling: float | None
    metrics: Mapping[str, float]
    counts: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """One protocol's result. Scores in percent.

    Attributes:
      name: of the protocol with its settings, as in the names of files.
      protocol: name of its definition, such as `bbh_cot`.
      benchmark, variant, split, metric: as in the definition.
      mean: which mean the score is: `macro` counts each subtask once, `micro` each item.
      overall: the score.
      macro, micro: both means.
      subtasks: as asked; those that the definition calls extra are in no mean.
      groups: means over named groups of subtasks.
      noise: what the score's own noise hides, in percentage points.
      exposure: whether the benchmark was held out from training, and why that is said.
      protocol_hash: of all prompts and right answers; None for predictions from elsewhere, whose
        prompts are not known.
      items_hash: of the right answers and the metrics alone.
      missing: items of the protocol that have no prediction.
      settings: of the run: items a subtask, shots, seed, decoding, paths.
      choices: what the protocol decided, and on whose authority.
      notes: what else must be said of it, such as that an item is not scored.
      level, resamples, seed: of the intervals.
    """

    name: str
    protocol: str
    benchmark: str
    variant: str
    split: str
    metric: str
    mean: Literal["macro", "micro"]
    overall: Part
    macro: float
    micro: float
    subtasks: Mapping[str, Part]
    groups: Mapping[str, Part]
    noise: stats.NoiseFloor
    exposure: HeldOutStatus
    protocol_hash: str | None
    items_hash: str
    missing: int
    settings: Mapping[str, Any]
    choices: Sequence[Choice]
    notes: Sequence[str]
    level: float
    resamples: int
    seed: int

    @property
    def score(self) -> float:
        """The benchmark's score."""
        return self.overall.score

    def as_dict(self) -> dict[str, Any]:
        """For JSON, as schemas/benchmark_result.json has it."""
        overall = dataclasses.asdict(self.overall)
        del overall["subtasks"]
        return {
            "format": FORMAT,
            **{key: getattr(self, key) for key in _HEAD},
            **overall,
            "macro": self.macro,
            "micro": self.micro,
            "subtasks": {name: part.score for name, part in self.subtasks.items()},
            "extra_subtasks": [n for n in self.subtasks if n not in self.overall.subtasks],
            "groups": {name: _asdict(part, "subtasks") for name, part in self.groups.items()},
            "subtask_details": {name: _asdict(part) for name, part in self.subtasks.items()},
            "noise": self.noise._asdict() | {"correlation": stats.PAIRED_CORRELATION},
            "exposure": dataclasses.asdict(self.exposure),
            "interval": {"level": self.level, "resamples": self.resamples, "seed": self.seed},
            "choices": [dataclasses.asdict(choice) for choice in self.choices],
            "notes": list(self.notes),
            **{key: getattr(self, key) for key in _TAIL},
        }


_HEAD = ("name", "protocol", "benchmark", "variant", "split", "metric", "mean")
_TAIL = ("settings", "missing", "items_hash", "protocol_hash")


def _asdict(part: Part, *keep: str) -> dict[str, Any]:
    row = dataclasses.asdict(part)
    return {k: list(v) if k in keep else v for k, v in row.items() if k != "subtasks" or keep}


def benchmark_result(
    protocol: BenchmarkProtocol,
    requests: Sequence[Request],
    predictions: Mapping[str, str],
    *,
    ended: Mapping[str, str] | None = None,
    trained: Trained = None,
    protocol_hash: str | None = None,
    missing: int = 0,
    scores: Scores | None = None,
    resamples: int = stats.RESAMPLES,
    seed: int = 0,
    level: float = stats.LEVEL,
) -> BenchmarkResult:
    """Scores `predictions` of `requests` as `protocol` says.

    Args:
      protocol: what was asked.
      requests: its items, all or some of them.
      predictions: outputs by request id; of several paths the one that won the vote; of ranked
        options the one taken.
      ended: by request id how the output ended: `eos`, `stop` or `length`; None if not known.
      trained: as in `requests.plan`; decides the exposure.
      protocol_hash: the protocol's, if the predictions answer its own prompts.
      missing: items that were not asked or answered; they are no part of the score.
      scores: what `score(requests, predictions)` gave, if that was called already.
      resamples, seed, level: of the intervals.

    Raises:
      UserError: no requests, or a prediction is missing.
    """
    definition = protocol.definition
    scored = scores or score(requests, predictions, resamples=resamples, seed=seed, level=level)
    tasks = scored.tasks
    parts = _subtasks(definition, requests, scored, ended or {})
    # Extra subtasks count only where nothing else was asked.
    extra = definition.extra_subtasks
    counted = {name: task for name, task in tasks.items() if name not in extra} or tasks
    members = list(counted.values())
    means = {
        kind: mean_score(kind, members, level, weights_of(kind, members))
        for kind in ("macro", "micro")
    }
    return BenchmarkResult(
        **_identity(protocol),
        overall=_mean_part(definition, counted, parts, level),
        macro=100 * means["macro"].value,
        micro=100 * means["micro"].value,
        subtasks=parts,
        groups=_groups(definition, tasks, parts, level),
        noise=_noise(means[definition.mean], members, level),
        exposure=exposure_of(definition.benchmark, trained),
        protocol_hash=protocol_hash,
        items_hash=items_hash(requests),
        missing=missing,
        notes=_notes(protocol, list(tasks)),
        level=scored.level,
        resamples=scored.resamples,
        seed=scored.seed,
    )


def weights_of(mean: str, tasks: Sequence[Score]) -> list[float] | None:
    """The subtasks' weights in a `macro` or `micro` mean, which sum to 1; None for equal ones."""
    if mean == "macro":
        return None
    total = sum(task.n for task in tasks)
    return [task.n / total for task in tasks]


def exposure_of(benchmark: str, trained: Trained) -> HeldOutStatus:
    """Whether `benchmark` is held out from what a model was trained on."""
    if not is_benchmark(benchmark):
        return HeldOutStatus(UNKNOWN, f"nothing is declared of where {benchmark} comes from")
    return held_out_status(trained, benchmark)


def items_hash(requests: Sequence[Request]) -> str:
    """16 hexadecimal digits of the items' ids, right answers and metrics, in whatever order.

    Two systems' scores are of the same items, judged in the same way, if these are equal; how the
    items were asked is not told by it.
    """
    digest = hashlib.blake2b(digest_size=8)
    for request in sorted(requests, key=lambda request: request.id):
        known = [request.id, request.answer, request.references, request.options, request.metrics]
        digest.update(json.dumps(known).encode())
    return digest.hexdigest()


def normalize(value: float, chance: float) -> float:
    """100 (value - chance) / (100 - chance): 0 for guessing, 100 for all right; in percent."""
    return 100 * (value - chance) / (100 - chance)


def _subtasks(
    definition: ProtocolDefinition,
    requests: Sequence[Request],
    scored: Scores,
    ended: Mapping[str, str],
) -> dict[str, Part]:
    by_task: dict[str, list[Request]] = {}
    for request in requests:
        by_task.setdefault(request.task, []).append(request)
    return {
        name: _part(definition, task, by_task[name], scored, ended)
        for name, task in scored.tasks.items()
    }


def _part(
    definition: ProtocolDefinition,
    task: Score,
    requests: Sequence[Request],
    scored: Scores,
    ended: Mapping[str, str],
) -> Part:
    chance = float(definition.chance.get(task.name, 0.0))
    majority = 100 * task.majority
    if get_scorer(task.metric).binary:
        # By the answer as it is asked for: of `(B)`, not of the text that this item has there.
        majority = 100 * max(Counter(r.answer for r in requests).values()) / len(requests)
    return Part(
        score=float(100 * task.value),
        low=float(100 * task.low),
        high=float(100 * task.high),
        n=task.n,
        subtasks=task.members,
        chance=chance,
        normalized=normalize(100 * task.value, chance),
        majority=majority,
        ceiling=100 * task.ceiling if requests[0].tokens else None,
        metrics={name: 100 * value for name, value in task.metrics.items()},
        counts={
            "unparsed": sum(not scored.items[r.id].parsed for r in requests),
            "truncated": sum(r.truncated > 0 for r in requests),
            "dropped_exemplars": sum(r.dropped_exemplars > 0 for r in requests),
            "unknown_tokens": sum(r.unknown_tokens > 0 for r in requests),
            "length_limited": sum(ended.get(r.id) == "length" for r in requests),
            "unrepresentable": sum(not r.representable for r in requests),
        },
    )


def _mean_part(
    definition: ProtocolDefinition,
    tasks: Mapping[str, Score],
    parts: Mapping[str, Part],
    level: float,
) -> Part:
    """The mean over `tasks` that the definition asks for."""
    members = list(tasks.values())
    weights = weights_of(definition.mean, members)
    mean = mean_score(definition.mean, members, level, weights)
    chosen = [parts[name] for name in tasks]
    unknown = any(part.ceiling is None for part in chosen)

    def averaged(of: Callable[[Part], float]) -> float:
        if weights is None:
            return sum(map(of, chosen)) / len(chosen)
        return sum(w * of(part) for w, part in zip(weights, chosen, strict=True))

    return Part(
        score=float(100 * mean.value),
        low=float(100 * mean.low),
        high=float(100 * mean.high),
        n=mean.n,
        subtasks=tuple(tasks),
        chance=averaged(lambda part: part.chance),
        normalized=averaged(lambda part: part.normalized),
        majority=averaged(lambda part: part.majority),
        ceiling=None if unknown else averaged(lambda part: part.ceiling or 0.0),
        metrics={definition.metrics[0]: float(100 * mean.value)}
        | {
            metric: averaged(lambda part, metric=metric: part.metrics[metric])
            for metric in definition.metrics[1:]
        },
        counts={what: sum(part.counts[what] for part in chosen) for what in COUNTS},
    )


def _groups(
    definition: ProtocolDefinition,
    tasks: Mapping[str, Score],
    parts: Mapping[str, Part],
    level: float,
) -> dict[str, Part]:
    """Groups of which all subtasks were asked."""
    return {
        name: _mean_part(definition, {m: tasks[m] for m in members}, parts, level)
        for name, members in definition.groups.items()
        if members and all(member in tasks for member in members)
    }


def _noise(mean: Score, tasks: Sequence[Score], level: float) -> stats.NoiseFloor:
    """In percentage points."""
    error = float(mean.samples.std())
    if error == 0:  # all right or all wrong: nothing to resample
        error = float(mean.high - mean.low) / 2 / stats.z_of(level)
    weights = weights_of(mean.name, tasks) or [1 / len(tasks)] * len(tasks)
    floor = stats.noise_floor(error, [task.n for task in tasks], weights, level)
    return stats.NoiseFloor(*(100 * value for value in floor))


def _notes(protocol: BenchmarkProtocol, subtasks: Sequence[str]) -> list[str]:
    notes = protocol.definition.notes
    if notes is None:
        return []
    return [note for name in subtasks for note in notes(name, str(protocol.split))]


def _identity(protocol: BenchmarkProtocol) -> dict[str, Any]:
    """What a result says of its protocol alone."""
    definition = protocol.definition
    return {
        "name": str(protocol.name),
        "protocol": definition.name,
        "benchmark": definition.benchmark,
        "variant": definition.variant,
        "split": str(protocol.split),
        "metric": definition.metrics[0],
        "mean": definition.mean,
        "choices": definition.choices,
        "settings": {
            "subtasks": len(protocol.subtasks or ()),
            "num_examples": protocol.num_examples,
            "shots": protocol.shots,
            "seed": protocol.seed,
            "decoding": protocol.decoding(),
            "paths": protocol.paths,
        },
    }
