"""`flan-jax eval rate`: a page on which people compare two models, and what they preferred.

flan-jax eval rate base.jsonl tuned.jsonl --out rating.html
flan-jax eval rate --tally ratings.json --key rating.key.json
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flan_jax.cli.tables import FORMATS, print_json, print_table
from flan_jax.errors import UserError

if TYPE_CHECKING:
    from flan_jax.evaluation.preferences import Preference, Tally

_DESCRIPTION = """\
Makes a page for blind rating side by side: one HTML file that needs no server and sends nothing.
Raters save their ratings as a file; --tally counts those files, one a rater.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of `flan-jax eval rate`."""
    top = argparse.ArgumentParser(prog="flan-jax eval rate", description=_DESCRIPTION)
    top.add_argument(
        "answers",
        nargs="*",
        type=Path,
        metavar="ANSWERS",
        help="answers of the first and of the second model: JSON lines, or folders with some",
    )
    top.add_argument("--out", type=Path, metavar="PAGE.html", help="the page; beside it, its key")
    top.add_argument(
        "--names", nargs=2, metavar="NAME", help="of the models; by default the files'"
    )
    top.add_argument("--seed", type=int, default=0, help="of order and sides (default: 0)")
    top.add_argument(
        "--partial", action="store_true", help="leave out what only one model answered"
    )
    top.add_argument(
        "--tally",
        nargs="+",
        type=Path,
        metavar="RATINGS.json",
        help="count ratings, a file a rater",
    )
    top.add_argument(
        "--key",
        type=Path,
        help="the page's key (default: the one *.key.json in the folder of the ratings)",
    )
    top.add_argument("--format", choices=FORMATS, default="auto", help="of --tally (default: auto)")
    return top


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    args = parser().parse_args(argv)
    if args.tally:
        if args.answers or args.out:
            raise UserError("--tally counts ratings; it takes no answers and writes no page")
        _tally(args)
    elif len(args.answers) != 2 or args.out is None:
        raise UserError(
            f"expected two files of answers and --out PAGE.html, found {len(args.answers)} files"
        )
    else:
        _make_page(args)
    return 0


def _make_page(args: argparse.Namespace) -> None:
    from flan_jax.evaluation.open_ended import pair, read_answers
    from flan_jax.evaluation.rating_page import write_rating_page

    first, second = (read_answers(path) for path in args.answers)
    pairs = pair(first, second, args.seed, partial=args.partial)
    one, two = args.names or (path.stem or str(path) for path in args.answers)
    key = write_rating_page(args.out, pairs, (one, two))
    print(f"wrote {args.out} with {len(pairs)} pairs, and {key}, which raters must not see")


def _tally(args: argparse.Namespace) -> None:
    from flan_jax.evaluation.preferences import Key, tally

    found = tally(Key.read(args.key or _only_key(args.tally[0].parent)), args.tally)
    if args.format == "json":
        print_json(dataclasses.asdict(found))
        return
    print_table(
        (
            "category",
            "prompts",
            found.names[0],
            "tie",
            found.names[1],
            "preferred",
            "95%",
            "ties half",
        ),
        [_line(name, p) for name, p in found.categories.items()],
        format=args.format,
        styles={},
    )
    print("\n".join(_notes(found)))


def _only_key(folder: Path) -> Path:
    keys = sorted(folder.glob("*.key.json"))
    if len(keys) != 1:
        raise UserError(f"{len(keys)} keys (*.key.json) in {folder.resolve()}: name one by --key")
    return keys[0]


def _line(name: str, found: Preference) -> tuple[str, ...]:
    share = "" if found.share is None else f"{found.share:.1f}"
    interval = found.share_interval
    low_high = "" if interval is None else f"{interval.low:.1f} to {interval.high:.1f}"
    counts = (found.prompts, found.first, found.ties, found.second)
    return (name, *map(str, counts), share, low_high, f"{found.with_ties:.1f}")


def _notes(found: Tally) -> list[str]:
    notes = [f"preferred: percentage of decided ratings for {found.names[1]}"]
    if found.left_share is not None:
        notes.append(f"{found.left_share:.1f}% of decided ratings went to the left side")
    if found.agreement is not None:
        notes.append(f"raters agree in {found.agreement:.1f}% of pairs of ratings")
    return notes
