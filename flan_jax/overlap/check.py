"""Is a benchmark held out from a mixture? By declaration, and by comparing texts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flan_jax.mixing import MixtureDefinition
from flan_jax.overlap.benchmarks import Benchmark, get_benchmark
from flan_jax.overlap.declared import RELATIONS, Declaration, derivations, relations
from flan_jax.overlap.ngrams import Index
from flan_jax.overlap.scan import Found, TaskScan, scan_tasks
from flan_jax.overlap.text import COMMON, NGRAM
from flan_jax.realised import missing_data
from flan_jax.sources.base import SourceError
from flan_jax.tasks import TaskDefinition

OVERLAPPING, PROVEN, UNKNOWN = "overlapping", "proven", "unknown"


@dataclass(frozen=True)
class Pair:
    """What is known of one task and one benchmark.

    Attributes:
      task: the task's name.
      status: `overlapping` (declared or found), `proven` (disjoint: all of both was read, nothing
        is shared or declared), `unknown`.
      why: why it is unknown, or that it could only be judged in part.
      declared: why the task stems from the benchmark's data.
      related: what else connects them; no overlap.
      rows: rows of the task that were read; None if none.
      found: texts that they share, None if there are none.
    """

    task: str
    status: str
    why: str
    declared: tuple[Declaration, ...]
    related: tuple[Declaration, ...]
    rows: int | None
    found: Found | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        row: dict[str, Any] = {"task": self.task, "status": self.status, "why": self.why}
        row["rows_read"] = self.rows
        row["declared"] = [_told(declaration) for declaration in self.declared]
        row["related"] = [_told(declaration) for declaration in self.related]
        row["found"] = None
        if self.found is not None:
            parts = {part: len(items) for part, items in self.found.items.items()}
            examples = [vars(example) for example in self.found.examples]
            row["found"] = {"rows": len(self.found.rows), "items": parts, "examples": examples}
        return row


def _told(row: Declaration) -> dict[str, str]:
    return {"relation": row.relation, "what": RELATIONS[row.relation], "evidence": row.evidence}


@dataclass(frozen=True)
class Verdict:
    """Whether a benchmark is held out from a mixture.

    Attributes:
      benchmark: its name.
      status: `overlapping` if it is with any task, `proven` (disjoint) if it is with all, else
        `unknown`.
      items: items of the benchmark that were compared; None if it could not be read.
      incomplete: why the benchmark was not read, or not as a whole; empty if it was.
      pairs: what is known of each task.
    """

    benchmark: str
    status: str
    items: int | None
    incomplete: str
    pairs: tuple[Pair, ...]

    def count(self, status: str) -> int:
        """Tasks of which this is known."""
        return Counter(pair.status for pair in self.pairs)[status]

    def items_found(self, *parts: str) -> int:
        """Items of which a text (of these parts, or of any) stands in a task's rows."""
        found: set[str] = set()
        for pair in self.pairs:
            for part, items in pair.found.items.items() if pair.found else ():
                if part in parts or not parts:
                    found |= items
        return len(found)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        parts = {part for pair in self.pairs if pair.found for part in pair.found.items}
        return {
            "benchmark": self.benchmark,
            "verdict": self.status,
            "tasks": {status: self.count(status) for status in (OVERLAPPING, PROVEN, UNKNOWN)},
            "items": self.items,
            "incomplete": self.incomplete,
            "items_found": self.items_found(),
            "items_found_by_part": {part: self.items_found(part) for part in sorted(parts)},
            "pairs": [pair.as_dict() for pair in self.pairs],
        }


@dataclass(frozen=True)
class OverlapReport:
    """All verdicts, and how they were found."""

    mixture: str
    verdicts: tuple[Verdict, ...]
    options: Mapping[str, Any]
    rows: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "mixture": self.mixture,
            "options": dict(self.options),
            "rows_read": self.rows,
            "seconds": round(self.seconds, 1),
            "benchmarks": [verdict.as_dict() for verdict in self.verdicts],
        }


def check_overlap(
    mixture: MixtureDefinition,
    benchmarks: Sequence[str],
    *,
    ngram: int = NGRAM,
    common: int = COMMON,
    split: str = "train",
    max_rows: int | None = None,
    jobs: int = 1,
    progress: Callable[[int, int, TaskScan], None] | None = None,
) -> OverlapReport:
    """Compares the tasks of a mixture with benchmarks.

    Args:
      mixture: what is trained on.
      benchmarks: names of benchmarks or tasks.
      ngram: how many words in a row must be equal.
      common: words in a row that more texts of a benchmark share do not count.
      split: the split that is trained on.
      max_rows: most rows read of a task; what is read in part is never proven.
      jobs: how many processes read.
      progress: see `scan_tasks`.

    Raises:
      UserError: no benchmark or task has such a name.
    """
    started = time.monotonic()
    chosen = [get_benchmark(name) for name in dict.fromkeys(benchmarks)]
    index = Index(ngram, common)
    read = {benchmark.name: _add(index, benchmark) for benchmark in chosen}
    index.build()
    tasks = mixture.tasks()
    missing = {task.name: why for task in tasks if (why := missing_data(task)) is not None}
    there = [task for task in tasks if task.name not in missing] if index.texts else []
    scans = scan_tasks(there, index, split, max_rows, jobs=jobs, progress=progress)
    verdicts = tuple(_verdict(b, *read[b.name], tasks, missing, scans) for b in chosen)
    options = {
        "ngram": ngram,
        "common": common,
        "split": split,
        "max_rows": max_rows,
        "tasks": len(tasks),
        "tasks_missing": len(missing),
    }
    rows = sum(scan.rows for scan in scans.values())
    return OverlapReport(mixture.name, verdicts, options, rows, time.monotonic() - started)


def _add(index: Index, benchmark: Benchmark) -> tuple[int | None, str]:
    """(items read, why not all of them were)."""
    if benchmark.read is None:
        return None, "its items cannot be read here, only what is declared counts"
    try:
        count = index.add(benchmark.name, benchmark.read(), benchmark.scaffolding())
    except SourceError as error:
        return None, str(error)
    if benchmark.size is not None and count < benchmark.size:
        return count, f"{count:,} of {benchmark.size:,} items are on this machine"
    return count, "" if count else "it has no items"


def _verdict(
    benchmark: Benchmark,
    items: int | None,
    incomplete: str,
    tasks: Sequence[TaskDefinition],
    missing: Mapping[str, str],
    scans: Mapping[str, TaskScan],
) -> Verdict:
    pairs = tuple(
        _pair(benchmark, incomplete, task, missing.get(task.name), scans.get(task.name))
        for task in tasks
    )
    statuses = {pair.status for pair in pairs}
    status = next(s for s in (OVERLAPPING, UNKNOWN, PROVEN) if s in statuses)
    return Verdict(benchmark.name, status, items, incomplete, pairs)


def _pair(
    benchmark: Benchmark,
    incomplete: str,
    task: TaskDefinition,
    missing: str | None,
    scan: TaskScan | None,
) -> Pair:
    declared = tuple(derivations(task, benchmark))
    related = tuple(relations(task, benchmark))
    if benchmark.task == task.name:
        itself = Declaration(benchmark.name, "task", task.name, "same", "the task itself")
        declared = (itself, *declared)
    found = scan.found.get(benchmark.name) if scan is not None else None
    rows = scan.rows if scan is not None else None
    if missing is not None:
        why = missing
    elif incomplete:
        why = f"benchmark: {incomplete}"
    else:
        why = scan.incomplete if scan is not None else "not read"
    if declared or found is not None:
        status = OVERLAPPING
    else:
        status = UNKNOWN if why else PROVEN
    return Pair(task.name, status, why, declared, related, rows, found)
