"""`flan-jax data fetch`: brings the data of tasks and mixtures into the data folder.

flan-jax data fetch gsm8k cot --data_dir ~/data
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flan_jax.cli.tables import FORMATS, print_json, print_table
from flan_jax.errors import UserError

if TYPE_CHECKING:
    from flan_jax.sources.downloads import AnyDownload
    from flan_jax.sources.fetch import FetchReport, Outcome
    from flan_jax.tasks import TaskDefinition

HELP = "download the data of tasks and mixtures"
MIRRORS_VARIABLE = "FLAN_JAX_MIRRORS"
STYLES = {"there": "green", "fetched": "green", "failed": "bold red", "manual": "yellow"}
# Beyond this many files that were there all along, a terminal shows only their number.
_MANY = 20
_MIRROR = re.compile(r"(?P<prefix>\w+://.*?)=(?P<url>\w+://.*)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {number}")
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"must be more than 0, found {text}")
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `flan-jax data fetch`."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="a task, mixture or group")
    parser.add_argument(
        "--data_dir", help="where to put them; made if needed (default: FLAN_JAX_DATA, else ./data)"
    )
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        help="a module of yours that registers tasks; may be given several times",
    )
    parser.add_argument("--jobs", type=_positive, default=4, help="files at a time (default: 4)")
    parser.add_argument(
        "--allow_missing", action="store_true", help="exit with 0 although something is missing"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read and check files that look untouched, too"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="fetch anew what is there but wrong, and accept changes at the origin",
    )
    parser.add_argument(
        "--keep_archives", action="store_true", help="keep archives that files are taken from"
    )
    parser.add_argument(
        "--mirror",
        action="append",
        default=[],
        metavar="PREFIX=URL",
        help=f"replace the beginning of addresses; several times, or {MIRRORS_VARIABLE}",
    )
    parser.add_argument(
        "--attempts", type=_positive, default=5, help="tries for a file (default: 5)"
    )
    parser.add_argument(
        "--stall_timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="a connection without a byte for so long counts as dead (default: 30)",
    )
    parser.add_argument("--format", choices=FORMATS, default="auto", help="default: auto")


def mirrors(options: Sequence[str]) -> dict[str, str]:
    """Beginnings of addresses and what replaces them, from `FLAN_JAX_MIRRORS` and the options.

    Raises:
      UserError: one is not of the form PREFIX=URL.
    """
    found: dict[str, str] = {}
    for text in [*os.environ.get(MIRRORS_VARIABLE, "").split(), *options]:
        match = _MIRROR.fullmatch(text)
        if match is None:
            raise UserError(
                f"mirror {text!r} (of --mirror or {MIRRORS_VARIABLE}): expected PREFIX=URL, such "
                "as https://raw.githubusercontent.com/=https://mirror.example/github/"
            )
        found[match["prefix"]] = match["url"]
    return found


def chosen_tasks(names: Iterable[str]) -> list[TaskDefinition]:
    """The tasks that `names` of tasks, mixtures and groups stand for, each once.

    Raises:
      UserError: there is nothing of that name; or only a mixture of what is there already.
    """
    tasks: dict[str, TaskDefinition] = {}
    for name in names:
        tasks.update({task.name: task for task in _members(name)})
    return list(tasks.values())


def _members(name: str) -> Sequence[TaskDefinition]:
    from flan_jax.mixing import get_mixture
    from flan_jax.sources.base import SourceMissingError
    from flan_jax.tasks import UnknownTaskError, all_tasks

    try:
        return get_mixture(name).tasks()
    except (UnknownTaskError, SourceMissingError) as error:
        group = [task for task in all_tasks() if task.group == name]
        if not group and isinstance(error, SourceMissingError):
            raise UserError(
                f"mixture {name!r} is made of the data that are there, and there are none: fetch "
                "its tasks or groups by their names (`flan-jax tasks list`)"
            ) from error
        if not group:
            raise
        return group


def needs(tasks: Iterable[TaskDefinition]) -> tuple[dict[str, list[AnyDownload]], list[Outcome]]:
    """What each task needs, and the tasks whose source cannot say."""
    from flan_jax.sources.base import SourceError
    from flan_jax.sources.fetch import Outcome

    found: dict[str, list[AnyDownload]] = {}
    broken = []
    for task in tasks:
        # Sources of the user's own may be older than this method.
        ask = getattr(task.source, "downloads", tuple)
        try:
            found[task.name] = list(ask())
        except SourceError as error:
            broken.append(Outcome(task.name, "failed", str(error)))
    return found, broken


def still_missing(
    tasks: Iterable[TaskDefinition],
    needed: Mapping[str, Sequence[AnyDownload]],
    report: FetchReport,
) -> list[Outcome]:
    """Tasks that lack data although all went well that their source had named."""
    from flan_jax.sources.base import SourceError
    from flan_jax.sources.downloads import TfdsDownload
    from flan_jax.sources.fetch import Outcome

    failed = {outcome.name for outcome in report.outcomes if not outcome.ok}
    found = []
    for task in tasks:
        names = {d.builder if isinstance(d, TfdsDownload) else d.path for d in needed[task.name]}
        check = getattr(task.source, "check_present", None)
        if check is None or names & failed:
            continue
        try:
            check()
        except SourceError as error:
            found.append(Outcome(task.name, "manual", str(error)))
    return found


def run(arguments: argparse.Namespace) -> int:
    """Fetches, prints the outcome of everything, and tells by the exit code if all is there."""
    from flan_jax.cli.content import load_content
    from flan_jax.cli.fetch_progress import shown_progress
    from flan_jax.sources import folder
    from flan_jax.sources.fetch import FetchReport, Patience, fetch

    replaced = mirrors(arguments.mirror)
    target = _made_folder(arguments.data_dir)
    folder.use_data_folder(target)
    load_content(arguments.module)
    tasks = chosen_tasks(arguments.names)
    needed, broken = needs(tasks)
    with shown_progress() as observer:
        report = fetch(
            [one for listed in needed.values() for one in listed],
            target,
            jobs=arguments.jobs,
            mirrors=replaced,
            patience=Patience(attempts=arguments.attempts, stall_timeout=arguments.stall_timeout),
            observer=observer,
            replace=arguments.replace,
            verify=arguments.verify,
            keep_archives=arguments.keep_archives,
        )
    left = still_missing([task for task in tasks if task.name in needed], needed, report)
    report = FetchReport((*report.outcomes, *broken, *left))
    show(report, target, arguments.format)
    return int(not report.complete and not arguments.allow_missing)


def _made_folder(option: str | None) -> Path:
    from flan_jax.sources.folder import data_folder

    path = Path(option).expanduser().absolute() if option else data_folder()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the data folder {path} cannot be made: {error.strerror}; choose another"
        ) from error
    return path


def show(report: FetchReport, target: Path, format: str) -> None:
    """Prints the outcomes on standard output, and how many there are of each on standard error."""
    if format == "json":
        outcomes = [dataclasses.asdict(outcome) for outcome in report.outcomes]
        value = {"folder": str(target), "complete": report.complete, "outcomes": outcomes}
        print_json(value)
        return
    rows = report.outcomes
    if sys.stdout.isatty() and format == "auto" and len(report.of("there")) > _MANY:
        rows = tuple(outcome for outcome in rows if outcome.status != "there")
    table = [(outcome.status, outcome.name, outcome.detail) for outcome in rows]
    print_table(("status", "what", "detail"), table, format=format, styles=STYLES)
    counts = ", ".join(f"{count} {status}" for status, count in report.counts().items())
    print(f"{target}: {counts}", file=sys.stderr)
