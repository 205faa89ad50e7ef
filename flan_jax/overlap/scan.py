"""Reads the rows of tasks and passes their texts by the index of the benchmarks."""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flan_jax.errors import UserError
from flan_jax.overlap.ngrams import Index, Match, Scanner
from flan_jax.overlap.text import texts_in
from flan_jax.sources.base import Row
from flan_jax.tasks import TaskDefinition, get_task

# Rows read of an endless split, unless told otherwise.
ENDLESS_ROWS = 1000
EXAMPLES = 5
# A task of which fewer of the published rows are there was cut; a few are always left out, as
# duplicates or because they are unfit.
WHOLE_SHARE = 0.9
# Sources keep the files they have read, so worker processes are renewed after so many tasks.
_TASKS_PER_WORKER = 32


@dataclass(frozen=True)
class Example:
    """One shared run of words: where it stands in the task and in the benchmark."""

    row: int
    field: str
    item: str
    part: str
    shared: str


@dataclass
class Found:
    """What a task shares with a benchmark.

    Attributes:
      rows: rows of the task.
      items: items of the benchmark, by the part of them that is shared.
      examples: the first few, of different items.
    """

    rows: set[int] = field(default_factory=set)
    items: dict[str, set[str]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)

    def add(self, match: Match) -> None:
        """Counts a match."""
        text = match.found
        self.rows.add(match.row)
        self.items.setdefault(text.part, set()).update(text.items)
        shown = {example.item for example in self.examples}
        if len(self.examples) < EXAMPLES and text.items[0] not in shown:
            self.examples.append(
                Example(match.row, match.field, text.items[0], text.part, match.shared)
            )


@dataclass(frozen=True)
class TaskScan:
    """What reading a task gave.

    Attributes:
      task: its name.
      rows: rows read.
      total: rows of the split; None if it is endless or unreadable.
      incomplete: why not all of the task was read; empty if it was.
      found: what it shares, by benchmark.
    """

    task: str
    rows: int
    total: int | None
    incomplete: str
    found: Mapping[str, Found]


def scan_task(
    task: TaskDefinition, index: Index, split: str = "train", max_rows: int | None = None
) -> TaskScan:
    """Passes all texts of the fields of a split's rows by `index`, or those of the first rows.

    What goes wrong with the data is told in the result, so that one bad file does not end a check
    of a thousand tasks.
    """
    scanner, found = Scanner(index), {}
    rows, total, incomplete = 0, None, ""

    def note(matches: Iterator[Match]) -> None:
        for match in matches:
            found.setdefault(match.found.benchmark, Found()).add(match)

    last: dict[str, str] = {}
    try:
        total = task.source.num_examples(split)
        wanted = (max_rows or ENDLESS_ROWS) if total is None else min(total, max_rows or total)
        for row in range(wanted):
            for name, text in texts_in(_fields(task, split, row)):
                if last.get(name) != text:  # such as a definition, the same in every row
                    last[name] = text
                    note(scanner.add(row, name, text))
            rows += 1
        incomplete = _incomplete(task, split, rows, total)
    except UserError as error:
        incomplete = f"row {rows} of {split} cannot be read: {error}"
    except Exception as error:  # the code of a task or a dataset's library may fail in any way
        incomplete = f"row {rows} of {split} cannot be read: {type(error).__name__}: {error}"
    note(scanner.finish())
    return TaskScan(task.name, rows, total, incomplete, found)


def _fields(task: TaskDefinition, split: str, row: int) -> Row:
    """A row's fields, before anything of them is cut away by chance."""
    raw = task.source.row(split, row)
    return raw if task.to_fields is None else task.to_fields(raw)


def _incomplete(task: TaskDefinition, split: str, rows: int, total: int | None) -> str:
    if total is None:
        return f"its rows are endless: {rows:,} were read"
    if rows < total:
        return f"{rows:,} of {total:,} rows were read"
    if total == 0:
        return f"split {split} has no rows"
    size, paths = getattr(task.source, "size", None), getattr(task.source, "paths", tuple)()
    if size and len(paths) == 1 and paths[0].stat().st_size != size:
        return f"the file has {paths[0].stat().st_size:,} bytes, the official one {size:,}"
    if task.num_train and split == "train":
        carve = getattr(task.source, "carve", None)
        others = carve.names() if carve is not None else ()
        there = total + sum(task.source.num_examples(name) or 0 for name in others)
        if there < WHOLE_SHARE * task.num_train:
            return f"{there:,} of the {task.num_train:,} published rows are on this machine"
    return ""


_worker: tuple[Index, str, int | None] | None = None


def _start_worker(*options: object) -> None:
    global _worker
    _worker = options  # type: ignore[assignment]


def _portable(task: TaskDefinition) -> TaskDefinition | str:
    """What another process can make the task of: the task, or the name of one of the house's."""
    try:
        pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError):
        return task.name  # made with functions that have no name of their own
    return task


def _scan(task: TaskDefinition | str) -> TaskScan:
    assert _worker is not None
    if isinstance(task, str):
        importlib.import_module("flan_jax.mixtures")
        task = get_task(task)
    return scan_task(task, *_worker)


def scan_tasks(
    tasks: Sequence[TaskDefinition],
    index: Index,
    split: str = "train",
    max_rows: int | None = None,
    *,
    jobs: int = 1,
    progress: Callable[[int, int, TaskScan], None] | None = None,
) -> dict[str, TaskScan]:
    """`scan_task` of several tasks, by name, in up to `jobs` processes.

    Args:
      tasks: those whose data are there.
      index: of the benchmarks.
      split: the split that is trained on.
      max_rows: most rows read of a task.
      jobs: how many processes; with one and a few tasks, this one does it.
      progress: told after each task: how many are done, how many there are, what was found.
    """
    done: dict[str, TaskScan] = {}

    def collect(scans: Iterable[TaskScan]) -> None:
        for scan in scans:
            done[scan.task] = scan
            if progress is not None:
                progress(len(done), len(tasks), scan)

    if jobs == 1 and len(tasks) <= _TASKS_PER_WORKER:
        collect(scan_task(task, index, split, max_rows) for task in tasks)
    elif tasks:
        # Not forked: where JAX is loaded, a process has threads, with which forks may lock up.
        with multiprocessing.get_context("spawn").Pool(
            min(jobs, len(tasks)),
            _start_worker,
            (index, split, max_rows),
            maxtasksperchild=_TASKS_PER_WORKER,
        ) as pool:
            collect(pool.imap_unordered(_scan, map(_portable, tasks)))
    return {task.name: done[task.name] for task in tasks}
