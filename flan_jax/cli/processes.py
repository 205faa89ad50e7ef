"""Flags of commands that can run as one of several processes."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds T5X's flags for several processes."""
    group = parser.add_argument_group(
        "several processes",
        "T5X's flags. On TPU slices of several hosts and in job steps of Slurm or Open MPI none is"
        " needed.",
    )
    group.add_argument(
        "--multiprocess",
        "--multiprocess_gpu",
        action="store_true",
        help="join the other processes that the machine names, or fail",
    )
    group.add_argument("--coordinator_address", help="host:port of process 0")
    group.add_argument("--process_count", type=int, help="number of processes")
    group.add_argument("--process_index", type=int, help="this process, from 0")
    group.add_argument(
        "--initialization_timeout",
        type=int,
        default=300,
        metavar="SECONDS",
        help="how long to wait for the other processes (default: %(default)s)",
    )


def join_processes(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Joins the other processes for the length of the block; see `flan_jax.distributed.joined`."""
    from flan_jax.distributed import joined

    return joined(
        args.coordinator_address,
        args.process_count,
        args.process_index,
        detect=args.multiprocess and args.coordinator_address is None,
        initialization_timeout=args.initialization_timeout,
    )
