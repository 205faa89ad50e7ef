"""The benchmarks that are compared with mixtures, and where the collection's tasks come from.

datasets.csv says which tasks and datasets stem from the same data, and why (from the datasets'
papers and names). Beyond it, tasks that name the same source dataset belong together.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from pathlib import Path

from flan_jax.mixtures.benchmarks.readers import READERS
from flan_jax.overlap.benchmarks import Benchmark, register_benchmark
from flan_jax.overlap.declared import Declaration, register_declarations, register_labels
from flan_jax.tasks import TaskDefinition

_HERE = Path(__file__).parent
# Names under which Natural Instructions puts tasks together that share no data.
_NO_DATASET = {"synthetic", "missing", "miscellaneous", "source_dataset"}


def _lines(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@functools.cache
def source_datasets() -> dict[str, str]:
    """The dataset that each task of Flan 2021, T0-SF and Natural Instructions says it is from.

    Of a TFDS builder that is the configuration's name, if it has one (`rte` of `super_glue/rte`).
    """
    found = {}
    for line in _lines(_HERE.parent / "flan2021" / "tasks.csv"):
        found[line["task"]] = line["builder"].partition(":")[0].rpartition("/")[2]
    for line in _lines(_HERE.parent / "t0_sf" / "tasks.csv"):
        found[line["task"]] = line["dataset"]
    for line in _lines(_HERE.parent / "niv2" / "tasks.csv"):
        found[line["task"].replace("-", "_")] = line["source_dataset"].rstrip(";.")
    return {task: name for task, name in found.items() if name and name not in _NO_DATASET}


def labels(task: TaskDefinition) -> Iterator[tuple[str, str]]:
    """What a task of the collection says of its origin."""
    if task.name in source_datasets():
        yield "label", source_datasets()[task.name]


register_labels(labels)
register_declarations(Declaration(**line) for line in _lines(_HERE / "datasets.csv"))
for _benchmark in READERS:
    register_benchmark(_benchmark)
for _name in sorted(
    {line["dataset"] for line in _lines(_HERE / "datasets.csv")} | set(source_datasets().values())
):
    if _name not in {benchmark.name for benchmark in READERS}:
        register_benchmark(Benchmark(_name, description="known by the tasks made from it"))
