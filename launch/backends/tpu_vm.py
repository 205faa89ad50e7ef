"""TPU VMs of Google Cloud: a queued resource, its workers over ssh, several slices too.

Flags are those of Google Cloud SDK 528 (`gcloud compute tpus queued-resources …`); the names of the
software are of cloud.google.com/tpu/docs/runtimes.
"""

from __future__ import annotations

import shlex

from flan_jax.launch.job_command import hosts_per_slice, is_many_processes, job_command
from flan_jax.launch.rendered import BY_HAND, Argv, Poll, Rendered, wrapped
from flan_jax.launch.spec import EXIT_AGAIN, EXIT_SIGNALLED, JobSpec, LaunchError
from flan_jax.launch.templating import exports, fill
from flan_jax.plan.topologies import Topology, default_shape

RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
_QUEUED = ("gcloud", "compute", "tpus", "queued-resources")
_LABEL = "flan_jax_launch"
# A machine that is gone without a word ends its connection within two minutes.
_ALIVE = ("--ssh-flag=-oServerAliveInterval=30", "--ssh-flag=-oServerAliveCountMax=4")
_EVERY = ("--node=all", "--worker=all", "--batch-size=all")
_AGAIN = "|".join(map(str, (EXIT_AGAIN, *EXIT_SIGNALLED)))


def render(spec: JobSpec) -> Rendered:
    """The queued resource, what is copied to its workers, and what they run.

    Raises:
      LaunchError: no TPU, one that TPU VMs do not have, or no zone or program.
    """
    topology = _topology(spec)
    if not spec.place.zone:
        raise LaunchError("tpu_vm needs --zone, such as us-central2-b")
    if not (spec.software.image or spec.software.package):
        raise LaunchError(
            "tpu_vm needs --image (of launch/Dockerfile) or --package (what pip installs there,"
            " such as a wheel of this checkout: dist/flan_jax-….whl)"
        )
    where = _where(spec)
    describe = (*_QUEUED, "describe", spec.name, *where)
    ssh = (*_QUEUED, "ssh", spec.name, *_EVERY, *where, *_ALIVE)
    return Rendered(
        backend="tpu_vm",
        name=spec.name,
        folder=spec.files_folder,
        files=_files(spec, topology),
        create=_create(spec, topology),
        owner=(*describe, f"--format=value(tpu.nodeSpec[0].node.labels.{_LABEL})"),
        poll=Poll(
            argv=(*describe, "--format=value(state.state)"),
            ready="ACTIVE",
            lost=("SUSPENDING", "SUSPENDED"),
            failed=("FAILED",),
            why=(*describe, "--format=value(state.failedData.error.message)"),
        ),
        start=(*_copies(spec, where), (*ssh, f"--command=bash {spec.name}/start.sh")),
        arrived=(*ssh, f"--command={_arrived(spec)}"),
        result=(*ssh, f"--command=cat {spec.name}/status 2>/dev/null || echo running"),
        machines=topology.slices * hosts_per_slice(topology),
        status=describe,
        logs=(
            *(*_QUEUED, "ssh", spec.name, "--node=0", "--worker=0", *where, *_ALIVE),
            f"--command=tail -n 100 -F {spec.name}/log",
        ),
        delete=(*_QUEUED, "delete", spec.name, "--force", "--quiet", *where),
        notes=_notes(spec),
    )


def _copies(spec: JobSpec, where: Argv) -> tuple[Argv, ...]:
    def copy(source: str, target: str) -> Argv:
        return (*_QUEUED, "scp", source, f"{spec.name}:{target}", "--recurse", *_EVERY, *where)

    folder = copy(spec.files_folder, "")
    package = spec.software.package
    return (folder, copy(package, f"{spec.name}/")) if _is_wheel(package) else (folder,)


def _arrived(spec: JobSpec) -> str:
    """A line of shell that says whether all that was copied is there; it ends with 0."""
    package = spec.software.package
    names = ["job.sh", *([package.rpartition("/")[2]] if _is_wheel(package) else [])]
    tests = " && ".join(f"test -f {shlex.quote(f'{spec.name}/{name}')}" for name in names)
    return f"{tests} && echo ok || echo missing"


def _topology(spec: JobSpec) -> Topology:
    if spec.tpu is None:
        raise LaunchError(
            f"tpu_vm needs a TPU slice, found {spec.accelerator.name!r}: --topology=v5e-64"
        )
    if spec.tpu.chip.name not in RUNTIMES:
        raise LaunchError(f"there are no TPU VMs of {spec.tpu.chip.name}: take the backend gke")
    if spec.command == "data-build":
        raise LaunchError("data-build needs no TPUs: take local, slurm, or --runner beam after --")
    return spec.tpu


def _where(spec: JobSpec) -> Argv:
    project = (f"--project={spec.place.project}",) if spec.place.project else ()
    return (f"--zone={spec.place.zone}", *project)


def _create(spec: JobSpec, topology: Topology) -> Argv:
    place = spec.place
    nodes = (
        (f"--node-count={topology.slices}", f"--node-prefix={spec.name}")
        if topology.slices > 1
        else (f"--node-id={spec.name}",)
    )
    runtime = place.runtime_version or RUNTIMES[topology.chip.name]
    options = (
        ("--spot", spec.spot),
        ("--reserved", place.reserved),
        (f"--network={place.network}", bool(place.network)),
        (f"--service-account={place.service_account}", bool(place.service_account)),
    )
    return (
        *(*_QUEUED, "create", spec.name, *_where(spec), *accelerator_flags(topology)),
        f"--runtime-version={runtime}",
        *nodes,
        *(flag for flag, given in options if given),
        f"--labels={_LABEL}={BY_HAND}",
        "--quiet",
    )


def accelerator_type(topology: Topology) -> str:
    """Cloud TPU's name of one slice: `v5litepod-64`, `v4-512` (which counts cores).

    Raises:
      LaunchError: the shape is not what that name stands for.
    """
    chip = topology.chip
    count = topology.chips_per_slice * (2 if chip.cores_in_name else 1)
    name = f"{'v5litepod' if chip.name == 'v5e' else chip.name}-{count}"
    if default_shape(chip, count) != topology.shape:
        shape = "x".join(map(str, topology.shape))
        raise LaunchError(
            f"{topology.name}: {name} is a slice of another shape than {shape}, and Cloud TPU takes"
            " shapes for v4 only: give the accelerator type, or the backend gke"
        )
    return name


def accelerator_flags(topology: Topology) -> Argv:
    """By type, or for v4 by shape where the type stands for another one."""
    if topology.chip.name == "v4":
        count = 2 * topology.chips_per_slice
        if default_shape(topology.chip, count) != topology.shape:
            return ("--type=v4", f"--topology={'x'.join(map(str, topology.shape))}")
    return (f"--accelerator-type={accelerator_type(topology)}",)


def _files(spec: JobSpec, topology: Topology) -> dict[str, str]:
    stopped = (f"--status_when_stopped={EXIT_AGAIN}",) if spec.command == "train" else ()
    many = ("--multiprocess",) if is_many_processes(topology) else ()
    attached = "/config" if spec.software.image else "config"
    command = job_command(spec, *stopped, *many, attached=attached)
    job = fill(
        "tpu_vm_job.sh",
        name=spec.name,
        exports=exports(spec.environment),
        image=shlex.quote(spec.software.image) if spec.software.image else "",
        registry=shlex.quote(_registry(spec.software.image)),
        passed=[name for name, _ in spec.environment],
        requirement=shlex.quote(_requirement(spec.software.package)),
        command=wrapped(command, 90, indent=4),
        restarts=spec.retry.restarts,
        again=_AGAIN,
    )
    start = fill("tpu_vm_start.sh", name=spec.name)
    config = {f"{spec.files_folder}/config/{path}": text for path, text in spec.attachments}
    files = {"start.sh": start, "job.sh": job}
    return {f"{spec.files_folder}/{name}": text for name, text in files.items()} | config


def _registry(image: str) -> str:
    """The image's host, if it is one of Google's, which ask docker to log in; else ""."""
    host = image.partition("/")[0]
    return host if host.endswith((".pkg.dev", ".gcr.io")) or host == "gcr.io" else ""


def _is_wheel(package: str) -> bool:
    return package.endswith(".whl") and "://" not in package


def _requirement(package: str) -> str:
    """What pip is told; a wheel of this machine is copied beside the scripts."""
    if _is_wheel(package):
        return f"./{package.rpartition('/')[2]}[tpu]"
    if "[" in package or "@" in package or "/" in package or not package:
        return package
    name, _, version = package.partition("==")
    return f"{name}[tpu]" + (f"=={version}" if version else "")


def _notes(spec: JobSpec) -> tuple[str, ...]:
    notes = [
        "before ssh to all workers, gcloud needs your key in the agent: ssh-add"
        " ~/.ssh/google_compute_engine"
    ]
    if spec.spot:
        notes.append(
            "spot: when the machines are taken away, this launcher, which must go on running,"
            " deletes the queued resource, asks for another of its name, and starts the job again"
        )
    return tuple(notes)
