"""`flan-jax data build`: makes a store of the rows of a mixture's tasks, or brings it up to date.

flan-jax data build flan2022 --out ~/stores/flan2022 --jobs 8
flan-jax data build flan2022 --out /shared/flan2022 --runner beam -- --runner=FlinkRunner
flan-jax data build flan2022 --out s --runner beam --exchange gs://… -- --runner=DataflowRunner …
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flan_jax.cli.tables import FORMATS, print_json, print_table
from flan_jax.errors import UserError

if TYPE_CHECKING:
    from flan_jax.store import BuildReport, TaskOutcome
    from flan_jax.store.exchange import Exchange
    from flan_jax.store.parts import PartPlan

HELP = "build a store of a mixture's rows, to train from"
STYLES = {"built": "green", "resumed": "green", "unchanged": "green", "failed": "bold red"}
RUNNERS = ("local", "beam")
# Beyond this many tasks that went well, a terminal shows only their number.
_MANY = 20
_MIB = 2**20


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {number}")
    return number


def _splits(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("name at least one split")
    return names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `flan-jax data build`."""
    parser.add_argument("mixture", metavar="MIXTURE", help="a mixture or task")
    parser.add_argument("--out", required=True, metavar="DIR", help="the store's folder")
    parser.add_argument("--jobs", type=_positive, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--splits",
        type=_splits,
        default=("train", "validation"),
        help="splits to store, with commas between them (default: train,validation)",
    )
    parser.add_argument(
        "--allow_missing",
        action="store_true",
        help="write the store without the tasks that failed, and exit with 0",
    )
    parser.add_argument(
        "--endless_rows",
        type=_positive,
        metavar="N",
        help="rows to store of generated splits without end (default: they stay generated)",
    )
    parser.add_argument(
        "--shard_size",
        type=_positive,
        default=512,
        metavar="MIB",
        help="size that shards should have, in MiB (default: 512)",
    )
    parser.add_argument(
        "--runner",
        choices=RUNNERS,
        default="local",
        help="local: processes of this machine; beam: Apache Beam, whose own options follow after "
        "-- (default: local)",
    )
    parser.add_argument(
        "--exchange",
        metavar="ADDRESS",
        help="with --runner beam, a bucket or folder where workers leave what they built, if they "
        "do not reach --out (default: they write there)",
    )
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        help="a module of yours that registers tasks; may be given several times",
    )
    parser.add_argument("--data_dir", help="the data folder (default: FLAN_JAX_DATA, else ./data)")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="default: auto")


def split_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments before `--`, and Beam's own, after it; other commands' are left as they are."""
    arguments = list(argv)
    if arguments[:1] != ["build"] or "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def run(arguments: argparse.Namespace) -> int:
    """Builds, prints what became of each task, and tells by the exit code if all are stored."""
    from flan_jax.cli.content import load_content
    from flan_jax.mixing import get_mixture
    from flan_jax.sources import folder
    from flan_jax.store import build_store
    from flan_jax.store.exchange import Exchange

    if arguments.beam_options and arguments.runner != "beam":
        raise UserError(
            f"{' '.join(arguments.beam_options)}: what stands after -- is for Beam, which is used "
            "only with --runner beam"
        )
    if arguments.exchange is not None and arguments.runner != "beam":
        raise UserError("--exchange is where workers of Beam leave parts: it needs --runner beam")
    if arguments.data_dir:
        folder.use_data_folder(arguments.data_dir)
    load_content(arguments.module)
    mixture = get_mixture(arguments.mixture)
    exchange = Exchange(arguments.exchange) if arguments.exchange is not None else None
    progress = _Progress(len(mixture.rates))
    report = build_store(
        mixture,
        arguments.out,
        jobs=arguments.jobs,
        splits=arguments.splits,
        allow_missing=arguments.allow_missing,
        endless_rows=arguments.endless_rows,
        shard_bytes=arguments.shard_size * _MIB,
        modules=arguments.module,
        runner=_beam(arguments, exchange) if arguments.runner == "beam" else None,
        tell=progress.tell,
        written=lambda plans: _clear(exchange, plans),
    )
    show(report, arguments.format)
    return int(report.manifest is None)


def _beam(arguments: argparse.Namespace, exchange: Exchange | None) -> Any:
    from flan_jax.store.beam import beam_runner

    return beam_runner(arguments.beam_options, arguments.module, exchange)


def _clear(exchange: Exchange | None, plans: Sequence[PartPlan]) -> None:
    """Deletes parts from the exchange; the store is good, even if they cannot be."""
    if exchange is None:
        return
    try:
        exchange.clear(plans)
    except UserError as error:
        print(f"the store is written, but parts are left over: {error}", file=sys.stderr)


class _Progress:
    """A line for each task that was built or failed, with how many are done, on standard error."""

    def __init__(self, total: int):
        self._total = total
        self._done = 0
        self._start = time.monotonic()

    def tell(self, outcome: TaskOutcome) -> None:
        self._done += 1
        if outcome.status in ("unchanged", "resumed"):
            return
        what = outcome.detail if outcome.status == "failed" else f"{outcome.rows:,} rows"
        seconds = time.monotonic() - self._start
        print(
            f"[{self._done}/{self._total}, {seconds:.0f} s] {outcome.status} {outcome.name}: "
            f"{' '.join(what.split())}",
            file=sys.stderr,
            flush=True,
        )


def show(report: BuildReport, format: str) -> None:
    """Prints the outcomes on standard output, and a summary on standard error."""
    manifest = report.manifest
    if format == "json":
        print_json(
            {
                "store": report.path,
                "written": manifest is not None,
                "counts": report.counts(),
                "outcomes": [dataclasses.asdict(outcome) for outcome in report.outcomes],
            }
        )
        return
    outcomes = report.outcomes
    if sys.stdout.isatty() and format == "auto" and len(outcomes) > _MANY:
        outcomes = report.failed
    table = [(o.status, o.name, f"{o.rows:,}", f"{o.size:,}", o.detail) for o in outcomes]
    columns = ("status", "task", "rows", "bytes", "detail")
    print_table(columns, table, format=format, styles=STYLES)
    counts = ", ".join(f"{count} {status}" for status, count in report.counts().items())
    print(f"{report.path}: {counts}", file=sys.stderr)
    if manifest is None:
        print(
            "the store was not written, because tasks failed; what was built is kept: run the "
            "command again when they are mended, or with --allow_missing to go on without them",
            file=sys.stderr,
        )
        return
    size = sum(file.bytes for file in manifest.shards)
    rows = sum(s.rows for task in manifest.tasks.values() for s in task.splits.values())
    print(f"{rows:,} rows in {len(manifest.shards)} shards, {size:,} bytes", file=sys.stderr)
