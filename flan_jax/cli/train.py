r"""`flan-jax train`: trains what gin files describe.

flan-jax train --gin_file=models/t5/small.gin --gin_file=vocabularies/t5.gin \
    --gin_file=runs/finetune.gin --gin.MIXTURE_OR_TASK_NAME=real --gin.MODEL_DIR=/tmp/run …
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from flan_jax.cli.gin_command import load_gin_command, run_configured

HELP = "train from gin files"
_DESCRIPTION = """\
Trains from gin files. Flags are T5X's.

Started again with the same MODEL_DIR it goes on from the newest checkpoint, bit by bit as if it
had never stopped. SIGTERM or Ctrl-C saves and ends with status 0.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry_run", action="store_true", help="resolve and check everything, train nothing"
    )
    group = parser.add_argument_group("several processes (T5X's flags)")
    group.add_argument("--multiprocess_gpu", action="store_true", help="join other processes")
    group.add_argument("--coordinator_address", help="host:port of process 0")
    group.add_argument("--process_count", type=int, help="number of processes")
    group.add_argument("--process_index", type=int, help="this process, from 0")


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    command = load_gin_command(argv, "train", _DESCRIPTION, "train", _add_arguments)
    if command is None:
        return 0
    import jax

    from flan_jax.train.loop import train

    args = command.args
    if args.multiprocess_gpu or args.coordinator_address:
        if os.environ.get("JAX_PLATFORMS") == "cpu":
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(args.coordinator_address, args.process_count, args.process_index)
    run_configured(train, dry_run=args.dry_run)
    return 0
