"""Slurm: one batch job, a task a GPU, queued again when it was preempted or lost a node.

Options are those of sbatch, srun, scontrol, squeue and scancel (slurm.schedmd.com). JAX finds the
other tasks by Slurm's variables, and gives each task the GPU of its number on the node.
"""

from __future__ import annotations

import itertools
import re
import shlex

from flan_jax.launch.job_command import job_command
from flan_jax.launch.rendered import Argv, Rendered, wrap_words
from flan_jax.launch.spec import EXIT_AGAIN, EXIT_SIGNALLED, JobSpec, LaunchError
from flan_jax.launch.templating import exports, fill

_GRACE = 300  # seconds before the end of its time that the tasks are told, to save a checkpoint
_PLAIN = re.compile(r"[\w./:@=,+-]*")
_WORKERS = re.compile(r"--(?:jobs|direct_num_workers)(?:=(\d+))?")


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
        exists=("squeue", "--me", f"--name={spec.name}", "--noheader", "--format=%i"),
        status=("squeue", "--me", f"--name={spec.name}"),
        logs=("tail", "-n", "100", "-F", f"{spec.files_folder}/log"),
        delete=("scancel", "--me", f"--name={spec.name}"),
        notes=_notes(spec),
    )


def _notes(spec: JobSpec) -> tuple[str, ...]:
    notes = [
        "the nodes must see this folder, and have flan-jax on the PATH of the shell that calls"
        " sbatch",
        "lost nodes, preemption and the end of its time queue the job again, at most"
        f" {spec.retry.restarts} times",
        f"another job of yours named {spec.name} is waited for, and ended by the same scancel: give"
        " each a --name of its own",
    ]
    if spec.gpus is not None and not spec.place.cpus_per_task:
        notes.append(
            "most sites give a task one CPU, which cannot keep a GPU busy: --cpus_per_task"
        )
    return tuple(notes)


def _script(spec: JobSpec) -> str:
    stopped = (f"--status_when_stopped={EXIT_AGAIN}",) if spec.command == "train" else ()
    environment = spec.environment
    if spec.gpus is not None and "JAX_PLATFORMS" not in dict(environment):
        environment = (("JAX_PLATFORMS", "cuda,cpu"), *environment)
    nodes, tasks = _size(spec)
    cpus = _cpus_per_task(spec)
    # srun does not take the number of CPUs over from sbatch.
    words = ["srun", "--kill-on-bad-exit=1", *([f"--cpus-per-task={cpus}"] if cpus else [])]
    if nodes * tasks > 1:
        words += ["bash", "-c", '"$task"', "task"]
    words += map(shlex.quote, job_command(spec, *stopped))
    return fill(
        "slurm_job.sbatch",
        name=spec.name,
        directives=_directives(spec),
        exports=exports(environment),
        command=wrap_words([*words, "||", "code=$?"], 90),
        tasks=nodes * tasks,
        restarts=spec.retry.restarts,
        again="|".join(map(str, (EXIT_AGAIN, *EXIT_SIGNALLED))),
    )


def _size(spec: JobSpec) -> tuple[int, int]:
    """Nodes, and tasks of each."""
    if spec.gpus is None or spec.command == "data-build":
        return 1, 1
    tasks = min(spec.gpus.devices, spec.gpus.gpu.per_machine)
    return spec.gpus.devices // tasks, tasks


def _cpus_per_task(spec: JobSpec) -> int:
    """As given; for data-build as many as it has processes; 0 for the site's default."""
    if spec.place.cpus_per_task or spec.command != "data-build":
        return spec.place.cpus_per_task
    counts = []
    for word, following in itertools.pairwise((*spec.arguments, "")):
        found = _WORKERS.fullmatch(word)
        count = (found[1] or following) if found else ""
        if count.isdigit():
            counts.append(int(count))
    return max(counts, default=0)


def _directives(spec: JobSpec) -> Argv:
    place = spec.place
    nodes, tasks = _size(spec)
    cpus = _cpus_per_task(spec)
    optional = (
        ("gpus-per-node", str(tasks) if spec.gpus is not None else ""),
        ("cpus-per-task", str(cpus) if cpus else ""),
        ("mem", place.memory),
        ("partition", place.partition),
        ("account", place.account),
        ("time", place.time_limit),
    )
    # In names of files % has a meaning.
    log = f"{spec.files_folder}/log".replace("%", "%%")
    return (
        f"--job-name={spec.name}",
        f"--output={_quoted(log)}",
        "--open-mode=append",
        f"--nodes={nodes}",
        f"--ntasks-per-node={tasks}",
        *(f"--{name}={_quoted(value)}" for name, value in optional if value),
        "--requeue",
        # A create that was tried again after no answer would else run twice at once.
        "--dependency=singleton",
        # Without B: Slurm signals the tasks. srun would end them, were it told by the script.
        f"--signal=TERM@{_GRACE}",
    )


def _quoted(value: str) -> str:
    """A value as sbatch reads it in a script."""
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
