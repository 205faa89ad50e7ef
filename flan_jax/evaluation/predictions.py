"""Predictions made by any system: read, matched with a benchmark's items, and judged.

A file holds JSON lines `{"id": "<subtask>/<index>", "prediction": "…"}`; a list of predictions is
a list of paths, whose majority counts.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flan_jax.errors import UserError
from flan_jax.evaluation.benchmark_requests import request_to_judge
from flan_jax.evaluation.benchmarks import BenchmarkProtocol
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.voting import cut, vote
from flan_jax.suggestions import did_you_mean


class PredictionsError(UserError):
    """A file of predictions cannot be read, or does not fit the benchmark."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Outputs matched with items.

    Attributes:
      requests: the items that have a prediction, in the benchmark's order.
      outputs: by request id; of several paths the one that won.
      votes: votes by answer, by request id, where there were several paths.
      missing: ids without a prediction.
    """

    requests: list[Request]
    outputs: dict[str, str]
    votes: dict[str, dict[str, int]]
    missing: list[str]


def requests_to_judge(protocol: BenchmarkProtocol) -> list[Request]:
    """The items as requests without token ids: enough to judge answers, not to ask for them.

    The prompt is the question alone, as nobody knows which one another system was given.

    Raises:
      UserError: the benchmark's files are missing or malformed.
    """
    return [
        request_to_judge(protocol, subtask, item)
        for subtask, items in protocol.items().items()
        for item in items
    ]


def read_predictions(path: Path | str) -> dict[str, str | list[str]]:
    """Predictions by the ids that the file has.

    Raises:
      PredictionsError: naming the line that is malformed, or repeats an id.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PredictionsError(f"cannot read predictions from {path}: {error}") from error
    found: dict[str, str | list[str]] = {}
    first_line: dict[str, int] = {}
    # Not splitlines: JSON strings may hold other characters that end lines, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        identity, prediction = _row(line, f"{path}, line {number}")
        if identity in found:
            raise PredictionsError(
                f"{path}, line {number}: {identity!r} has a prediction on line "
                f"{first_line[identity]} already; give several paths as a list in one row"
            )
        found[identity], first_line[identity] = prediction, number
    if not found:
        raise PredictionsError(
            f"{path} holds no predictions; expected lines like "
            '{"id": "<subtask>/<index>", "prediction": "…"}'
        )
    return found


def _row(line: str, where: str) -> tuple[str, str | list[str]]:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise PredictionsError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise PredictionsError(f"{where}: expected an object, found {_kind(row)}")
    for key in ("id", "prediction"):
        if key not in row:
            raise PredictionsError(f"{where}: no {key!r}{did_you_mean(key, row)}")
    identity, prediction = row["id"], row["prediction"]
    if not isinstance(identity, str):
        raise PredictionsError(f"{where}: 'id' must be a text, found {_kind(identity)}")
    several = isinstance(prediction, list)
    if several and prediction and all(isinstance(path, str) for path in prediction):
        return identity, prediction
    if several or not isinstance(prediction, str):
        raise PredictionsError(
            f"{where}: 'prediction' must be a text or a list of texts, found {_kind(prediction)}"
        )
    return identity, prediction


def _kind(value: Any) -> str:
    """A JSON value in words, such as `the number 3`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "an object"
    return f"the number {value}" if isinstance(value, int | float) else f"the text {value!r}"


def match(
    protocol: BenchmarkProtocol,
    requests: Sequence[Request],
    found: Mapping[str, str | list[str]],
    *,
    partial: bool = False,
) -> Predictions:
    """Finds the item of each prediction; subtasks may go by their aliases.

    Outputs end before the protocol's stop texts, as those of its own job do.

    Args:
      protocol: knows the names of subtasks.
      requests: its items.
      found: predictions by id.
      partial: whether items may be without a prediction.

    Raises:
      PredictionsError: an id is of no item, two ids name one item, or predictions are missing.
    """
    by_id = {request.id: request for request in requests}
    matched: dict[str, str | list[str]] = {}
    for given, prediction in found.items():
        identity = _identity(protocol, given, by_id)
        if identity in matched:
            raise PredictionsError(f"two predictions for {identity!r} (one of them as {given!r})")
        matched[identity] = prediction
    missing = [identity for identity in by_id if identity not in matched]
    if missing and not partial:
        raise PredictionsError(
            f"{len(missing):,} of {len(by_id):,} items of {protocol.name} ({protocol.split}) have "
            f"no prediction ({', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}); "
            "--partial scores those that have one"
        )
    asked = [request for request in requests if request.id in matched]
    outputs: dict[str, str] = {}
    votes: dict[str, dict[str, int]] = {}
    for request in asked:
        prediction = matched[request.id]
        paths = prediction if isinstance(prediction, list) else [prediction]
        paths = [cut(path, protocol.definition.stop)[0] for path in paths]
        chosen = 0
        if isinstance(prediction, list):
            chosen, votes[request.id] = vote(request, paths)
        outputs[request.id] = paths[chosen]
    return Predictions(asked, outputs, votes, missing)


def _identity(protocol: BenchmarkProtocol, given: str, by_id: Mapping[str, Request]) -> str:
    """The item's id. Raises PredictionsError if it is of no item."""
    if given in by_id:
        return given
    name, slash, index = given.rpartition("/")
    if not slash:
        raise PredictionsError(
            f"{given!r} is no id of an item: expected '<subtask>/<index>', such as "
            f"{next(iter(by_id))!r}{did_you_mean(given, by_id)}"
        )
    try:
        subtask = protocol.definition.subtask(name)
    except UserError as error:
        raise PredictionsError(f"id {given!r}: {error}") from error
    if f"{subtask}/{index}" in by_id:
        return f"{subtask}/{index}"
    count = sum(request.task == subtask for request in by_id.values())
    raise PredictionsError(
        f"id {given!r}: subtask {subtask} of {protocol.name} ({protocol.split}) has no item "
        f"{index!r}; {count:,} of its items are scored{_other_splits(protocol)}"
    )


def _other_splits(protocol: BenchmarkProtocol) -> str:
    others = [split for split in protocol.definition.splits if split != protocol.split]
    return f"; for other splits: --split {' or '.join(others)}" if others else ""
