"""The `flan-jax` command that a job runs, in every process of it."""

from __future__ import annotations

from flan_jax.launch.rendered import Argv
from flan_jax.launch.spec import JobSpec
from flan_jax.plan.topologies import Topology


def job_command(
    spec: JobSpec, *flags: str, attached: str = "", program: Argv = ("flan-jax",)
) -> Argv:
    """The command.

    Args:
      spec: the job.
      flags: of the backend (`--multiprocess`).
      attached: folder in which the machines find the attachments; "" if they have them anyway.
      program: how the command line is started.
    """
    if spec.command == "data-build":
        modules = (f"--module={module}" for module in spec.modules)
        before, after = _around_dashes(spec.arguments)
        return (*program, "data", "build", *before, *modules, *after)
    paths = (*((attached,) if attached and spec.attachments else ()), *spec.search_paths)
    return (
        *program,
        spec.command,
        *(f"--gin_search_paths={path}" for path in paths),
        *(f"--gin_file={name}" for name in spec.gin_files),
        *(f"--gin.{override}" for override in spec.overrides),
        *(f"--module={module}" for module in spec.modules),
        *flags,
        *spec.arguments,
    )


def _around_dashes(arguments: Argv) -> tuple[Argv, Argv]:
    """The arguments before `--`, and what is Beam's: `--` and all after it."""
    if "--" not in arguments:
        return arguments, ()
    at = arguments.index("--")
    return arguments[:at], arguments[at:]


def chips_per_host(topology: Topology) -> int:
    """Chips of one machine of a slice (cloud.google.com/tpu/docs, "TPU configurations").

    Four, but one of a slice of a single chip, and all eight of v5e's and v6e's 2x4, which Cloud TPU
    serves by one machine.
    """
    if topology.chips_per_slice == 1:
        return 1
    if topology.chip.torus_dims == 2 and topology.shape == (2, 4):
        return 8
    return 4


def hosts_per_slice(topology: Topology) -> int:
    """Machines of one slice."""
    return max(1, topology.chips_per_slice // chips_per_host(topology))


def is_many_processes(topology: Topology) -> bool:
    """Whether the job runs in several processes: one a machine."""
    return topology.slices > 1 or hosts_per_slice(topology) > 1
