"""Natural Instructions: one task for each file, all with the same templates.

tasks.csv lists the tasks, their categories, languages and sizes. A task's name is its file's, with
`_` for `-`, which SeqIO does not allow.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from flan_jax.mixtures.niv2.languages import CODES
from flan_jax.sources.natural_instructions import NaturalInstructionsSource
from flan_jax.tasks import TaskDefinition, register_task

_HERE = Path(__file__).parent
FOLDER = "natural_instructions/tasks"
# Most examples a task counts as in Flan 2022 (Chung et al., 2022).
CAP = 5_000
LICENCE = "per source dataset: `Instance License` of the file; definitions Apache-2.0"
# Datasets whose tasks are tagged with their name: benchmarks that are held out elsewhere.
_TAGGED = ("pubmed_qa",)
# Instances and bytes of each official file, by task name.
_OFFICIAL: dict[str, tuple[int, int]] = {}


def known_size(task: TaskDefinition) -> int | None:
    """Training rows of a task whose file is the official one, told by its length; else None.

    Good for mixing rates: it saves parsing 3 GB. The rows carved out are estimated.
    """
    source = task.source
    if not isinstance(source, NaturalInstructionsSource) or task.name not in _OFFICIAL:
        return None
    instances, length = _OFFICIAL[task.name]
    if source.paths()[0].stat().st_size != length:
        return None
    return round(instances * (1 - source.carve.validation - source.carve.test))


def _define(row: dict[str, str]) -> TaskDefinition:
    name = row["task"].replace("-", "_")
    _OFFICIAL[name] = int(row["n_instances"]), int(row["json_bytes"])
    tests = {
        "official_test": "official_default_test",
        "official_xlingual_test": "official_xlingual_test",
    }
    tags = [tag for tag, column in tests.items() if row[column] == "y"]
    tags += [row["source_dataset"]] if row["source_dataset"] in _TAGGED else []
    return TaskDefinition(
        name=name,
        group="niv2",
        cluster=re.sub(r"\W+", "_", row["category"].lower()).strip("_"),
        source=NaturalInstructionsSource(
            f"{FOLDER}/{row['task']}.json",
            sha256=row["json_sha256"],
            size=int(row["json_bytes"]),
        ),
        template_file=_HERE / "niv2.yaml",
        licence=LICENCE,
        # ROUGE-L is the official metric.
        metrics=("rougeL", "exact_match"),
        languages=tuple(CODES[language] for language in row["languages"].split(";")),
        tags=tuple(tags),
        cap=CAP,
        num_train=int(row["n_instances"]),
        homepage="https://github.com/allenai/natural-instructions",
        aliases=(row["task"],) if row["task"] != name else (),
        description=f"Natural Instructions, {row['category']}: {row['source_dataset']}",
    )


with (_HERE / "tasks.csv").open(encoding="utf-8", newline="") as _file:
    for _row in csv.DictReader(_file):
        register_task(_define(_row))
