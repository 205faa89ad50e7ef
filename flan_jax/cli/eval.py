r"""`flan-jax eval`: scores a checkpoint under protocols; and what needs no checkpoint.

flan-jax eval --gin_file=models/t5/small.gin --gin_file=vocabularies/t5.gin \
    --gin_file=runs/eval.gin --gin.CHECKPOINT_PATH=/tmp/run/checkpoint_1000 …
flan-jax eval score bbh predictions.jsonl
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence

from flan_jax.cli.gin_command import load_gin_command, run_configured
from flan_jax.cli.processes import add_process_arguments, join_processes
from flan_jax.errors import UserError
from flan_jax.suggestions import did_you_mean

HELP = "evaluate a checkpoint under a protocol"
_DESCRIPTION = """\
Lets a checkpoint answer questions and scores the answers. Flags are T5X's.

Run again with the same EVAL_OUTPUT_DIR, an interrupted job goes on where it was.
"""
# What needs no model: modules of `flan_jax.cli.evaluating` with `main(argv) -> int`.
SUBCOMMANDS = {
    "protocols": "list the benchmarks' protocols, or show one with its decisions",
    "why": "show how two variants of a protocol differ on one item",
    "score": "score predictions of any system on a benchmark",
    "compare": "compare two systems' predictions item by item",
    "average": "average a suite's results as the Flan paper does, or check its own averages",
    "report": "write the report of finished evaluations",
    "select": "choose a checkpoint by its scores on one split",
    "harness": "lm-evaluation-harness with one of our models",
    "rate": "compare two models' answers by human raters",
    "auc": "AUC-ROC of yes/no likelihoods (civil_comments, toxicity_wiki)",
    "toxicity": "toxicity of sampled continuations (real_toxicity, identity_terms)",
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    lines = [f"  {name}: {text}" for name, text in SUBCOMMANDS.items()]
    parser.epilog = "Without a model, as `flan-jax eval NAME …`:\n" + "\n".join(lines)
    parser.add_argument("--dry_run", action="store_true", help="print the plan, generate nothing")
    add_process_arguments(parser)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    if argv and not argv[0].startswith("-"):
        return _subcommand(argv[0])(argv[1:])
    command = load_gin_command(argv, "eval", _DESCRIPTION, "evaluate", _add_arguments)
    if command is None:
        return 0
    from flan_jax.evaluation.evaluate import evaluate

    with join_processes(command.args):
        run_configured(evaluate, dry_run=command.args.dry_run)
    return 0


def _subcommand(name: str) -> Callable[[Sequence[str]], int]:
    if name not in SUBCOMMANDS:
        raise UserError(
            f"flan-jax eval has no subcommand {name!r}{did_you_mean(name, SUBCOMMANDS)} "
            f"({', '.join(SUBCOMMANDS)}); a job is given by --gin_file"
        )
    return importlib.import_module(f"flan_jax.cli.evaluating.{name}").main
