"""Reading what finished evaluations left in their folders (see `results.write_results`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flan_jax.errors import UserError
from flan_jax.evaluation.store import file_safe

# As `BenchmarkResult.as_dict` has it.
Result = dict[str, Any]
_NEEDED = (
    "name",
    "protocol",
    "score",
    "low",
    "high",
    "n",
    "subtasks",
    "subtask_details",
    "missing",
)


class RunError(UserError):
    """A folder or file is not what an evaluation leaves."""


@dataclass(frozen=True)
class ProtocolFiles:
    """One protocol's results of one checkpoint.

    Attributes:
      folder: of the run.
      step: of the checkpoint.
      result: see `BenchmarkResult.as_dict`.
      summary: the file that it is from.
    """

    folder: Path
    step: int
    result: Result
    summary: Path

    def path_of(self, subtask: str) -> Path:
        """The file of a subtask's items."""
        folder = self.folder / "inference_eval" / file_safe(self.result["name"])
        return folder / f"{file_safe(subtask)}-{self.step:06d}.jsonl"

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(subtask, row) of every item. Raises RunError: a file is missing or malformed."""
        for subtask in self.result["subtasks"]:
            for row in _read_rows(self.path_of(subtask)):
                yield subtask, row


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """All results of one checkpoint in a folder.

    Attributes:
      label: for tables; unique in a report.
      folder: where they are.
      step: of the checkpoint.
      protocols: by the names of protocols with their settings.
      trained_on: names of the mixtures that it was trained on; None if not known.
    """

    label: str
    folder: Path
    step: int
    protocols: Mapping[str, ProtocolFiles]
    trained_on: tuple[str, ...] | None


def read_result(path: Path | str) -> Result:
    """A result: of `flan-jax eval score --format json`, or of a job's summary.

    Raises:
      RunError: the file is neither.
    """
    document = _read_json(Path(path))
    found = document.get("benchmark") if "protocol_hash" in document else None
    result = found if isinstance(found, dict) else document
    if "protocol" in document and "summary" in document and not isinstance(found, dict):
        result = _result_of_tasks(document)
    missing = [key for key in _NEEDED if key not in result]
    if missing:
        raise RunError(
            f"{path} is no result of an evaluation (no {', '.join(missing)}); expected what "
            "'flan-jax eval score --format json' prints, or a job's summary-….json"
        )
    return result


def read_folders(folders: Sequence[Path | str]) -> list[EvaluatedCheckpoint]:
    """The evaluated checkpoints of all folders, by rising step within each.

    Raises:
      RunError: a folder has no results, or a file in it is damaged.
    """
    found = [
        (Path(folder), step, files)
        for folder in folders
        for step, files in _by_step(Path(folder)).items()
    ]
    labels = _labels([(folder, step) for folder, step, _ in found])
    return [
        EvaluatedCheckpoint(
            label, folder, step, {each.result["name"]: each for each in files}, _trained_on(files)
        )
        for label, (folder, step, files) in zip(labels, found, strict=True)
    ]


def _by_step(folder: Path) -> dict[int, list[ProtocolFiles]]:
    summaries = sorted(folder.glob("summary-*.json"))
    if not summaries:
        what = "no results of an evaluation" if folder.is_dir() else "no such folder"
        raise RunError(
            f"{folder}: {what}; expected the EVAL_OUTPUT_DIR of a 'flan-jax eval' job, which has "
            "files summary-<protocol>-<step>.json"
        )
    found: dict[int, list[ProtocolFiles]] = {}
    for summary in summaries:
        step = _read_json(summary).get("step")
        if not isinstance(step, int):
            raise RunError(f"{summary}: no step; delete it and run the evaluation again")
        result = read_result(summary)
        found.setdefault(step, []).append(ProtocolFiles(folder, step, result, summary))
    return dict(sorted(found.items()))


def _labels(places: Sequence[tuple[Path, int]]) -> list[str]:
    """Short and unique: the folder's name, with its step or its parents where that is needed."""
    names = [folder.resolve() for folder, _ in places]
    several = len(set(names)) < len(names)
    labels = [name.name for name in names]
    for depth in range(2, 6):
        if len({(label, step) for label, (_, step) in zip(labels, places, strict=True)}) == len(
            places
        ):
            break
        labels = ["/".join(name.parts[-depth:]) for name in names]
    if several or len(set(labels)) < len(labels):
        labels = [f"{label} @ {step}" for label, (_, step) in zip(labels, places, strict=True)]
    if len(set(labels)) < len(labels):
        raise RunError(f"a folder is given twice: {', '.join(labels)}")
    return labels


def _trained_on(files: Sequence[ProtocolFiles]) -> tuple[str, ...] | None:
    known = _read_json(files[0].summary).get("trained_on")
    return None if known is None else tuple(known)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict):
        raise RunError(f"{path}: expected a JSON object, found {type(document).__name__}")
    return document


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot read {path}: {error}; run the evaluation again") from error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
            _ = row["id"], row["output"], row["correct"], row["input"]["inputs_pretokenized"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path}, line {number}: no row of an evaluation ({type(error).__name__}: {error})"
            ) from error
        rows.append(row)
    return rows


_PART = ("score", "low", "high", "n", "chance", "normalized", "majority", "ceiling")


def _result_of_tasks(summary: Mapping[str, Any]) -> Result:
    """A summary of tasks of a mixture, put as a benchmark's result."""
    protocol, tasks = summary["protocol"], summary["tasks"]
    overall = summary["summary"]["overall"]
    held_out = {True: "held out", False: "not held out"}.get(overall["held_out"], "unknown")
    clusters = summary["clusters"].items()
    return {
        "name": protocol["name"],
        "protocol": protocol["name"],
        "benchmark": ", ".join(protocol.get("mixture_or_tasks") or ()),
        "variant": protocol.get("variant", ""),
        "split": protocol.get("split", ""),
        "metric": overall["metric"],
        "mean": "macro",
        **_part_of(overall),
        "subtasks": {name: task["value"] for name, task in tasks.items()},
        "subtask_details": {name: _part_of(task) for name, task in tasks.items()},
        "groups": {name: _part_of(c) | {"subtasks": list(c["members"])} for name, c in clusters},
        "exposure": {"label": held_out, "reason": "by the mixtures it was trained on"},
        "protocol_hash": summary["protocol_hash"],
        "items_hash": summary["protocol_hash"],
        "missing": 0,
        "choices": [],
        "notes": [],
        "noise": None,
    }


def _part_of(score: Mapping[str, Any]) -> dict[str, Any]:
    chance = score["chance"] or 0.0
    value = score["value"]
    normalized = 100 * (value - chance) / (100 - chance)
    known = (value, score["low"], score["high"], score["n"], chance, normalized)
    row = dict(zip(_PART, (*known, score["majority"], score["ceiling"]), strict=True))
    return row | {"metrics": score["metrics"], "counts": {"unparsed": score["unparsed"]}}
