"""What is looked at before anything is rented: gin files, memory, buckets, programs, the port."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import shutil
import sys
from typing import Any

from flan_jax.launch.rendered import Argv, Rendered
from flan_jax.launch.run import Runner
from flan_jax.launch.spec import JobSpec, LaunchError
from flan_jax.launch.supervise import check_port

_FLAN_JAX = (sys.executable, "-m", "flan_jax")
# JAX in these processes must not take this machine's accelerators.
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
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
      access: whether to look for programs, buckets and the port.

    Returns:
      What was not checked, and why.

    Raises:
      LaunchError: with what to change.
    """
    notes = []
    if access:
        check_programs(rendered)
        if rendered.processes is not None:
            check_port(rendered.processes.port)
        check_buckets(spec)
    if configuration:
        check_configuration(spec)
    else:
        notes.append("the gin files were not checked (--no_check)")
    if spec.tpu is not None:
        skipped = None
        if not plan:
            skipped = "--run and --check_plan compile it, unless there is --no_plan"
        elif importlib.util.find_spec("libtpu") is None:
            skipped = "libtpu is not installed: pip install 'flan_jax[plan]'"
        if skipped is None:
            notes.append(check_plan(spec))
        else:
            notes.append(f"whether the step fits {spec.tpu.name} was not checked: {skipped}")
    return notes


def check_programs(rendered: Rendered) -> None:
    """Whether the engine's programs are there."""
    missing = [name for name in rendered.programs if shutil.which(name) is None]
    if missing:
        raise LaunchError(
            f"{', '.join(missing)} not found on the PATH: install it, or leave --run out and do by"
            " hand what is printed"
        )


def gin_flags(spec: JobSpec) -> Argv:
    """The job's gin flags, for another command of ours."""
    return (
        *(f"--gin_search_paths={path}" for path in spec.search_paths),
        *(f"--gin_file={name}" for name in spec.gin_files),
        *(f"--gin.{override}" for override in spec.overrides),
        *(f"--module={module}" for module in spec.modules),
    )


def check_configuration(spec: JobSpec) -> None:
    """Loads the configuration as the job will; of data-build, parses the arguments.

    Raises:
      LaunchError: with the mistakes.
    """
    if spec.command == "data-build":
        _check_data_build(spec.arguments)
        return
    argv = (*_FLAN_JAX, spec.command, "--print_config", *gin_flags(spec), *spec.arguments)
    output = Runner(environment=_ENVIRONMENT).once(argv)
    if output.status != 0:
        raise LaunchError(f"the job's configuration is wrong:\n{_message(output.err)}")


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


def check_plan(spec: JobSpec) -> str:
    """Compiles the job's step for its TPUs by `flan-jax plan`; says how much memory it takes.

    Raises:
      LaunchError: it does not fit, or cannot be compiled.
    """
    assert spec.tpu is not None
    topology = spec.tpu.name
    argv = (*_FLAN_JAX, "plan", *gin_flags(spec), f"--topology={topology}", "--format=json")
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


def check_buckets(spec: JobSpec) -> None:
    """Whether this account can list each bucket (the machines' may be another).

    Raises:
      LaunchError: it cannot.
    """
    for bucket in spec.buckets:
        root = "/".join(bucket.split("/")[:3])
        output = Runner(spec.retry).once(
            ("gcloud", "storage", "ls", root, "--buckets"), spec.retry.timeout
        )
        if output.status != 0:
            raise LaunchError(
                f"{root} cannot be read: {_message(output.err)}\nHave it created, or be granted"
                " roles/storage.objectUser on it (gcloud storage buckets add-iam-policy-binding),"
                " you and the service account of the job's machines"
            )


def _message(text: str) -> str:
    """The program's error without the notes of libraries before it."""
    lines = text.strip().splitlines()
    at = next((i for i, line in enumerate(lines) if "error:" in line.lower()), -15)
    return "\n".join(lines[at:]).removeprefix("flan-jax: error: ")
