"""What is looked at before anything is rented: gin files, memory, buckets, programs, the port."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from flan_jax.launch.bucket_access import BucketUse, check_buckets
from flan_jax.launch.job_values import (
    Values,
    check_outputs,
    check_processes,
    decode_flags,
    outputs,
    override_values,
    read_values,
    texts,
)
from flan_jax.launch.rendered import Argv, Rendered
from flan_jax.launch.run import Runner
from flan_jax.launch.spec import JobSpec, LaunchError
from flan_jax.launch.supervise import check_port
from flan_jax.plan.topologies import Topology

_FLAN_JAX = (sys.executable, "-m", "flan_jax")
# JAX in these processes must not take this machine's accelerators.
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
# Their machines are new ones, or new containers, whenever the job starts again.
_FRESH = ("tpu_vm", "gke", "skypilot")
_BUCKET = re.compile(r"gs://([a-z0-9][a-z0-9._-]+)")
_WRITING_FLAGS = ("--out", "--exchange", "--temp_location", "--staging_location")
_DOES_NOT_FIT = 3  # exit status of flan-jax plan


def check(
    spec: JobSpec,
    rendered: Rendered,
    *,
    configuration: bool = True,
    plan: bool = True,
    access: bool = True,
) -> list[str]:
    """Looks at the job from all sides.

    Args:
      spec: the job.
      rendered: what a backend makes of it.
      configuration: whether to load the gin files, by the job's own command.
      plan: whether to compile the step for the TPUs it is to run on.
      access: whether to look for programs, files, buckets and the port.

    Returns:
      What was not checked, and why.

    Raises:
      LaunchError: with what to change.
    """
    if access:
        check_programs(rendered)
        check_package(spec)
        if rendered.processes is not None:
            check_port(rendered.processes.port)
    notes, values = [], override_values(spec)
    if configuration:
        values = check_configuration(spec) or values
    else:
        notes.append("the gin files were not checked (--no_check)")
    if rendered.backend in _FRESH:
        check_outputs(values)
    if rendered.processes is not None and len(rendered.processes.argv) > 1:
        check_processes(values, len(rendered.processes.argv))
    if access:
        notes += check_buckets(spec, bucket_uses(spec, values))
    if spec.tpu is not None and spec.command != "data-build":
        notes.append(_plan_note(spec, spec.tpu, values, plan))
    return notes


def _plan_note(spec: JobSpec, topology: Topology, values: Values, plan: bool) -> str:
    flags: Argv = ()
    if not plan:
        skipped = "--run and --check_plan compile it, unless there is --no_plan"
    elif importlib.util.find_spec("libtpu") is None:
        skipped = "libtpu is not installed: pip install 'flan_jax[plan]'"
    elif spec.command == "eval" and not (flags := decode_flags(values, topology)):
        skipped = "the configuration does not say how long prompts and answers are"
    else:
        return check_plan(spec, *flags)
    return f"whether the step fits {topology.name} was not checked: {skipped}"


def check_programs(rendered: Rendered) -> None:
    """Whether the engine's programs are there."""
    missing = [name for name in rendered.programs if shutil.which(name) is None]
    if missing:
        raise LaunchError(
            f"{', '.join(missing)} not found on the PATH: install it, or leave --run out and do by"
            " hand what is printed"
        )


def check_package(spec: JobSpec) -> None:
    """Whether a package that is a file is there, and one that other machines can install."""
    package = spec.software.package
    path = Path(package).expanduser()
    is_wheel = package.endswith(".whl")
    if "://" in package or not (is_wheel or package.startswith(("./", "../", "/", "~"))):
        return
    if not is_wheel:
        raise LaunchError(
            f"--package={package}: the job's machines do not have this folder: build a wheel"
            " (python -m build --wheel) and give that"
        )
    if not path.is_file():
        beside = sorted(str(each) for each in path.parent.glob("*.whl"))
        there = f"; there is {', '.join(beside)}" if beside else ""
        raise LaunchError(
            f"--package={package}: no such file{there}: build it (python -m build --wheel), or give"
            " a version (flan_jax==…) or a URL"
        )


def gin_flags(spec: JobSpec) -> Argv:
    """The job's gin flags, for another command of ours."""
    return (
        *(f"--gin_search_paths={path}" for path in spec.search_paths),
        *(f"--gin_file={name}" for name in spec.gin_files),
        *(f"--gin.{override}" for override in spec.overrides),
        *(f"--module={module}" for module in spec.modules),
    )


def check_configuration(spec: JobSpec) -> Values:
    """Loads the configuration as the job will; of data-build, parses the arguments.

    Returns:
      Its values; {} of data-build, which has none.

    Raises:
      LaunchError: with the mistakes.
    """
    if spec.command == "data-build":
        _check_data_build(spec.arguments)
        return {}
    argv = (*_FLAN_JAX, spec.command, "--print_config", *gin_flags(spec), *spec.arguments)
    output = Runner(environment=_ENVIRONMENT).once(argv)
    if output.status != 0:
        raise LaunchError(f"the job's configuration is wrong:\n{_message(output.err)}")
    return read_values(output.out)


def _check_data_build(arguments: Argv) -> None:
    from flan_jax.cli import data, data_build

    own, _ = data_build.split_options(["build", *arguments])
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            data.parser().parse_args(own)
    except SystemExit:
        message = said.getvalue().strip().splitlines()[-1]
        raise LaunchError(f"after --, the arguments of data build: {message}") from None


def check_plan(spec: JobSpec, *flags: str) -> str:
    """Compiles the job's step for its TPUs by `flan-jax plan`; says how much memory it takes.

    Args:
      spec: the job.
      flags: further ones of `flan-jax plan`.

    Raises:
      LaunchError: it does not fit, or cannot be compiled.
    """
    assert spec.tpu is not None
    topology = spec.tpu.name
    argv = (*_FLAN_JAX, "plan", *gin_flags(spec), *flags, f"--topology={topology}", "--format=json")
    output = Runner(environment=_ENVIRONMENT).once(argv)
    if output.status not in (0, _DOES_NOT_FIT):
        raise LaunchError(f"the job cannot be planned for {topology}:\n{_message(output.err)}")
    report = _report(output.out)
    need, limit = report.get("hbm_gib_per_chip"), report.get("hbm_limit_gib")
    memory = f"{need:.1f} of {limit:.1f} GiB a device" if need and limit else "see flan-jax plan"
    if output.status == _DOES_NOT_FIT:
        reasons = [memory, *report.get("hints", [])]
        hints = "\n  ".join(reasons)
        raise LaunchError(
            f"the job's {report.get('step', 'step')} step does not fit {topology}: {hints}\nTake a"
            " larger --topology, split the model more (FSDP, TENSOR), lower BATCH_SIZE, or set"
            " NUM_MICROBATCHES; `flan-jax plan … --search` looks for what fits. --no_plan skips"
            " this check"
        )
    return f"the {report.get('step', 'step')} step fits {topology}: {memory}"


def _report(text: str) -> dict[str, Any]:
    found = json.loads(text)
    return found[0] if isinstance(found, list) else found


def bucket_uses(spec: JobSpec, values: Values) -> tuple[BucketUse, ...]:
    """The buckets of the job: of its flags, of its gin files, and which it writes to."""
    written = [*outputs(values).values(), *_written_by_arguments(spec.arguments)]
    named = [*spec.buckets, *written, *texts(values), *spec.arguments]
    write = set(_BUCKET.findall("\n".join(written)))
    found = dict.fromkeys(_BUCKET.findall("\n".join(named)))
    return tuple(BucketUse(bucket, bucket in write) for bucket in found)


def _written_by_arguments(arguments: Argv) -> list[str]:
    """Values of data-build's and Beam's flags for what they write."""
    found = []
    for word, following in itertools.pairwise((*arguments, "")):
        name, equals, value = word.partition("=")
        if name in _WRITING_FLAGS:
            found.append(value if equals else following)
    return found


def _message(text: str) -> str:
    """The program's error without the notes of libraries before it."""
    lines = text.strip().splitlines()
    at = next((i for i, line in enumerate(lines) if "error:" in line.lower()), -15)
    return "\n".join(lines[at:]).removeprefix("flan-jax: error: ")
