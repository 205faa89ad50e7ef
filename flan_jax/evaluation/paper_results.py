"""Published results: what a report holds a run against.

The tables are content (`mixtures/benchmarks/paper_results*.csv`, from arXiv:2210.11416v5 and the
sources that each row names); scores in percent.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flan_jax.errors import UserError
from flan_jax.evaluation.benchmark_scores import normalize
from flan_jax.evaluation.benchmarks import ProtocolDefinition
from flan_jax.evaluation.normalized_average import NormalizedAverage, Suite, normalized_average
from flan_jax.suggestions import did_you_mean

# Has the tables beside it.
CONTENT_PACKAGE = "flan_jax.mixtures.benchmarks"
NORMALIZED_AVERAGE = "normalized_average"
# Printed figures are rounded to a tenth: means of them cannot differ by more than this.
ROUNDING = 0.1


@dataclass(frozen=True)
class Reference:
    """A published result of a benchmark.

    Attributes:
      model: whose.
      score: in percent.
      subtasks: scores by subtask, where they are published.
      source: table.
      notes: what is known to be wrong or unreadable in the print.
    """

    model: str
    score: float
    subtasks: Mapping[str, float]
    source: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecomputedAverage:
    """A published normalized average beside the one that its published parts give.

    Attributes:
      model: whose.
      published: as printed.
      recomputed: from the parts.
      flags: why the two need not agree; empty if the parts agree among themselves.
    """

    model: str
    published: float
    recomputed: NormalizedAverage
    flags: tuple[str, ...]

    @property
    def difference(self) -> float:
        """Recomputed less published."""
        return self.recomputed.value - self.published


Row = dict[str, str]


@functools.cache
def _rows(table: str) -> tuple[Row, ...]:
    spec = importlib.util.find_spec(CONTENT_PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).with_name(f"{table}.csv")
    with path.open(encoding="utf-8", newline="") as lines:
        return tuple(_named(list(csv.DictReader(lines))))


def _named(rows: list[Row]) -> list[Row]:
    """Rows with `model` made unique: with its size where a model comes in several."""
    sizes: dict[str, set[str]] = {}
    for row in rows:
        sizes.setdefault(row["model"], set()).add(row["size"])
    for row in rows:
        if len(sizes[row["model"]]) > 1:
            row["model"] = f"{row['model']} {row['size']}"
    return rows


def models() -> tuple[str, ...]:
    """Models that have a published result, in the order of the table."""
    return tuple(dict.fromkeys(row["model"] for row in _rows("paper_results")))


def find_model(name: str) -> str:
    """A model by its name, in whatever case and with `-` for a space.

    Raises:
      UserError: there is none of that name; with a suggestion.
    """
    if name in models():
        return name
    # Of names that differ in case only, the first: the paper's own.
    folded = {_fold(model): model for model in reversed(models())}
    if _fold(name) not in folded:
        raise UserError(
            f"no published result is of a model called {name!r}{did_you_mean(name, models())} "
            f"({', '.join(models())})"
        )
    return folded[_fold(name)]


def _fold(name: str) -> str:
    return name.casefold().replace("-", " ")


def reference(definition: ProtocolDefinition, split: str, model: str) -> Reference | None:
    """What `model` is published to have scored under a protocol; None if that is not published.

    Another split than the definition's own is another benchmark there, such as `MMLU (test)`.
    """
    benchmark, setting = definition.paper_benchmark, definition.paper_setting
    if not benchmark:
        return None
    if split != definition.split:
        # Tables of other splits name settings by a word.
        benchmark = f"{benchmark} ({split})"
        setting = "CoT" if "CoT" in setting else "direct"
    found = _find(model, benchmark, setting)
    if found is None:
        return None
    subtasks, notes = _subtasks(model, benchmark, setting)
    notes = ([found["note"]] if found["note"] else []) + notes
    return Reference(model, float(found["score"]), subtasks, found["source"], tuple(notes))


def published_average(model: str) -> float | None:
    """The published normalized average of `model`, None if there is none."""
    found = _find(model, NORMALIZED_AVERAGE, "6 settings")
    return None if found is None else float(found["score"])


def _find(model: str, benchmark: str, setting: str) -> Row | None:
    key = (model, benchmark, setting)
    matching = (
        row
        for row in _rows("paper_results")
        if (row["model"], row["benchmark"], row["setting"]) == key
    )
    return next(matching, None)


def _subtasks(model: str, benchmark: str, setting: str) -> tuple[dict[str, float], list[str]]:
    """(scores by subtask, notes on them)."""
    column = "cot" if "CoT" in setting else "direct"
    if benchmark == "BBH":
        rows = [row for row in _rows("paper_results_bbh_tasks") if row["model"] == model]
        scores = {row["task"]: float(row[column]) for row in rows}
        notes = [f"{row['task']}: {row['note']}" for row in rows if row["note"]]
        return scores, notes
    rows = [
        row
        for row in _rows("paper_results_languages")
        if (row["model"], row["benchmark"]) == (model, benchmark)
    ]
    return {row["language"]: float(row["score"]) for row in rows}, []


def recompute_averages(
    suite: Suite, definitions: Mapping[str, ProtocolDefinition]
) -> list[RecomputedAverage]:
    """Every published normalized average, recomputed from the published parts.

    A row is flagged where a benchmark's printed subtasks do not average to its printed score.

    Args:
      suite: the six components.
      definitions: by the components' names; they say what chance is.
    """
    recomputed = []
    for model in models():
        published = published_average(model)
        parts = {
            name: reference(definition, definition.split, model)
            for name, definition in definitions.items()
        }
        found = {name: part for name, part in parts.items() if part is not None}
        if published is None or len(found) < len(parts):
            continue
        normalized = {name: _normalized(definitions[name], part) for name, part in found.items()}
        flags = tuple(flag for name, part in found.items() for flag in _flags(name, part))
        average = normalized_average(suite, normalized)
        recomputed.append(RecomputedAverage(model, published, average, flags))
    return recomputed


def _normalized(definition: ProtocolDefinition, part: Reference) -> float:
    """The mean of the subtasks' normalised scores where all are published, else of the score."""
    chance = definition.chance
    if set(part.subtasks) == set(definition.subtasks):
        values = [normalize(score, chance.get(s, 0.0)) for s, score in part.subtasks.items()]
        return sum(values) / len(values)
    chances = {chance.get(subtask, 0.0) for subtask in definition.subtasks}
    if len(chances) > 1:
        raise UserError(
            f"{definition.name}: chance differs between subtasks, so that the mean of "
            f"{part.model} cannot be normalised without its subtasks' scores"
        )
    return normalize(part.score, chances.pop())


def _flags(name: str, part: Reference) -> list[str]:
    if not part.subtasks:
        return []
    mean = sum(part.subtasks.values()) / len(part.subtasks)
    if abs(mean - part.score) <= ROUNDING:
        return []
    return [
        f"{name}: the printed subtasks average to {mean:.1f}, the printed score is {part.score:.1f}"
    ]
