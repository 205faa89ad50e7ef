"""Slurm: one batch job, a task a GPU, queued again when it was preempted or lost a node.

Options are those of sbatch, srun, scontrol, squeue and scancel (slurm.schedmd.com). JAX finds the
other tasks by Slurm's variables, and gives each task the GPU of its number on the node.
"""

from __future__ import annotations

from flan_jax.launch.job_command import job_command
from flan_jax.launch.rendered import Argv, Rendered, wrapped
from flan_jax.launch.spec import EXIT_AGAIN, EXIT_SIGNALLED, JobSpec, LaunchError
from flan_jax.launch.templating import exports, fill

_GRACE = 300  # seconds before the end of its time that the job is told, to save a checkpoint


def render(spec: JobSpec) -> Rendered:
    """The batch script and `sbatch`.

    Raises:
      LaunchError: for TPUs, or a container image (sites differ in what runs containers).
    """
    if spec.tpu is not None:
        raise LaunchError(f"slurm has no TPUs, found {spec.tpu.name}: take tpu_vm or gke")
    if spec.software.image:
        raise LaunchError(
            "slurm runs what is installed on the nodes, not an image (sites differ in what runs"
            " containers): leave --image out, and start in the environment that has flan_jax"
        )
    script = f"{spec.files_folder}/job.sbatch"
    return Rendered(
        backend="slurm",
        name=spec.name,
        folder=spec.files_folder,
        files={script: _script(spec)},
        create=("sbatch", script),
        status=("squeue", "--me", f"--name={spec.name}"),
        logs=("tail", "-n", "100", "-F", f"{spec.files_folder}/log"),
        delete=("scancel", "--me", f"--name={spec.name}"),
        notes=(
            "the nodes must see this folder, and have flan-jax on the PATH of the shell that calls"
            " sbatch",
            f"lost nodes, preemption and the end of its time queue the job again, at most"
            f" {spec.retry.restarts} times",
        ),
    )


def _script(spec: JobSpec) -> str:
    stopped = (f"--status_when_stopped={EXIT_AGAIN}",) if spec.command == "train" else ()
    environment = spec.environment
    if spec.gpus is not None and "JAX_PLATFORMS" not in dict(environment):
        environment = (("JAX_PLATFORMS", "cuda,cpu"), *environment)
    return fill(
        "slurm_job.sbatch",
        name=spec.name,
        directives=_directives(spec),
        exports=exports(environment),
        command=wrapped(job_command(spec, *stopped), 90),
        restarts=spec.retry.restarts,
        again="|".join(map(str, (EXIT_AGAIN, *EXIT_SIGNALLED))),
    )


def _directives(spec: JobSpec) -> Argv:
    place = spec.place
    optional = (
        ("partition", place.partition),
        ("account", place.account),
        ("time", place.time_limit),
    )
    nodes, tasks = 1, 1
    if spec.gpus is not None:
        tasks = min(spec.gpus.devices, spec.gpus.gpu.per_machine)
        nodes = spec.gpus.devices // tasks
    if spec.command == "data-build":
        nodes, tasks = 1, 1
    gpus = (f"--gpus-per-node={tasks}",) if spec.gpus is not None else ()
    return (
        f"--job-name={spec.name}",
        f"--output={spec.files_folder}/log",
        "--open-mode=append",
        f"--nodes={nodes}",
        f"--ntasks-per-node={tasks}",
        *gpus,
        *(f"--{name}={value}" for name, value in optional if value),
        "--requeue",
        f"--signal=B:TERM@{_GRACE}",
    )
