"""Processes on this machine: of its CPUs (gloo between them), or one for each of its GPUs."""

from __future__ import annotations

import sys

from flan_jax.launch.job_command import job_command
from flan_jax.launch.rendered import Processes, Rendered
from flan_jax.launch.spec import EXIT_AGAIN, JobSpec, LaunchError


def render(spec: JobSpec) -> Rendered:
    """The processes; `flan_jax.launch.supervise` starts and watches them.

    Raises:
      LaunchError: for TPUs, or a number of processes that does not fit.
    """
    if spec.tpu is not None:
        raise LaunchError(
            f"local runs on this machine's CPUs or GPUs, not on {spec.tpu.name}: leave out"
            " --topology, or take the backend tpu_vm or gke. On a TPU VM itself, `flan-jax"
            f" {spec.command}` needs no launcher"
        )
    count = _count(spec)
    devices = _visible(spec)
    environments = []
    for index in range(count):
        own = dict(spec.environment)
        if spec.gpus is not None:
            own.setdefault("JAX_PLATFORMS", "cuda,cpu")
            if count > 1:
                own["CUDA_VISIBLE_DEVICES"] = devices[index]
            elif "CUDA_VISIBLE_DEVICES" in own:
                own["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        elif count > 1:
            own.setdefault("JAX_PLATFORMS", "cpu")
        environments.append(own)
    stopped = (f"--status_when_stopped={EXIT_AGAIN}",) if spec.command == "train" else ()
    argvs = []
    for index in range(count):
        joined = (
            "--coordinator_address=localhost:{port}",
            f"--process_count={count}",
            f"--process_index={index}",
        )
        flags = (*stopped, *(joined if count > 1 else ()))
        program = (sys.executable, "-m", "flan_jax")
        argvs.append(job_command(spec, *flags, program=program))
    return Rendered(
        backend="local",
        name=spec.name,
        folder=spec.files_folder,
        processes=Processes(tuple(argvs), tuple(environments), spec.port),
        notes=(f"logs of processes 1 to {count - 1}: {spec.files_folder}/process_N.log",)
        if count > 1
        else (),
    )


def _visible(spec: JobSpec) -> list[str]:
    """The GPUs to use: the first of CUDA_VISIBLE_DEVICES, where the job's environment has it."""
    if spec.gpus is None:
        return []
    needed = spec.gpus.devices
    given = dict(spec.environment).get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(index) for index in range(needed)]
    named = [name.strip() for name in given.split(",") if name.strip()]
    if len(named) < needed:
        raise LaunchError(
            f"CUDA_VISIBLE_DEVICES={given} names {len(named)} GPUs, and --topology={spec.gpus.name}"
            f" needs {needed}: name more, or take a smaller --topology"
        )
    return named[:needed]


def _count(spec: JobSpec) -> int:
    devices = spec.gpus.devices if spec.gpus is not None else None
    count = spec.processes or devices or 1
    if spec.command == "data-build" and count > 1:
        raise LaunchError(
            f"--processes={count}: data-build is one process here; give its own --jobs after --"
        )
    if devices is not None and count not in (1, devices):
        raise LaunchError(
            f"--processes={count} with {devices} GPUs: expected one process a GPU ({devices}), or 1"
            " for all"
        )
    return count
