"""Choosing a checkpoint by its scores on one split, and saying so wherever that split is reported.

The best of many checkpoints on a split looks better there than it is: the Flan paper (Chung et al.,
2022, section 2.2) chose its steps on the held-out tasks that it reports. Choose on one split,
report on another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flan_jax.errors import UserError
from flan_jax.suggestions import did_you_mean

BIASED = "selection-biased"


@dataclass(frozen=True)
class Summary:
    """A benchmark's summary at a step, as `write_results` left it. Scores in percent.

    Attributes:
      step: of the checkpoint.
      name: of the protocol with its settings.
      protocol, benchmark, split: what was asked.
      protocol_hash: of all prompts and answers.
      score, low, high: with its interval.
      normalized: the score against guessing.
      path: of the file.
    """

    step: int
    name: str
    protocol: str
    benchmark: str
    split: str
    protocol_hash: str
    score: float
    low: float
    high: float
    normalized: float
    path: Path


@dataclass(frozen=True)
class Reported:
    """A score of the chosen checkpoint; `biased` if its split is what the choice was made on."""

    summary: Summary
    biased: bool


@dataclass(frozen=True)
class Selection:
    """A chosen checkpoint.

    Attributes:
      step: the chosen one.
      values: mean normalised score on the selection split, in percent, by step.
      names: protocols (with their settings) that were averaged.
      incomplete: steps that lack one of these protocols, and were not considered.
      reported: all scores of the chosen step.
    """

    step: int
    values: dict[int, float]
    names: tuple[str, ...]
    incomplete: tuple[int, ...]
    reported: tuple[Reported, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "step": self.step,
            "selected_on": list(self.names),
            "mean_normalized": {str(step): value for step, value in self.values.items()},
            "incomplete_steps": list(self.incomplete),
            "reported": [
                {
                    "name": each.summary.name,
                    "split": each.summary.split,
                    "score": each.summary.score,
                    "low": each.summary.low,
                    "high": each.summary.high,
                    "selection_biased": each.biased,
                }
                for each in self.reported
            ],
        }


def read_summaries(folder: Path | str) -> list[Summary]:
    """All benchmarks' summaries in a folder, by name and step.

    Raises:
      UserError: there are none, or one is damaged.
    """
    found = []
    for path in sorted(Path(folder).glob("summary-*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if "benchmark" in content:
                found.append(_summary(content, path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a summary of an evaluation ({error})") from error
    if not found:
        raise UserError(
            f"{folder} holds no summary of a benchmark (summary-<protocol>-<step>.json): give the "
            "output folder of `flan-jax eval`, or the MODEL_DIR of a run with INFER_EVAL"
        )
    return found


def _summary(content: dict[str, Any], path: Path) -> Summary:
    part = content["benchmark"]
    return Summary(
        step=content["step"],
        name=part["name"],
        protocol=part["protocol"],
        benchmark=part["benchmark"],
        split=part["split"],
        protocol_hash=content["protocol_hash"],
        path=path,
        **{key: part[key] for key in ("score", "low", "high", "normalized")},
    )


def select(
    summaries: Sequence[Summary], protocols: Sequence[str] = (), split: str | None = None
) -> Selection:
    """The step with the best mean normalised score; the earliest of equals.

    Args:
      summaries: of several steps.
      protocols: what to judge by, by name with settings or without; all if empty.
      split: only results on this one; needed where a protocol was asked on several.

    Raises:
      UserError: nothing fits, or a step asked other questions than another.
    """
    chosen = [s for s in summaries if split is None or s.split == split]
    if not chosen:
        known = sorted({s.split for s in summaries})
        raise UserError(
            f"nothing was evaluated on the split {split!r}{did_you_mean(str(split), known)} "
            f"({', '.join(known)})"
        )
    if protocols:
        chosen = _named(chosen, protocols)
    _check_one_split(chosen)
    _check_comparable(chosen)
    names = tuple(sorted({s.name for s in chosen}))
    by_step: dict[int, dict[str, Summary]] = {}
    for summary in chosen:
        by_step.setdefault(summary.step, {})[summary.name] = summary
    values = {
        step: sum(s.normalized for s in found.values()) / len(names)
        for step, found in sorted(by_step.items())
        if len(found) == len(names)
    }
    if not values:
        raise UserError(f"no step has results of all of {', '.join(names)}")
    best = max(values, key=lambda step: (values[step], -step))
    # Under whatever protocol: direct and by reasoning, the items are the same.
    used = {(s.benchmark, s.split) for s in chosen}
    reported = (s for s in summaries if s.step == best)
    return Selection(
        step=best,
        values=values,
        names=names,
        incomplete=tuple(sorted(set(by_step) - set(values))),
        reported=tuple(Reported(s, (s.benchmark, s.split) in used) for s in reported),
    )


def _named(summaries: Sequence[Summary], names: Sequence[str]) -> list[Summary]:
    known = {name for s in summaries for name in (s.name, s.protocol)}
    for name in names:
        if name not in known:
            raise UserError(
                f"no step was evaluated under {name!r}{did_you_mean(name, known)} "
                f"({', '.join(sorted({s.name for s in summaries}))})"
            )
    return [s for s in summaries if s.name in names or s.protocol in names]


def _check_one_split(summaries: Sequence[Summary]) -> None:
    splits: dict[str, set[str]] = {}
    for summary in summaries:
        splits.setdefault(summary.protocol, set()).add(summary.split)
    for protocol, several in splits.items():
        if len(several) > 1:
            raise UserError(
                f"{protocol} was evaluated on {', '.join(sorted(several))}: say by --split on "
                "which to choose, and report the other"
            )


def _check_comparable(summaries: Sequence[Summary]) -> None:
    first: dict[str, Summary] = {}
    for summary in summaries:
        other = first.setdefault(summary.name, summary)
        if other.protocol_hash != summary.protocol_hash:
            raise UserError(
                f"{summary.name} asked other questions at step {summary.step} than at step "
                f"{other.step} (protocol hashes {summary.protocol_hash}, {other.protocol_hash}): "
                "evaluate both anew"
            )
