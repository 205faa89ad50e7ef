"""`flan-jax tasks list` and `show`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from flan_jax.cli.tables import print_json, print_table
from flan_jax.errors import UserError
from flan_jax.sources.base import SourceMissingError
from flan_jax.sources.natural_instructions import NaturalInstructionsSource
from flan_jax.suggestions import did_you_mean
from flan_jax.tasks import TaskDefinition, all_tasks, get_task

STYLES = {"held out": "yellow", "missing": "yellow"}
_SHOWN = 200  # characters of a field's value


def summary(task: TaskDefinition) -> dict[str, Any]:
    """What a listing says about a task; reads its templates but no data."""
    templates = {section: len(found) for section, found in task.sections().items()}
    return {
        "name": task.name,
        "group": task.group,
        "cluster": task.cluster,
        "source": task.source.kind,
        "licence": task.licence,
        "templates": sum(templates.values()),
        "templates_by_section": templates,
        "held_out": task.held_out,
        "languages": list(task.languages),
        "splits": list(task.source.splits()),
        "train_examples": task.num_train,
        "cap": task.cap,
        "variants": list(task.variants()),
        "options": task.has_options,
        "cot": "cot" in task.styles,
        "tags": list(task.tags),
        "metrics": list(task.metrics),
        "aliases": list(task.aliases),
        "homepage": task.homepage,
        "description": task.description,
    }


def _matches(value: str | None, candidates: Iterable[str]) -> bool:
    return value is None or value in candidates


def select(arguments: argparse.Namespace) -> list[TaskDefinition]:
    """Tasks that pass the filters.

    Raises:
      UserError: a filter's value occurs in no task at all, so it is likely misspelt.
    """
    values = {
        "group": lambda task: (task.group,),
        "cluster": lambda task: (task.cluster,),
        "source": lambda task: (task.source.kind,),
        "split": lambda task: task.source.splits(),
        "tag": lambda task: task.tags,
        "language": lambda task: task.languages,
    }
    tasks = all_tasks()
    for option, value_of in values.items():
        wanted = getattr(arguments, option)
        known = {value for task in tasks for value in value_of(task)}
        if wanted is not None and wanted not in known:
            hint = did_you_mean(wanted, known)
            shown = "" if hint else f" ({', '.join(sorted(known)[:20])})"
            raise UserError(f"--{option} {wanted!r}: no task has it{hint}{shown}")
    return [
        task
        for task in tasks
        if all(_matches(getattr(arguments, option), of(task)) for option, of in values.items())
        and arguments.held_out in (None, task.held_out)
    ]


def list_tasks(arguments: argparse.Namespace) -> int:
    """Prints the tasks that pass the filters."""
    found = [summary(task) for task in select(arguments)]
    if arguments.format == "json":
        print_json(found)
        return 0
    rows = [
        (
            task["name"],
            task["group"],
            task["cluster"],
            task["source"],
            str(task["templates"]),
            "held out" if task["held_out"] else "train",
            task["licence"],
        )
        for task in found
    ]
    columns = ("task", "group", "cluster", "source", "templates", "use", "licence")
    print_table(columns, rows, format=arguments.format, styles=STYLES)
    return 0


def details(task: TaskDefinition) -> dict[str, Any]:
    """All about a task; what needs data that are missing is None, and `missing` says why."""
    found = summary(task)
    found["source"] = {"kind": task.source.kind, "from": task.source.describe()}
    found["missing"] = None
    found["fields"] = None
    found["splits"] = dict.fromkeys(task.source.splits())
    try:
        sizes = {split: task.source.num_examples(split) for split in task.source.splits()}
        found["splits"] = {split: "endless" if n is None else n for split, n in sizes.items()}
        split = next((split for split, n in sizes.items() if n != 0), None)
        found["licence"] = _licence(task)
        if split is not None:
            found["fields"] = {
                name: value if isinstance(value, str | int | float | bool) else list(value)
                for name, value in task.fields(split, 0).items()
            }
    except SourceMissingError as error:
        found["missing"] = str(error)
    found["template_file"] = task.template_file.name
    found["templates"] = [
        {
            "section": section,
            "inputs": t.inputs,
            "targets": t.targets,
            "needs_options": t.needs_options,
        }
        for section, members in task.sections().items()
        for t in members
    ]
    return found


def _licence(task: TaskDefinition) -> str:
    """The licence of the rows, from the file itself where it says so."""
    if isinstance(task.source, NaturalInstructionsSource):
        return task.source.content().licence or "the file does not say"
    return task.licence


def show_task(arguments: argparse.Namespace) -> int:
    """Prints all about one task."""
    found = details(get_task(arguments.name))
    if arguments.format == "json":
        print_json(found)
        return 0
    for name in ("name", "description", "group", "cluster", "licence"):
        print(f"{name}: {found[name]}")
    print(f"source: {found['source']['kind']}, {found['source']['from']}")
    print(f"held out: {'yes, never trained on' if found['held_out'] else 'no'}")
    for name in ("languages", "variants", "tags", "metrics"):
        print(f"{name}: {', '.join(found[name]) or 'none'}")
    if found["missing"]:
        print(f"splits: {', '.join(found['splits'])}\ndata missing: {found['missing']}")
    else:
        print("splits: " + ", ".join(f"{name} {size}" for name, size in found["splits"].items()))
        print("\nfields of the first row:")
        for name, value in (found["fields"] or {}).items():
            text = repr(value)
            print(f"  {name}: {text if len(text) <= _SHOWN else text[:_SHOWN] + ' …'}")
    print(f"\n{len(found['templates'])} templates ({found['template_file']}):")
    for position, template in enumerate(found["templates"]):
        needs = "  (only with options shown)" if template["needs_options"] else ""
        print(f"  {position}: {template['inputs']!r} -> {template['targets']!r}{needs}")
    return 0
