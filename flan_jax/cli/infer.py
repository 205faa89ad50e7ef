r"""`flan-jax infer`: lets a checkpoint answer prompts.

flan-jax infer --gin_file=models/t5/small.gin --gin_file=vocabularies/t5.gin \
    --gin_file=runs/infer.gin --gin.CHECKPOINT_PATH=/tmp/run/checkpoint_1000 --prompt "Why …?" …
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from flan_jax.cli.gin_command import load_gin_command, run_configured

HELP = "generate answers with a checkpoint"
_DESCRIPTION = """\
Lets a checkpoint answer the prompts of a task or mixture, into T5X's files, or prompts of your own
(--prompt), on screen. Flags are T5X's.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt", action="append", default=[], help="a prompt to answer; repeatable"
    )
    parser.add_argument("--dry_run", action="store_true", help="print prompts, generate nothing")


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    command = load_gin_command(argv, "infer", _DESCRIPTION, "infer", _add_arguments)
    if command is None:
        return 0
    from flan_jax.evaluation.infer import infer

    args = command.args
    answers = run_configured(infer, prompts=args.prompt, dry_run=args.dry_run)
    for prompt, answer in zip(args.prompt, answers, strict=False):
        print(f"> {prompt}\n{answer}\n")
    return 0
