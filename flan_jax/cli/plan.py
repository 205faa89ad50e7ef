r"""`flan-jax plan`: says before a run whether it fits a pod, and how fast it will be.

flan-jax plan --gin_file=models/t5/xl.gin --gin_file=runs/finetune.gin --topology=v4-32 \
    --gin.TASK_FEATURE_LENGTHS="{'inputs': 2048, 'targets': 512}" --gin.BATCH_SIZE=64 --gin.FSDP=16
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flan_jax.cli.tables import FORMATS, print_json, print_table
from flan_jax.config import (
    LoadedConfig,
    add_gin_arguments,
    gin_flags,
    resolved_config_text,
    rewrite_gin_arguments,
)
from flan_jax.errors import UserError

if TYPE_CHECKING:
    from flan_jax.cli.planning.job import Job
    from flan_jax.plan.preflight import Machine
    from flan_jax.plan.steps import PlannedRun, StepKind

HELP = "say before a run whether it fits a pod, and how fast"
EXIT_DOES_NOT_FIT = 3
_DESCRIPTION = """\
Compiles the steps of a run for a TPU pod that need not be there, from the gin files of `train`, and
says whether they fit the chips' memory and how long they take. Reads no data and no vocabularies.

Memory, the kinds and bytes of collectives, and that the program compiles at all are the compiler's
own and hard. Times are estimates: from the compiler's schedule and a model of the links.

Exit status: 0 if every step fits, 3 if one does not, 2 for a mistake in flags or files.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flan-jax plan",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_gin_arguments(parser)
    parser.add_argument(
        "--module", action="append", default=[], help="module that registers tasks; repeatable"
    )
    parser.add_argument(
        "--print_config", action="store_true", help="print the configuration in force and stop"
    )
    parser.add_argument(
        "--topology",
        help="TPU slice: v4-32, v4:8x8x8, v5e-64, 2xv4-32 (two slices); or GPUs: h100:8",
    )
    parser.add_argument(
        "--step",
        action="append",
        choices=("train", "eval", "decode"),
        help="step to compile; repeatable (default: train, or decode for an evaluation's files)",
    )
    parser.add_argument(
        "--show_sharding",
        action="store_true",
        help="show each parameter's shape, mesh axes and bytes a device; compiles nothing",
    )
    parser.add_argument(
        "--xla",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="compiler option, or no_windowed_einsum or async_collectives; repeatable",
    )
    parser.add_argument("--num_tasks", type=_positive, help="tasks that the loss is split by")
    parser.add_argument("--timeout", type=_positive, default=3600, help="seconds a compilation")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="default: auto")
    _add_decode_arguments(parser)
    _add_search_arguments(parser)
    return parser


def _add_decode_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("decoding (default: what the gin files say of the data)")
    group.add_argument("--batch_size", type=_positive, help="prompts decoded at a time")
    group.add_argument("--inputs_length", type=_positive, help="tokens of a prompt")
    group.add_argument("--max_decode_len", type=_positive, help="tokens of an answer")


def _add_search_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("search")
    group.add_argument(
        "--search",
        nargs="*",
        metavar="NAME=VALUE,VALUE",
        help="try all combinations of values of macros or parameters, such as FSDP=8,16 TENSOR=1,2 "
        "NUM_MICROBATCHES=None,2; without any: sizes of fsdp and tensor that use all chips",
    )
    group.add_argument(
        "--search_xla",
        nargs="*",
        metavar="SET",
        help="sets of compiler options to try, each `default`, `no_windowed_einsum`, "
        "`async_collectives` or OPTION=VALUE,OPTION=VALUE (default: the three)",
    )
    group.add_argument("--write_gin", metavar="FILE", help="write the best as a gin file")
    group.add_argument("--cache_dir", help="where reports are kept (default: ~/.cache/flan_jax)")
    group.add_argument("--no_cache", action="store_true", help="compile anew, keep nothing")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {value}")
    return value


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(rewrite_gin_arguments(argv))
    if not args.gin_file:
        parser.error("--gin_file is required: one gin file or more (gin/runs holds ready ones)")
    if not args.topology and not args.print_config:
        parser.error("--topology is required, such as v4-32, v5e-64 or h100:8")
    _quieten()
    from flan_jax.cli.planning.job import load_job, planned_run

    machine = None if args.print_config else _machine(args)
    job = _job(args)
    config = load_job(job)
    if machine is None:
        print(resolved_config_text(config), end="")
        return 0
    run = planned_run(job, config)
    if args.show_sharding:
        return _show_sharding(run, machine, args.format)
    if args.search is not None:
        return _search(args, job, config, run, machine)
    return _plan(args, job, config, run, machine)


def _quieten() -> None:
    """No device of this machine is used, and no notes of XLA are shown."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.ERROR)


def _machine(args: argparse.Namespace) -> Machine:
    from flan_jax.plan.preflight import machine, require_compiler

    found = machine(args.topology)
    if not args.show_sharding:
        require_compiler(found)
    return found


def _job(args: argparse.Namespace) -> Job:
    from flan_jax.cli.planning.job import Job

    flags = gin_flags(args)
    return Job(
        flags.gin_files,
        flags.bindings,
        flags.search_paths,
        tuple(args.module),
        batch_size=args.batch_size,
        inputs_length=args.inputs_length,
        max_decode_len=args.max_decode_len,
        num_tasks=args.num_tasks,
    )


def _plan(
    args: argparse.Namespace, job: Job, config: LoadedConfig, run: PlannedRun, machine: Machine
) -> int:
    from flan_jax.cli.planning.planner import Planner
    from flan_jax.cli.planning.show import show
    from flan_jax.plan.search import parse_xla

    planner = Planner.from_flags(args, machine)
    options = parse_xla(args.xla)
    steps: list[StepKind] = args.step or [run.default_step]
    reports = []
    for step in steps:
        report = planner.plan(job.for_step(step), config, run, options)
        reports.append(report)
        if args.format != "json":
            show(report, plain=args.format == "plain")
    if args.format == "json":
        print_json(reports[0] if len(reports) == 1 else reports)
    return 0 if all(report["fits"] for report in reports) else EXIT_DOES_NOT_FIT


def _search(
    args: argparse.Namespace, job: Job, config: LoadedConfig, run: PlannedRun, machine: Machine
) -> int:
    from flan_jax.cli.planning.planner import Planner
    from flan_jax.cli.planning.search import search, show_ranking
    from flan_jax.files import write_atomically
    from flan_jax.plan.search import gin_text

    steps: list[StepKind] = args.step or [run.default_step]
    if len(steps) > 1:
        raise UserError(f"--search looks at one step, found --step {' --step '.join(steps)}")
    planner = Planner.from_flags(args, machine)
    results = search(args, planner, job.for_step(steps[0]), config)
    show_ranking(results, args.format)
    best, report = results[0]
    if not report["fits"]:
        return EXIT_DOES_NOT_FIT
    if args.write_gin:
        write_atomically(Path(args.write_gin), gin_text(best, report, machine.name))
    return 0


def _show_sharding(run: PlannedRun, machine: Machine, format: str) -> int:
    from flan_jax.plan.preflight import abstract_mesh
    from flan_jax.plan.sharding_table import COLUMNS, place, totals

    mesh = abstract_mesh(run, machine)
    placed = place(run, mesh)
    if format == "json":
        rows: list[Any] = [array.to_json() for array in placed]
        print_json({"mesh": dict(mesh.shape), "arrays": rows, "bytes_per_device": totals(placed)})
        return 0
    print_table(COLUMNS, [array.cells() for array in placed], format=format)
    for name, size in totals(placed).items():
        print(f"{name}: {size / 2**20:,.1f} MiB a device on mesh {dict(mesh.shape)}")
    return 0
