r"""`flan-jax eval`: scores a checkpoint under protocols.

flan-jax eval --gin_file=models/t5/small.gin --gin_file=vocabularies/t5.gin \
    --gin_file=runs/eval.gin --gin.CHECKPOINT_PATH=/tmp/run/checkpoint_1000 …
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from flan_jax.cli.gin_command import load_gin_command, run_configured
from flan_jax.cli.processes import add_process_arguments, join_processes

HELP = "evaluate a checkpoint under a protocol"
_DESCRIPTION = """\
Lets a checkpoint answer questions and scores the answers. Flags are T5X's.

Run again with the same EVAL_OUTPUT_DIR, an interrupted job goes on where it was.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry_run", action="store_true", help="print the plan, generate nothing")
    add_process_arguments(parser)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    command = load_gin_command(argv, "eval", _DESCRIPTION, "evaluate", _add_arguments)
    if command is None:
        return 0
    from flan_jax.evaluation.evaluate import evaluate

    with join_processes(command.args):
        run_configured(evaluate, dry_run=command.args.dry_run)
    return 0
