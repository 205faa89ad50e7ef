"""How a dataset of Flan 2021 is declared: a line of tasks.csv, a function, and a template file.

tasks.csv has what is known of each task as data: TFDS builder and version, splits, published size,
cluster, homepage. Splits are Flan 2022's: where the official validation split serves as test, a
validation split is carved from the end of train.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flan_jax.errors import UserError
from flan_jax.sources.base import Row, Source
from flan_jax.sources.tfds import TfdsSource
from flan_jax.suggestions import did_you_mean
from flan_jax.tasks import TaskDefinition, register_task

TEMPLATES = Path(__file__).parent / "templates"
# Most examples a Muffin task counts as (Chung et al., 2022, table 23).
CAP = 30_000
SPLITS = ("train", "validation", "test")


@functools.cache
def facts() -> dict[str, dict[str, str]]:
    """The lines of tasks.csv, by task."""
    with (Path(__file__).parent / "tasks.csv").open(encoding="utf-8", newline="") as file:
        return {line["task"]: line for line in csv.DictReader(file)}


def register(
    name: str,
    *,
    to_fields: Callable[[Row], Row],
    licence: str,
    description: str,
    has_options: bool = False,
    templates: str = "",
    keep: Callable[[Row], bool] | None = None,
    source: Source | None = None,
    manual: str = "",
    tags: tuple[str, ...] = (),
    **attributes: Any,
) -> TaskDefinition:
    """Registers one task of tasks.csv.

    Args:
      name: the task, as tasks.csv has it.
      to_fields: raw row to the fields of the templates.
      licence: licence of the rows.
      description: one line.
      has_options: whether rows carry answer options.
      templates: stem of the template file; the task's name if empty.
      keep: says of a raw row whether it is used; all are if None.
      source: where rows come from, if not from the TFDS builder of tasks.csv.
      manual: how to get what TFDS cannot download; tasks.csv's note if empty.
      tags: free labels.
      **attributes: of TaskDefinition.

    Raises:
      UserError: tasks.csv has no such task.
    """
    if name not in facts():
        raise UserError(f"tasks.csv has no task {name!r}{did_you_mean(name, facts())}")
    known = facts()[name]
    if source is None:
        read = {split: known[split] for split in SPLITS if known[split]}
        source = TfdsSource(known["builder"], read, keep, manual or known["manual"])
    if known["in_public_flan"] != "y":
        tags = (*tags, "not_in_public_flan")
    return register_task(
        TaskDefinition(
            name=name,
            group="muffin",
            cluster=attributes.pop("cluster", "") or known["cluster"],
            source=source,
            template_file=TEMPLATES / f"{templates or name}.yaml",
            licence=licence,
            to_fields=to_fields,
            has_options=has_options,
            cap=CAP,
            num_train=int(known["num_train"]) if known["num_train"] else None,
            homepage=known["homepage"],
            tags=tags,
            description=description,
            **attributes,
        )
    )
