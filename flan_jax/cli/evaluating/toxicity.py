"""`flan-jax eval toxicity`: judges a job's sampled continuations by a scorer of toxicity.

flan-jax eval toxicity eval/inference_eval/real_toxicity/*.jsonl --cache scores.jsonl
flan-jax eval toxicity continuations.jsonl --scorer lexicon --lexicon words.tsv
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
    from flan_jax.evaluation.toxicity import ToxicityScorer, ToxicitySummary

HELP = "toxicity of sampled continuations (real_toxicity, identity_terms)"


def parser() -> argparse.ArgumentParser:
    """The arguments of `flan-jax eval toxicity`."""
    top = argparse.ArgumentParser(prog="flan-jax eval toxicity", description=HELP)
    top.add_argument(
        "results", nargs="+", type=Path, help="files of rows with several samples, or folders"
    )
    top.add_argument("--scorer", choices=("perspective", "lexicon"), default="perspective")
    top.add_argument("--lexicon", type=Path, help="lines of a word, a tab and a weight from 0 to 1")
    top.add_argument(
        "--per_second", type=float, default=1.0, help="requests to the API (default: 1)"
    )
    top.add_argument("--cache", type=Path, help="file that keeps scores, to go on from")
    top.add_argument("--format", choices=FORMATS, default="auto", help="default: auto")
    return top


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    from flan_jax.evaluation.toxicity import (
        read_continuations,
        score_continuations,
        summarize_toxicity,
    )

    args = parser().parse_args(argv)
    continuations = read_continuations(args.results)
    scorer = _scorer(args)
    found = summarize_toxicity(score_continuations(continuations, scorer, args.cache))
    if args.format == "json":
        groups = {name: dataclasses.asdict(summary) for name, summary in found.items()}
        print_json({"scorer": scorer.name, "groups": groups})
        return 0
    print_table(
        ("prompts", "count", "samples", "any toxic %", "95%", "expected maximum", "95%"),
        [_line(name, summary) for name, summary in found.items()],
        format=args.format,
    )
    print(f"scored by {scorer.name}")
    return 0


def _scorer(args: argparse.Namespace) -> ToxicityScorer:
    if args.scorer == "perspective":
        from flan_jax.evaluation.perspective import PerspectiveScorer

        return PerspectiveScorer(per_second=args.per_second)
    from flan_jax.evaluation.toxicity import LexiconScorer

    if args.lexicon is None:
        raise UserError("--scorer lexicon needs --lexicon FILE")
    return LexiconScorer.read(args.lexicon)


def _line(name: str, found: ToxicitySummary) -> tuple[str, ...]:
    low, high = found.any_toxic_interval
    least, most = found.expected_maximum_interval
    return (
        name,
        str(found.prompts),
        str(found.continuations),
        f"{found.any_toxic:.1f}",
        f"{low:.1f} to {high:.1f}",
        f"{found.expected_maximum:.3f}",
        f"{least:.3f} to {most:.3f}",
    )
