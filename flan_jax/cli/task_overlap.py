"""`flan-jax tasks overlap`: is a benchmark held out from a mixture?"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from flan_jax.cli.tables import print_json, print_table
from flan_jax.errors import UserError
from flan_jax.mixing import get_mixture
from flan_jax.overlap.text import COMMON, NGRAM

if TYPE_CHECKING:
    from flan_jax.overlap.check import OverlapReport, Verdict
    from flan_jax.overlap.scan import TaskScan

HELP = "tell whether benchmarks are held out from a mixture"
_DESCRIPTION = """\
Compares the tasks of a mixture with benchmarks: by what is declared of their origin, and by looking
for runs of words that a benchmark's items and the tasks' rows have in common (Brown et al., 2020).

overlapping: a task is declared to have the benchmark's data, or shares words with it.
proven: all of the benchmark and of every task was read; nothing is shared, nothing declared.
unknown: neither; data are missing on this machine, or were read in part.
"""
_COLUMNS = ("benchmark", "verdict", "overlapping", "proven", "unknown", "items found", "items")
# As flan_jax.overlap.check has them; that module takes a while to import.
OVERLAPPING, PROVEN, UNKNOWN = "overlapping", "proven", "unknown"
_STYLES = {OVERLAPPING: "bold red", PROVEN: "green", UNKNOWN: "yellow"}
_EXAMPLES = 5
_SHOWN = 160  # characters of a shared text
_NAMED = 6  # tasks named in a line
_TELL_EVERY = 5.0  # seconds


def add_arguments(parser: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """The arguments of the command; `positive` reads a number of at least one."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _DESCRIPTION
    parser.add_argument("name", help="a mixture or task")
    parser.add_argument(
        "--against",
        required=True,
        metavar="NAMES",
        help="benchmarks or tasks, with commas between them: mmlu,bbh,tydiqa,mgsm,gsm8k …",
    )
    parser.add_argument(
        "--ngram", type=positive, default=NGRAM, help=f"words in a row (default: {NGRAM})"
    )
    parser.add_argument(
        "--common",
        type=positive,
        default=COMMON,
        help="words in a row that more texts of a benchmark share are boilerplate "
        f"(default: {COMMON})",
    )
    parser.add_argument("--split", default="train", help="of the tasks (default: train)")
    parser.add_argument("--max_rows", type=positive, help="most rows of a task (default: all)")
    parser.add_argument("--jobs", type=positive, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--require",
        choices=(PROVEN,),
        help="exit status 1 unless every benchmark is proven to be held out",
    )


def overlap(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    from flan_jax.overlap.check import check_overlap

    names = [name.strip() for name in arguments.against.split(",") if name.strip()]
    if not names:
        raise UserError("--against names no benchmark: give one or several, such as mmlu,bbh")
    report = check_overlap(
        get_mixture(arguments.name),
        names,
        ngram=arguments.ngram,
        common=arguments.common,
        split=arguments.split,
        max_rows=arguments.max_rows,
        jobs=arguments.jobs,
        progress=_progress(),
    )
    if arguments.format == "json":
        print_json(report.as_dict())
    else:
        _print(report, arguments.format)
    proven = all(verdict.status == PROVEN for verdict in report.verdicts)
    return 1 if arguments.require and not proven else 0


def _progress() -> Callable[[int, int, TaskScan], None]:
    """Says on standard error how far the check is, every few seconds."""
    last = [time.monotonic()]

    def tell(done: int, total: int, scan: TaskScan) -> None:
        now = time.monotonic()
        if now - last[0] >= _TELL_EVERY:
            last[0] = now
            print(f"read {done:,} of {total:,} tasks ({scan.task})", file=sys.stderr, flush=True)

    return tell


def _print(report: OverlapReport, format: str) -> None:
    rows = [
        (
            verdict.benchmark,
            verdict.status,
            *(f"{verdict.count(status):,}" for status in (OVERLAPPING, PROVEN, UNKNOWN)),
            "–" if verdict.items is None else f"{verdict.items_found():,}",
            "–" if verdict.items is None else f"{verdict.items:,}",
        )
        for verdict in report.verdicts
    ]
    print_table(_COLUMNS, rows, format=format, styles=_STYLES)
    if format == "plain":
        return
    for verdict in report.verdicts:
        lines = _details(verdict)
        if lines:
            print(f"\n{verdict.benchmark}: {verdict.status}")
            print("\n".join(f"  {line}" for line in lines))
    options = report.options
    print(
        f"\n{report.rows:,} rows of {options['tasks'] - options['tasks_missing']:,} of "
        f"{options['tasks']:,} tasks read in {report.seconds:.0f} s; runs of {options['ngram']} "
        f"words, split {options['split']}. Columns: tasks by what is known of them, then items of "
        "the benchmark."
    )


def _details(verdict: Verdict) -> list[str]:
    """What there is to say about a verdict, a line each."""
    lines = [f"benchmark: {verdict.incomplete}"] if verdict.incomplete else []
    for title, attribute in (("declared", "declared"), ("related, no overlap", "related")):
        tasks: dict[str, list[str]] = {}
        for pair in verdict.pairs:
            for row in getattr(pair, attribute):
                tasks.setdefault(f"{row.evidence} ({row.relation})", []).append(pair.task)
        lines += [f"{title}: {_named(names)}: {why}" for why, names in tasks.items()]
    parts = sorted({part for pair in verdict.pairs if pair.found for part in pair.found.items})
    if parts:
        counts = ", ".join(f"{part} {verdict.items_found(part):,}" for part in parts)
        lines.append(f"found: {verdict.items_found():,} items, by the text shared: {counts}")
    shown = 0
    for pair in verdict.pairs:
        for example in pair.found.examples if pair.found else ():
            if shown < _EXAMPLES:
                text = example.shared
                text = text if len(text) <= _SHOWN else text[:_SHOWN] + " …"
                lines.append(
                    f"  {pair.task} row {example.row} ({example.field}) has of item "
                    f"{example.item} ({example.part}): {text}"
                )
            shown += 1
    if shown > _EXAMPLES:
        lines.append("  … --format json has more")
    unknown = [pair for pair in verdict.pairs if pair.status == UNKNOWN]
    if unknown and not verdict.incomplete:
        reasons = Counter(_kind(pair.why, pair.rows) for pair in unknown)
        told = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        lines.append(f"unknown: {_named([pair.task for pair in unknown])}: {told}")
    return lines


def _kind(why: str, rows: int | None) -> str:
    if rows is None:
        return "not on this machine"
    return "that cannot be read" if "cannot be read" in why else "read in part"


def _named(names: list[str]) -> str:
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED:,} more"
