"""`flan-jax data stats`: what a training stream holds, by task and group.

flan-jax data stats micro --examples 20000 --html stats.html
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from flan_jax.cli.data_inspection import add_reading_arguments, open_stream, positive, write_page
from flan_jax.cli.tables import print_json, print_table
from flan_jax.errors import UserError

HELP = "tell lengths, truncation, packing, repeats and duplicates of a training stream"
_BAR = 40  # columns of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉"
_COLUMNS = (
    "share", "examples", "tokens", "of targets", "inputs median/p90/p99/max",
    "targets median/p90/p99/max", "cut inputs", "cut targets", "dropped exemplars", "epochs",
    "duplicates",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `flan-jax data stats`."""
    add_reading_arguments(parser)
    parser.add_argument(
        "--examples",
        type=positive,
        default=20_000,
        metavar="N",
        help="examples to read, from the first of the stream, rounded up to whole windows "
        "(default: 20000)",
    )
    parser.add_argument(
        "--steps", type=positive, default=10_000, help="of the run, for epochs (default: 10000)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints statistics of a stream; the same bytes every time."""
    config, maker, vocabulary = open_stream(arguments)
    from flan_jax.data.examples import ExampleMaker
    from flan_jax.data.inspection import stats

    if not isinstance(maker, ExampleMaker):
        raise UserError(
            f"{arguments.name!r} is registered with SeqIO alone, whose examples do not tell their "
            "task and row; `flan-jax data show` shows its batches"
        )
    progress = _Progress(arguments.examples) if sys.stderr.isatty() else None
    sample = stats.collect(config, maker, arguments.examples, progress)
    if progress is not None:
        progress.end()
    found = stats.summarise(config, maker, sample, steps=arguments.steps, vocabulary=vocabulary)
    if arguments.html:
        from flan_jax.data.inspection.page import stats_page

        write_page(arguments.html, stats_page(found))
    if arguments.format == "json":
        print_json(found)
    elif arguments.html:
        print(f"{arguments.html}: {found['total']['examples']:,} examples of {arguments.name}")
    else:
        _print(found, arguments.format)
    if found["missing"]:
        print(f"left out, data missing: {', '.join(found['missing'])}", file=sys.stderr)
    return 0


class _Progress:
    """A line on standard error that counts examples."""

    def __init__(self, examples: int):
        self._examples = examples

    def __call__(self, read: int) -> None:
        print(f"\r{read:,} of {self._examples:,} examples", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _print(found: dict[str, Any], format: str) -> None:
    total, packing, lengths = found["total"], found["packing"], found["lengths"]
    rows = found["row_lengths"]
    fill, duplicates = packing["fill"], total["duplicates"]
    print(
        f"{found['mixture']} ({found['split']}, seed {found['seed']}): the first "
        f"{total['examples']:,} examples of the stream, {total['tokens']:,} tokens by "
        f"{found['vocabulary']}\nhash {found['hash']}"
    )
    print(
        f"rows of {rows['inputs']} and {rows['targets']} tokens: {packing['rows']:,}, "
        f"{packing['examples_per_row']:.2f} examples each; filled: inputs "
        f"{100 * fill['inputs']:.1f}%, targets {100 * fill['targets']:.1f}%, all positions "
        f"{100 * fill['all']:.1f}%; the rest is padding"
    )
    print(_recommendation(found))
    for side in ("inputs", "targets"):
        print(f"\n{_side(total, side, lengths[side])}")
        for line in histogram_lines(total[side]["histogram"], found["edges"][side], lengths[side]):
            print(line)
    print(
        f"\nexemplars: {total['exemplars']:,} shown, {total['dropped_exemplars']:,} dropped because"
        f" they did not fit\nduplicates: {duplicates['same_row']:,} examples word a row again as "
        f"before, {duplicates['other_row']:,} are equal to one of another row"
    )
    print(
        f"epochs: for {found['steps']:,} steps of {found['batch_size']:,} rows, by each task's "
        "share\n"
    )
    for columns, key in ((("group", "tasks"), "groups"), (("task", "group"), "tasks")):
        lines = [_cells(figures) for figures in found[key]]
        print_table((*columns, *_COLUMNS), lines, format=format)
        print()


def _recommendation(found: dict[str, Any]) -> str:
    pair = found["recommended"]
    if pair is None:
        return "recommended lengths: none (this needs packed rows)"
    if all(pair[side] == found["row_lengths"][side] for side in ("inputs", "targets")):
        return "recommended lengths: these; no other pair that cuts as few examples fills better"
    return (
        f"recommended lengths: {pair['inputs']} and {pair['targets']}, which fill "
        f"{100 * pair['fill']['all']:.1f}% of all positions and cut no more"
    )


def _side(total: dict[str, Any], side: str, limit: int) -> str:
    figures = total[side]
    told = (
        f"{side}: mean {figures['mean']:.1f}, median {figures['median']:,}, p90 "
        f"{figures['p90']:,}, p99 {figures['p99']:,}, longest {figures['max']:,} tokens; "
    )
    if not figures["truncated"]:
        return f"{told}none is cut at {limit:,}"
    return (
        f"{told}{figures['truncated']:,} are cut at {limit:,}, by {figures['tokens_cut']:,} tokens "
        f"in all and {figures['largest_cut']:,} at most"
    )


def histogram_lines(counts: list[int], edges: list[int], limit: int) -> list[str]:
    """A histogram as lines with bars; bins of what is cut are marked."""
    from flan_jax.data.inspection.stats import bins

    total = sum(counts)
    shown = bins(counts, edges)
    longest = max((counts[i] for i, _ in shown), default=1)
    lines, last = [], 0
    for i, end in shown:
        last = end or last
        name = f"> {last:,}" if end is None else f"≤ {end:,}"
        mark = " cut" if end is None or end > limit else ""
        lines.append(
            f"{name:>9} {bar(counts[i] / longest):<{_BAR}} {counts[i]:>7,} "
            f"{100 * counts[i] / total:5.1f}%{mark}"
        )
    return lines


def bar(share: float) -> str:
    """A bar of eighths of a column; what is not nothing is seen."""
    eighths = max(round(share * _BAR * 8), 1 if share > 0 else 0)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _cells(figures: dict[str, Any]) -> tuple[str, ...]:
    """A line of the tables."""
    epochs = figures.get("epochs", figures.get("most_epochs"))
    duplicates = figures["duplicates"]
    return (
        figures["name"],
        str(figures.get("tasks", figures.get("group"))),
        f"{100 * figures['share']:.2f}%",
        f"{figures['examples']:,}",
        f"{100 * figures['tokens_share']:.2f}%",
        f"{100 * figures['targets_share']:.2f}%",
        *(_quantiles(figures[side]) for side in ("inputs", "targets")),
        *(f"{(figures[side] or {}).get('truncated', 0):,}" for side in ("inputs", "targets")),
        f"{figures['dropped_exemplars']:,}",
        "endless" if epochs is None else f"{epochs:.3f}",
        f"{duplicates['same_row'] + duplicates['other_row']:,}",
    )


def _quantiles(lengths: dict[str, Any] | None) -> str:
    if lengths is None:
        return "none drawn"
    return "/".join(f"{lengths[name]:,}" for name in ("median", "p90", "p99", "max"))
