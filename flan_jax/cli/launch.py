r"""`flan-jax launch`: renders a job for an engine, checks it, and with --run launches it.

flan-jax launch tpu_vm train --name=flan-t5-xl --topology=v5e-64 --zone=us-west4-a --spot \
    --image=… --gin_file=models/t5/xl.gin … --gin.MODEL_DIR=gs://bucket/flan-t5-xl
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flan_jax.errors import UserError

if TYPE_CHECKING:
    from flan_jax.launch import JobSpec, Place, Rendered

HELP = "launch a job: on this machine, TPU VMs, GKE, SkyPilot or Slurm"
_DESCRIPTION = """\
Describes a job once and launches it by one of several engines. Without --run it prints what would
be done: the files, and the commands that create, watch and delete.

COMMAND is train, eval or data-build. Its gin flags are given here, and checked; whatever it takes
besides follows after --, as it stands:

  flan-jax launch slurm data-build --name=build --run -- flan2022 --out /stores/flan2022
"""
_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]+")


def _add_job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backend", metavar="BACKEND", help="local, tpu_vm, gke, skypilot or slurm")
    parser.add_argument("job", metavar="COMMAND", help="train, eval or data-build")
    parser.add_argument("--run", action="store_true", help="do it; without, only print it")
    parser.add_argument("--name", help="of the job and all that is created (default: COMMAND-job)")
    parser.add_argument(
        "--topology", default="cpu", help="TPU slices: v5e-64, v4:4x4x8, 2xv4-32; GPUs: h100:8"
    )
    parser.add_argument("--spot", action="store_true", help="machines that may be taken away")
    parser.add_argument("--image", default="", help="container image, of launch/Dockerfile")
    parser.add_argument(
        "--package", default="", help="what pip installs on the machines, where there is no image"
    )
    parser.add_argument(
        "--module", action="append", default=[], help="module that registers tasks; repeatable"
    )
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="variable; repeatable"
    )
    parser.add_argument(
        "--bucket",
        action="append",
        default=[],
        metavar="gs://NAME",
        help="a bucket that must be readable (those in gin values and files are found)",
    )
    parser.add_argument(
        "--folder", default="launched", help="where the job's files go (default: %(default)s)"
    )


def _add_place_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where")
    group.add_argument("--processes", type=int, default=0, help="local: how many")
    group.add_argument("--port", type=int, default=0, help="local: of process 0 (default: any)")
    group.add_argument("--project", default="", help="of Google Cloud")
    group.add_argument("--zone", default="", help="of Google Cloud")
    group.add_argument("--network", default="", help="VPC network of TPU VMs")
    group.add_argument("--service_account", default="", help="of TPU VMs, or of pods")
    group.add_argument("--runtime_version", default="", help="TPU VMs' software")
    group.add_argument("--reserved", action="store_true", help="TPU VMs: use a reservation")
    group.add_argument("--namespace", default="default", help="of Kubernetes")
    group.add_argument("--queue", default="", help="gke: Kueue's LocalQueue")
    group.add_argument("--xpk", action="store_true", help="gke: through xpk")
    group.add_argument("--cluster", default="", help="gke: for xpk")
    group.add_argument("--partition", default="", help="of Slurm")
    group.add_argument("--account", default="", help="of Slurm")
    group.add_argument("--time_limit", default="", help="of Slurm, such as 12:00:00")
    group.add_argument("--cpus_per_task", type=int, default=0, help="of Slurm")
    group.add_argument("--memory", default="", help="of a node of Slurm, such as 64G")


def _add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("failures and checks")
    group.add_argument(
        "--restarts", type=int, default=10, help="of a job that lost a process (default: 10)"
    )
    group.add_argument(
        "--attempts", type=int, default=5, help="at a call that fails for a while (default: 5)"
    )
    group.add_argument(
        "--retry_wait", type=float, default=10.0, metavar="SECONDS", help="doubles (default: 10)"
    )
    group.add_argument(
        "--keep", action="store_true", help="tpu_vm: keep the machines of a finished job"
    )
    group.add_argument(
        "--check_plan",
        action="store_true",
        help="compile the job's step for the topology even without --run (with it, always)",
    )
    group.add_argument("--no_plan", action="store_true", help="do not compile the step first")
    group.add_argument("--no_check", action="store_true", help="do not check the gin files either")
    group.add_argument(
        "--no_access",
        action="store_true",
        help="do not look for programs, files, the port and permissions on buckets first",
    )


def parser() -> argparse.ArgumentParser:
    """The arguments of `flan-jax launch`."""
    from flan_jax.config import add_gin_arguments

    top = argparse.ArgumentParser(
        prog="flan-jax launch",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_job_arguments(top)
    _add_place_arguments(top)
    _add_policy_arguments(top)
    add_gin_arguments(top)
    return top


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The launcher's own arguments, and the job's, after the first `--`."""
    arguments = list(argv)
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    from flan_jax.launch import execute, render
    from flan_jax.launch.checks import check

    own, passed_on = split_arguments(argv)
    args, spec = read_job(own, passed_on)
    rendered = render(spec, args.backend)
    notes = check(
        spec,
        rendered,
        configuration=not args.no_check,
        plan=not args.no_plan and (args.run or args.check_plan),
        access=args.run and not args.no_access,
    )
    for note in notes:
        print(f"# {note}")
    if not args.run:
        show(rendered)
        return 0
    return execute(rendered, spec.retry, keep=args.keep)


def read_job(own: Sequence[str], passed_on: Sequence[str]) -> tuple[argparse.Namespace, JobSpec]:
    """The arguments, and the job they describe."""
    from flan_jax.config import gin_flags, rewrite_gin_arguments
    from flan_jax.launch import JobSpec, RetryPolicy, Software, parse_accelerator
    from flan_jax.launch.attachments import attach
    from flan_jax.launch.backend_flags import check_flags

    args = parser().parse_args(rewrite_gin_arguments(own))
    check_flags(args.backend, _given(args))
    overrides = tuple(map(_override, args.gin_bindings))
    spec = JobSpec(
        name=args.name or f"{args.job}-job",
        command=args.job,
        gin_files=tuple(args.gin_file),
        overrides=overrides,
        search_paths=gin_flags(args).search_paths if args.gin_search_paths else (),
        modules=tuple(args.module),
        arguments=tuple(passed_on),
        accelerator=parse_accelerator(args.topology),
        processes=args.processes,
        port=args.port,
        software=Software(args.image, args.package),
        place=_place(args),
        retry=RetryPolicy(args.restarts, args.attempts, args.retry_wait),
        spot=args.spot,
        buckets=_buckets(args.bucket, (*overrides, *passed_on)),
        environment=_environment(args),
        folder=os.path.normpath(args.folder),
        use_xpk=args.xpk,
    )
    if args.backend not in ("local", "slurm"):  # these read the files where they are
        spec = attach(spec)
    return args, spec


def _given(args: argparse.Namespace) -> dict[str, object]:
    """Flags with another value than their default."""
    defaults = vars(parser().parse_args([args.backend, args.job]))
    return {name: value for name, value in vars(args).items() if value != defaults[name]}


def _place(args: argparse.Namespace) -> Place:
    import dataclasses

    from flan_jax.launch import Place

    return Place(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Place)})


def _environment(args: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """The job's variables; of this machine's own, which GPUs there are to choose from."""
    found = dict(map(_variable, args.env))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if args.backend == "local" and visible is not None:
        found.setdefault("CUDA_VISIBLE_DEVICES", visible)
    return tuple(found.items())


def _override(statement: str) -> str:
    """`NAME=VALUE` of a gin statement `NAME = VALUE`."""
    from flan_jax.config.flags import quote_if_bare

    name, equals, value = statement.partition("=")
    if not equals:
        raise UserError(
            f"--gin_bindings={statement}: a job is given values only, as NAME=VALUE; put anything"
            " else into a gin file"
        )
    value = value.strip()
    # What was quoted for gin is written as it was typed, where the job would quote it alike.
    if re.fullmatch(r"'[\w./:-]*'", value) and quote_if_bare(value[1:-1]) == value:
        value = value[1:-1]
    return f"{name.strip()}={value}"


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--env={text}: expected NAME=VALUE")
    return name, value


def _buckets(given: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    found = (match for text in texts for match in _BUCKET.findall(text))
    return tuple(dict.fromkeys((*given, *found)))


def show(rendered: Rendered) -> None:
    """Prints what would be done."""
    from flan_jax.launch.rendered import wrapped

    for path, text in rendered.files.items():
        print(f"# {Path(path).as_posix()}")
        print(text)
    if rendered.processes is not None:
        pairs = zip(rendered.processes.argv, rendered.processes.environments, strict=True)
        for index, (argv, environment) in enumerate(pairs):
            print(f"# process {index}")
            settings = tuple(f"{name}={value}" for name, value in environment.items())
            # The interpreter's path is this machine's concern.
            words = (word.replace("{port}", "PORT") for word in argv[3:])
            print(wrapped((*settings, "flan-jax", *words)))
    steps = (
        ("prepare", rendered.prepare),
        ("create", rendered.create),
        *(("then", argv) for argv in rendered.start),
        ("status", rendered.status),
        ("logs", rendered.logs),
        ("delete", rendered.delete),
    )
    for what, argv in steps:
        if argv:
            print(f"# {what}")
            print(wrapped(argv))
    for note in rendered.notes:
        print(f"# note: {note}")
    print("# nothing was done: --run does it")
