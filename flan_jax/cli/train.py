r"""`flan-jax train`: trains what gin files describe.

flan-jax train --gin_file=models/t5/small.gin --gin_file=vocabularies/t5.gin \
    --gin_file=runs/finetune.gin --gin.MIXTURE_OR_TASK_NAME=real --gin.MODEL_DIR=/tmp/run …
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from flan_jax.cli.gin_command import load_gin_command, run_configured
from flan_jax.cli.processes import add_process_arguments, join_processes
from flan_jax.cpu_start import prepare_to_train

HELP = "train from gin files"
_DESCRIPTION = """\
Trains from gin files. Flags are T5X's.

Started again with the same MODEL_DIR it goes on from the newest checkpoint, bit by bit as if it
had never stopped. SIGTERM or Ctrl-C saves and ends with status 0, or --status_when_stopped.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry_run", action="store_true", help="resolve and check everything, train nothing"
    )
    parser.add_argument(
        "--status_when_stopped",
        type=int,
        default=0,
        metavar="STATUS",
        help="exit status of a run that a signal stopped, saved, before its last step (default: "
        "%(default)s; flan-jax launch gives 75, by which engines start it again)",
    )
    add_process_arguments(parser)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    prepare_to_train()
    command = load_gin_command(argv, "train", _DESCRIPTION, "train", _add_arguments)
    if command is None:
        return 0
    from flan_jax.train.loop import train

    with join_processes(command.args):
        result = run_configured(train, dry_run=command.args.dry_run)
    stopped = result is not None and not result.finished
    return command.args.status_when_stopped if stopped else 0
