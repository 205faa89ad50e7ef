"""What is known of where tasks come from, without looking at their texts.

A dataset, here, is a name under which tasks and benchmarks are put together that stem from the same
data: `gsm8k` has Flan's chain-of-thought file, the original one, and by translation MGSM. Rows of a
table say what belongs to a dataset, and why.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from flan_jax.overlap.benchmarks import HOUSE_MODULE, Benchmark
from flan_jax.tasks import TaskDefinition

# How a task or dataset can belong to a dataset. `related` is worth knowing but no overlap.
RELATIONS = {
    "items": "its rows are the benchmark's own items",
    "same": "it is made from the same dataset",
    "derived": "it is made from that dataset's rows",
    "translation": "one is a translation of the other",
    "related": "same collection or kind, other data",
}
RELATED = "related"


@dataclass(frozen=True)
class Declaration:
    """A row of the table.

    Attributes:
      dataset: the dataset that something belongs to.
      select: what `value` is matched with: `task` (its name), a label's kind (see
        `register_labels`), or `dataset` (all that belongs to that one).
      value: a name, or a pattern with `*`.
      relation: one of RELATIONS.
      evidence: why, in a few words.
    """

    dataset: str
    select: str
    value: str
    relation: str
    evidence: str

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise ValueError(f"{self.dataset}, {self.value}: no relation {self.relation!r}")


# (kind, name) by task: where it says itself that it comes from.
Labels = Callable[[TaskDefinition], Iterable[tuple[str, str]]]
_DECLARATIONS: list[Declaration] = []
_LABELS: list[Labels] = []


def register_declarations(declarations: Iterable[Declaration]) -> None:
    """Adds rows to the table."""
    _DECLARATIONS.extend(d for d in declarations if d not in _DECLARATIONS)
    _selected_by.cache_clear()


def register_labels(labels: Labels) -> None:
    """Adds a function that tells labels of a task, such as ("niv2", "boolq")."""
    if labels not in _LABELS:
        _LABELS.append(labels)


def declared_datasets() -> list[str]:
    """Names of the datasets that the table speaks of."""
    importlib.import_module(HOUSE_MODULE)
    return sorted({declaration.dataset for declaration in _DECLARATIONS})


def datasets_of(what: TaskDefinition | Benchmark) -> dict[str, Declaration]:
    """The datasets that a task or benchmark belongs to, and by which row of the table.

    Related ones are left out.
    """
    found = _belongs(what)
    return {name: row for name, row in found.items() if row.relation != RELATED}


def related_datasets(what: TaskDefinition | Benchmark) -> dict[str, Declaration]:
    """The datasets that are merely related to a task or benchmark."""
    return {name: row for name, row in _belongs(what).items() if row.relation == RELATED}


def derivations(task: TaskDefinition, other: TaskDefinition | Benchmark) -> list[Declaration]:
    """Why `task` stems from the same data as `other`, as far as it is declared."""
    theirs = datasets_of(other)
    found = {name: row for name, row in datasets_of(task).items() if name in theirs}
    # Its own name says it all; by other names, such as its translation's, it says it again.
    return [found[other.name]] if other.name in found else list(found.values())


def relations(task: TaskDefinition, other: TaskDefinition | Benchmark) -> list[Declaration]:
    """Why `task` is related to `other`, where it does not stem from the same data."""
    theirs = datasets_of(other)
    return [row for dataset, row in related_datasets(task).items() if dataset in theirs]


def _belongs(what: TaskDefinition | Benchmark) -> dict[str, Declaration]:
    importlib.import_module(HOUSE_MODULE)
    if isinstance(what, Benchmark):
        labels = [("benchmark", what.name), ("task", what.task or what.name)]
        labels.append(("label", what.name))
        own = Declaration(what.name, "benchmark", what.name, "items", "the benchmark itself")
        found = {what.name: own}
    else:
        labels = [("task", what.name), *(("task", alias) for alias in what.aliases)]
        labels += [("tag", tag) for tag in what.tags]
        told = [label for tell in _LABELS for label in tell(what)]
        labels += told
        # Tasks that name the same dataset belong together.
        found = {
            name: Declaration(name, kind, name, "same", f"made from dataset {name}")
            for kind, name in told
        }
    for kind, name in labels:
        for row in _selected_by(kind, name):
            _add(found, row)
    # What belongs to a dataset belongs to the datasets that this one belongs to.
    waiting = [row for row in found.values() if row.relation != RELATED]
    while waiting:
        for row in _selected_by("dataset", waiting.pop().dataset):
            if row.dataset not in found:
                waiting += [row] if row.relation != RELATED else []
            _add(found, row)
    return found


def _add(found: dict[str, Declaration], row: Declaration) -> None:
    """Keeps the row that says most: a mere relation yields to any other."""
    known = found.get(row.dataset)
    if known is None or (known.relation == RELATED and row.relation != RELATED):
        found[row.dataset] = row


@functools.cache
def _selected_by(kind: str, name: str) -> tuple[Declaration, ...]:
    return tuple(
        row for row in _DECLARATIONS if row.select == kind and fnmatchcase(name, row.value)
    )
