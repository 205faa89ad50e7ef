"""What the collection holds, part by part, beside what Flan's authors published.

paper_counts.csv has the published numbers: `paper` is Chung et al. (2022), `repository` is
google-research/FLAN (v2). docs/collection.md explains every difference.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flan_jax.prompts.template import FEW_SHOT
from flan_jax.sources.natural_instructions import NaturalInstructionsSource
from flan_jax.sources.p3 import P3Source
from flan_jax.sources.tfds import TfdsSource
from flan_jax.tasks import TaskDefinition, all_tasks

_HERE = Path(__file__).parent
# The paper's parts and the groups of tasks they consist of.
PARTS = {
    "muffin": ("muffin", "dialog", "program_synthesis"),
    "t0_sf": ("t0_sf",),
    "niv2": ("niv2",),
    "cot": ("cot",),
}
ALL = "all"
# How each is counted; inverted pairs are among the zero- and few-shot ones.
MEASURES = {
    "tasks": "tasks to train on",
    "datasets": "datasets, each configuration by itself",
    "categories": "kinds of task",
    "languages": "languages of inputs or targets",
    "templates": "templates written, zero- and few-shot",
    "zero_shot_pairs": "pairs of a task and a zero-shot template",
    "few_shot_pairs": "pairs of a task and a few-shot pattern",
    "inverted_pairs": "pairs of both kinds that ask for another field than the answer",
    "train_examples": "training rows as published, where they are",
    "capped_examples": "the same, each task up to its cap",
}


@dataclass(frozen=True)
class Count:
    """One number of the collection.

    Attributes:
      part: the part, a key of PARTS, or ALL.
      measure: what is counted, a key of MEASURES.
      here: how many there are here.
      published: how many Flan's authors say there are; None if they do not.
      source: who says so: `paper` or `repository`; "" if nobody does.
    """

    part: str
    measure: str
    here: int
    published: int | None = None
    source: str = ""

    @property
    def difference(self) -> int | None:
        """How many more there are here."""
        return None if self.published is None else self.here - self.published


@functools.cache
def published() -> dict[tuple[str, str], tuple[int, str]]:
    """The published numbers and where they are from, by part and measure."""
    with (_HERE / "paper_counts.csv").open(encoding="utf-8", newline="") as file:
        return {
            (line["part"], line["measure"]): (int(line["published"]), line["source"])
            for line in csv.DictReader(file)
        }


def tasks_of(part: str) -> list[TaskDefinition]:
    """The tasks of a part that are trained on."""
    groups = PARTS.get(part) or [group for groups in PARTS.values() for group in groups]
    return [task for task in all_tasks() if task.group in groups and not task.held_out]


@functools.cache
def _niv2_datasets() -> dict[str, str]:
    with (_HERE / "niv2" / "tasks.csv").open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        return {line["task"].replace("-", "_"): line["source_dataset"] for line in lines}


def dataset_of(task: TaskDefinition) -> str:
    """The dataset and configuration that a task's rows come from."""
    source = task.source
    if isinstance(source, TfdsSource):
        return source.builder.partition(":")[0]
    if isinstance(source, P3Source):
        return f"{source.dataset}/{source.subset}".rstrip("/")
    if isinstance(source, NaturalInstructionsSource):
        return _niv2_datasets()[task.name]
    return source.describe()


def _measure(tasks: Sequence[TaskDefinition]) -> dict[str, int]:
    sections = [task.sections() for task in tasks]
    pairs = [(name, t) for found in sections for name, ts in found.items() for t in ts]
    few_shot = sum(name.endswith(FEW_SHOT) for name, _ in pairs)
    # Tasks that share a file share its templates; files may share a section, too.
    written = {t for found in sections for ts in found.values() for t in ts}
    return {
        "tasks": len(tasks),
        "datasets": len({dataset_of(task) for task in tasks}),
        "categories": len({task.cluster for task in tasks}),
        "languages": len({language for task in tasks for language in task.languages}),
        "templates": len(written),
        "zero_shot_pairs": len(pairs) - few_shot,
        "few_shot_pairs": few_shot,
        "inverted_pairs": sum(n.startswith("inverted") or not t.asks_answer for n, t in pairs),
        "train_examples": sum(task.num_train or 0 for task in tasks),
        "capped_examples": sum(_capped(tasks)),
    }


def _capped(tasks: Iterable[TaskDefinition]) -> Iterable[int]:
    for task in tasks:
        if task.num_train:
            yield min(task.num_train, task.cap or task.num_train)


def counts() -> list[Count]:
    """All numbers, by part and measure. Reads the templates but no data."""
    found = []
    for part in (*PARTS, ALL):
        for measure, here in _measure(tasks_of(part)).items():
            known, source = published().get((part, measure), (None, ""))
            found.append(Count(part, measure, here, known, source))
    return found
