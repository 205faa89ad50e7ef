"""`flan-jax eval auc`: AUC-ROC of a job's likelihoods of yes and no.

flan-jax eval auc eval/inference_eval/toxicity_wiki/comments-001000.jsonl
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from flan_jax.cli.tables import print_json

HELP = "AUC-ROC of yes/no likelihoods (civil_comments, toxicity_wiki)"


def parser() -> argparse.ArgumentParser:
    """The arguments of `flan-jax eval auc`."""
    top = argparse.ArgumentParser(prog="flan-jax eval auc", description=HELP)
    top.add_argument(
        "results", nargs="+", type=Path, help="files of rows that a job wrote, or folders"
    )
    top.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    top.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    return top


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    from flan_jax.evaluation.auc import auc_with_interval, read_likelihoods

    args = parser().parse_args(argv)
    found = auc_with_interval(*read_likelihoods(args.results), seed=args.seed)
    if args.format == "json":
        print_json(dataclasses.asdict(found))
    else:
        low, high = found.interval
        print(
            f"AUC-ROC {found.value:.2f} (95% {low:.2f} to {high:.2f}) of {found.positives:,} "
            f"positive and {found.negatives:,} negative items"
        )
    return 0
