"""`flan-jax mixture`: list mixtures, and show what one comes to.

flan-jax mixture show flan2022 --examples 1000000
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax.cli.content import load_content
from flan_jax.cli.tables import FORMATS, print_json, print_table
from flan_jax.fingerprint import mixture_hash
from flan_jax.mixing import MixtureDefinition, all_mixtures, deferred_mixtures, get_mixture
from flan_jax.realised import missing_data, only, tell_missing
from flan_jax.sources.base import SourceError
from flan_jax.tasks import TaskDefinition

HELP = "list mixtures, and show the shares, repeats and hash of one"
STYLES = {"missing": "yellow", "here": "green"}


def sizes(tasks: Sequence[TaskDefinition]) -> dict[str, int | None]:
    """Training rows by task, None where they are endless or neither published nor here."""
    found: dict[str, int | None] = {}
    for task in tasks:
        try:
            found[task.name] = task.train_size()
        except SourceError:
            found[task.name] = None
    return found


def examples_without_repeat(
    proportions: Mapping[str, float], rows: Mapping[str, int | None]
) -> tuple[int, str] | None:
    """(examples that can be drawn before a task repeats, that task); None if none ever does."""
    ends = [(size / proportions[name], name) for name, size in rows.items() if size]
    if not ends:
        return None
    first = min(ends)
    return int(first[0]), first[1]


def describe(mixture: MixtureDefinition, examples: int | None) -> dict[str, Any]:
    """All that `show` prints, as `--format json` prints it."""
    tasks = mixture.tasks()
    rows = sizes(tasks)
    proportions = mixture.proportions()
    missing = {task.name: why for task in tasks if (why := missing_data(task)) is not None}
    free = examples_without_repeat(proportions, rows)
    examples = examples or (free[0] if free else 1_000_000)
    present = proportions.keys() - missing.keys()
    here = only(mixture, present).proportions() if present else {}
    return {
        "name": mixture.name,
        "description": mixture.description,
        "hash": mixture_hash(mixture),
        "examples": examples,
        "first_repeat": None if free is None else {"examples": free[0], "task": free[1]},
        "missing": missing,
        "groups": _groups(mixture, proportions, missing),
        "tasks": [
            {
                "name": task.name,
                "group": mixture.parts.get(task.name, task.group),
                "share": proportions[task.name],
                "share_here": here.get(task.name, 0.0),
                "rate": mixture.rates[task.name],
                "train_examples": rows[task.name],
                "draws": round(proportions[task.name] * examples, 1),
                "repeats": _repeats(proportions[task.name] * examples, rows[task.name]),
                "variants": {v: w for v, w in mixture.variants_of(task).items() if w},
                "missing": task.name in missing,
            }
            for task in tasks
        ],
    }


def _repeats(draws: float, rows: int | None) -> float | None:
    """How often each row is seen; None for rows without end or of unknown number."""
    return round(draws / rows, 4) if rows else None


def _groups(
    mixture: MixtureDefinition, proportions: Mapping[str, float], missing: Mapping[str, str]
) -> list[dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for task in mixture.tasks():
        name = mixture.parts.get(task.name, task.group)
        group = groups.setdefault(name, {"name": name, "tasks": 0, "share": 0.0, "missing": 0})
        group["tasks"] += 1
        group["share"] += proportions[task.name]
        group["missing"] += task.name in missing
    return list(groups.values())


def show(arguments: argparse.Namespace) -> int:
    """Prints what one mixture comes to."""
    mixture = get_mixture(arguments.name)
    found = describe(mixture, arguments.examples)
    if arguments.format == "json":
        print_json(found)
        return 0
    print(f"{found['name']}: {found['description']}\nhash {found['hash']}")
    rows = [
        (
            group["name"],
            f"{group['tasks']:,}",
            f"{100 * group['share']:.2f}%",
            str(group["missing"]),
        )
        for group in found["groups"]
    ]
    print_table(("group", "tasks", "share", "missing here"), rows, format=arguments.format)
    if found["first_repeat"]:
        first = found["first_repeat"]
        print(f"\nno task repeats before {first['examples']:,} examples; {first['task']} is first")
    print(f"draws and repeats of each task in {found['examples']:,} examples:")
    rows = [
        (
            task["name"],
            task["group"],
            f"{100 * task['share']:.4f}%",
            "unknown" if task["train_examples"] is None else f"{task['train_examples']:,}",
            f"{task['draws']:,.1f}",
            "" if task["repeats"] is None else f"{task['repeats']:.3f}",
            "missing" if task["missing"] else "here",
        )
        for task in found["tasks"]
    ]
    columns = ("task", "group", "share", "train rows", "draws", "times seen", "data")
    print_table(columns, rows, format=arguments.format, styles=STYLES)
    if found["missing"]:
        print(f"\n{tell_missing(mixture, found['missing'])}")
    return 0


def _line(mixture: MixtureDefinition) -> dict[str, Any]:
    return {
        "name": mixture.name,
        "tasks": len(mixture.rates),
        "description": mixture.description,
        "missing": None,
        "shares": mixture.shares(),
    }


def _all() -> list[dict[str, Any]]:
    """All mixtures by name; those without data have no tasks, and `missing` says why."""
    found = [_line(mixture) for mixture in all_mixtures()]
    for name, description in deferred_mixtures().items():
        try:
            found.append(_line(get_mixture(name)))
        except SourceError as error:
            nothing = {"name": name, "tasks": 0, "description": description, "shares": {}}
            found.append({**nothing, "missing": str(error)})
    return sorted(found, key=lambda mixture: mixture["name"])


def list_mixtures(arguments: argparse.Namespace) -> int:
    """Prints all mixtures."""
    found = _all()
    if arguments.format == "json":
        print_json(found)
        return 0
    rows = [
        (
            mixture["name"],
            "missing" if mixture["missing"] else f"{mixture['tasks']:,}",
            _largest(mixture["shares"]),
            mixture["description"],
        )
        for mixture in found
    ]
    columns = ("mixture", "tasks", "largest shares", "description")
    print_table(columns, rows, format=arguments.format, styles=STYLES)
    return 0


def _largest(shares: dict[str, float], count: int = 4) -> str:
    ordered = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{name} {100 * share:.1f}%" for name, share in ordered[:count]]
    return ", ".join(parts) + (", …" if len(ordered) > count else "")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {number}")
    return number


def parser() -> argparse.ArgumentParser:
    """The arguments of `flan-jax mixture`."""
    top = argparse.ArgumentParser(prog="flan-jax mixture", description="Mixtures of tasks.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("list", list_mixtures, "list the mixtures"),
        ("show", show, "show the shares, repeats and hash of one"),
    ):
        one = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        one.add_argument("--format", choices=FORMATS, default="auto", help="default: auto")
        one.add_argument(
            "--module",
            action="append",
            default=[],
            help="a module of yours that registers mixtures; may be given several times",
        )
        one.add_argument("--data_dir", help="the data folder (default: FLAN_JAX_DATA, else data)")
        one.set_defaults(run=run)
        if name == "show":
            one.add_argument("name", help="a mixture or task")
            one.add_argument(
                "--examples",
                type=_positive,
                help="length of the run in examples, for draws and repeats (default: as many as "
                "can be drawn before a task repeats)",
            )
    return top


def main(argv: Sequence[str]) -> int:
    """Runs `flan-jax mixture` and returns its exit code.

    Raises:
      UserError: unknown names, modules that fail; each says how to fix it.
    """
    arguments = parser().parse_args(argv)
    if arguments.data_dir:
        from flan_jax.sources.folder import use_data_folder

        use_data_folder(arguments.data_dir)
    load_content(arguments.module)
    return arguments.run(arguments)
