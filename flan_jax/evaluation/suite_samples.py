"""Samples for a report's page: drawn at random, the same items for every checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flan_jax.draws import Draws
from flan_jax.evaluation.run_files import EvaluatedCheckpoint

PER_SUBTASK = 6
# Of a page's samples as JSON; the page has about a megabyte beside them.
MOST_BYTES = 3_000_000
# Characters of a text that are kept: the end of a prompt, which has the question, and the start of
# other texts.
CLIP = 1_600


@dataclass(frozen=True)
class SampleTable:
    """Questions and what the checkpoints answered.

    Attributes:
      items: `protocol`, `subtask`, `id`, `prompt`, `target`.
      answers: `item` (its place in `items`), `checkpoint` (its label) and what became of it.
      per_subtask: items drawn of each subtask.
      clip: characters of a text that are kept.
      total: items that were evaluated, of all checkpoints and protocols.
    """

    items: list[dict[str, Any]]
    answers: list[dict[str, Any]]
    per_subtask: int
    clip: int
    total: int

    def as_json(self) -> str:
        """For a script element: no `<` in it."""
        text = json.dumps({"items": self.items, "answers": self.answers}, ensure_ascii=False)
        return text.replace("<", "\\u003c").replace("\u2028", "\\u2028")


@dataclass(frozen=True)
class _Candidate:
    """A row that may be shown; `rank` is its place in the draw, None if picked for its kind."""

    protocol: str
    subtask: str
    checkpoint: str
    row: dict[str, Any]
    rank: int | None


def draw_samples(
    checkpoints: Sequence[EvaluatedCheckpoint],
    *,
    per_subtask: int = PER_SUBTASK,
    most_bytes: int = MOST_BYTES,
    seed: int = 0,
) -> SampleTable:
    """Draws `per_subtask` items of each subtask; fewer, and shorter texts, if they do not fit.

    Where no item of a subtask that was drawn lacks an answer, one that does comes on top; likewise
    for cut questions and outputs that ended at the length limit. `drawn` is false for these.

    Args:
      checkpoints: what was evaluated.
      per_subtask: items to draw of each.
      most_bytes: of the samples as JSON.
      seed: of the draw.

    Raises:
      RunError: a file is missing or malformed.
    """
    if per_subtask < 1:
        raise ValueError(f"per_subtask must be >= 1, found {per_subtask}")
    candidates, total = _candidates(checkpoints, per_subtask, seed)
    clip = CLIP
    while True:
        table = _table(candidates, per_subtask, clip, total)
        if len(table.as_json().encode()) <= most_bytes or (per_subtask == 1 and clip < 100):
            return table
        if per_subtask > 1:
            per_subtask = (per_subtask + 1) // 2
        else:
            clip //= 2


def _candidates(
    checkpoints: Sequence[EvaluatedCheckpoint], per_subtask: int, seed: int
) -> tuple[list[_Candidate], int]:
    """(rows that may be shown, number of all rows)."""
    found: list[_Candidate] = []
    total = 0
    for checkpoint in checkpoints:
        for name, files in checkpoint.protocols.items():
            by_subtask: dict[str, list[dict[str, Any]]] = {}
            for subtask, row in files.rows():
                by_subtask.setdefault(subtask, []).append(row)
            for subtask, rows in by_subtask.items():
                total += len(rows)
                rows.sort(key=lambda row: row["id"])
                ranks = _choose(rows, per_subtask, Draws(seed, "report samples", name, subtask))
                found += [
                    _Candidate(name, subtask, checkpoint.label, rows[place], rank)
                    for place, rank in sorted(ranks.items())
                ]
    return found, total


_KINDS = (
    lambda row: row.get("parsed") is False,
    lambda row: row.get("truncated", 0) > 0,
    lambda row: row.get("ended") == "length",
)


def _choose(rows: list[dict[str, Any]], count: int, draws: Draws) -> dict[int, int | None]:
    """The rank in the draw of chosen rows by their place, None for those picked for their kind."""
    order = draws.shuffled(range(len(rows)))[:count]
    chosen: dict[int, int | None] = {place: rank for rank, place in enumerate(order)}
    for is_of_kind in _KINDS:
        if not any(is_of_kind(rows[place]) for place in chosen):
            place = next((place for place, row in enumerate(rows) if is_of_kind(row)), None)
            if place is not None:
                chosen[place] = None
    return chosen


def _table(
    candidates: Sequence[_Candidate], per_subtask: int, clip: int, total: int
) -> SampleTable:
    places: dict[tuple[str, str, str], int] = {}
    items: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    for found in candidates:
        if found.rank is not None and found.rank >= per_subtask:
            continue
        # Two checkpoints may have seen other prompts of one item: with fewer exemplars, say.
        prompt = found.row["input"]["inputs_pretokenized"]
        key = (found.protocol, found.row["id"], prompt)
        if key not in places:
            places[key] = len(items)
            items.append(_item(found, prompt, clip))
        answers.append(_answer(places[key], found, clip))
    return SampleTable(items, answers, per_subtask, clip, total)


def _item(found: _Candidate, prompt: str, clip: int) -> dict[str, Any]:
    return {
        "protocol": found.protocol,
        "subtask": found.subtask,
        "id": found.row["id"],
        "prompt": prompt if len(prompt) <= clip else "…" + prompt[-clip:],
        "target": _clipped(str(found.row.get("target", "")), clip // 4),
    }


def _answer(place: int, found: _Candidate, clip: int) -> dict[str, Any]:
    row = found.row
    answer: dict[str, Any] = {
        "item": place,
        "checkpoint": found.checkpoint,
        "output": _clipped(row["output"], clip),
        "prediction": _clipped(str(row.get("prediction", "")), clip // 4),
        "correct": row["correct"],
        "parsed": row.get("parsed", True),
        "drawn": found.rank is not None,
    }
    for key in ("truncated", "dropped_exemplars", "unknown_tokens", "prompt_tokens"):
        if row.get(key):
            answer[key] = row[key]
    if row.get("ended") == "length":
        answer["ended"] = "length"
    if row.get("representable") is False:
        answer["representable"] = False
    for key in ("votes", "option_scores"):
        if row.get(key):
            answer[key] = row[key]
    return answer


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "…"
