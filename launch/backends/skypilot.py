"""SkyPilot: a managed job (`sky jobs`), which finds machines again when they were taken away.

Fields and variables are those of SkyPilot's documentation (docs.skypilot.co, "SkyPilot YAML" and
"Managed Jobs").
"""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from flan_jax.launch.backends.tpu_vm import RUNTIMES, accelerator_type
from flan_jax.launch.job_command import is_many_processes, job_command
from flan_jax.launch.rendered import Argv, Rendered, wrap_words
from flan_jax.launch.spec import EXIT_AGAIN, EXIT_SIGNALLED, JobSpec, LaunchError
from flan_jax.launch.templating import fill

GPUS = {
    "a100-40gb": "A100",
    "a100": "A100-80GB",
    "h100": "H100",
    "h200": "H200",
    "b200": "B200",
}
_CONFIG = "~/flan_jax_config"
_SEARCH = '--gin_search_paths="$HOME"/flan_jax_config'  # a tilde there would not be expanded
_PORT = 29500
# Names are not unique: a job of this name that has not ended.
_EXISTS = """\
set -e
jobs=$(sky jobs queue --skip-finished --all --output=json)
grep --fixed-strings '"job_name": "{name}"' <<<"$jobs" || true"""


class _Block(str):
    """Text that YAML writes as it is, line by line."""


class _Value(str):
    """Text in which every character counts."""


def _represent(dumper: yaml.SafeDumper, text: _Block | _Value) -> yaml.ScalarNode:
    # YAML has more line breaks than others, and reads them as the usual one unless they are quoted.
    style = "|" if isinstance(text, _Block) else None
    style = '"' if set(text) & set("\x85\u2028\u2029") else style
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style=style)


yaml.SafeDumper.add_representer(_Block, _represent)
yaml.SafeDumper.add_representer(_Value, _represent)


def render(spec: JobSpec) -> Rendered:
    """The task's YAML and `sky jobs launch`.

    Raises:
      LaunchError: no program, several TPU slices, or hardware that SkyPilot does not name.
    """
    if not (spec.software.image or spec.software.package):
        raise LaunchError(
            "skypilot needs --image (of launch/Dockerfile) or --package (what pip installs there)"
        )
    path = f"{spec.files_folder}/task.yaml"
    folder = f"{spec.files_folder}/config"
    files = {f"{folder}/{name}": text for name, text in spec.attachments}
    text = yaml.safe_dump(_task(spec, folder), sort_keys=False, width=10_000, allow_unicode=True)
    return Rendered(
        backend="skypilot",
        name=spec.name,
        folder=spec.files_folder,
        files={path: text, **files},
        create=("sky", "jobs", "launch", f"--name={spec.name}", "--yes", "--detach-run", path),
        exists=("bash", "-c", _EXISTS.format(name=spec.name)),
        status=("sky", "jobs", "queue"),
        logs=("sky", "jobs", "logs", f"--name={spec.name}"),
        delete=("sky", "jobs", "cancel", f"--name={spec.name}", "--yes"),
        notes=(
            "machines that are taken away are replaced, without limit; a job that lost a process is"
            f" started again, at most {spec.retry.restarts} times",
            f"sky jobs cancel ends all your jobs named {spec.name}: give each a --name of its own",
        ),
    )


def _task(spec: JobSpec, folder: str) -> dict[str, Any]:
    task: dict[str, Any] = {"name": spec.name}
    nodes = _nodes(spec)
    if nodes > 1:
        task["num_nodes"] = nodes
    task["resources"] = _resources(spec)
    if spec.environment:
        task["envs"] = {name: _Value(value) for name, value in spec.environment}
    if spec.attachments:
        task["file_mounts"] = {_CONFIG: folder}
    if spec.software.package:
        task["setup"] = _Block(fill("skypilot_setup.sh", requirement=shlex.quote(_package(spec))))
    task["run"] = _Block(_run(spec, nodes))
    return task


def _nodes(spec: JobSpec) -> int:
    if spec.gpus is None:
        return 1
    return -(-spec.gpus.devices // spec.gpus.gpu.per_machine)


def _resources(spec: JobSpec) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    if spec.tpu is not None:
        resources["infra"] = f"gcp/*/{spec.place.zone}" if spec.place.zone else "gcp"
        resources["accelerators"] = f"tpu-{_tpu_type(spec)}:1"
        # SkyPilot's own guess is not the one of every generation.
        runtime = spec.place.runtime_version or RUNTIMES[spec.tpu.chip.name]
        resources["accelerator_args"] = {"runtime_version": runtime}
    elif spec.gpus is not None:
        count = min(spec.gpus.devices, spec.gpus.gpu.per_machine)
        resources["accelerators"] = f"{GPUS[spec.gpus.gpu.name]}:{count}"
    else:
        resources["cpus"] = "8+"
    resources["use_spot"] = spec.spot
    if spec.software.image:
        resources["image_id"] = f"docker:{spec.software.image}"
    resources["job_recovery"] = {
        "strategy": "FAILOVER",
        "max_restarts_on_errors": 0,
    }
    return resources


def _tpu_type(spec: JobSpec) -> str:
    topology = spec.tpu
    assert topology is not None
    if topology.chip.name not in RUNTIMES or topology.slices > 1:
        raise LaunchError(
            f"{topology.name}: SkyPilot takes one slice of {', '.join(RUNTIMES)}; several slices,"
            " and newer TPUs, have the backends tpu_vm and gke"
        )
    return accelerator_type(topology)


def _package(spec: JobSpec) -> str:
    package = spec.software.package
    if package.endswith(".whl") and "://" not in package:
        raise LaunchError(
            f"--package={package}: SkyPilot's machines do not have this file; give a URL, a version"
            " (flan_jax==…), or an --image"
        )
    extra = "tpu" if spec.tpu is not None else "cuda" if spec.gpus is not None else ""
    if not extra or any(mark in package for mark in "[@/"):
        return package
    name, equals, version = package.partition("==")
    return f"{name}[{extra}]{equals}{version}"


def _run(spec: JobSpec, nodes: int) -> str:
    flags: Argv = (f"--status_when_stopped={EXIT_AGAIN}",) if spec.command == "train" else ()
    if spec.tpu is not None and is_many_processes(spec.tpu):
        flags = (*flags, "--multiprocess")
    words = [shlex.quote(word) for word in job_command(spec, *flags, attached=_CONFIG)]
    words = [word.replace(f"'--gin_search_paths={_CONFIG}'", _SEARCH) for word in words]
    if nodes > 1:
        words += [
            f'--coordinator_address="$(echo "$SKYPILOT_NODE_IPS" | head -n 1)":{_PORT}',
            '--process_count="$SKYPILOT_NUM_NODES"',
            '--process_index="$SKYPILOT_NODE_RANK"',
        ]
    return fill(
        "skypilot_run.sh",
        command=wrap_words(words, 90, indent=2),
        own_environment=bool(spec.software.package),
        restarts=spec.retry.restarts,
        again="|".join(map(str, (EXIT_AGAIN, *EXIT_SIGNALLED))),
    )
