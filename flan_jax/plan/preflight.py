"""What can be said of a step before anything is compiled: machine, mesh, least memory."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from jax.sharding import AbstractMesh

from flan_jax.errors import UserError
from flan_jax.plan.gpu import GPUS, GpuCluster, is_gpu_name, parse_gpus
from flan_jax.plan.steps import PlannedRun, StepKind, abstract_batch, bytes_per_device
from flan_jax.plan.topologies import GIB, Topology, parse_topology

Machine = Topology | GpuCluster


@dataclass(frozen=True)
class Misfit:
    """Why a step cannot run, known without compiling it.

    Attributes:
      reason: in words.
      needed_gib: of a device's memory; None if memory is not the reason.
    """

    reason: str
    needed_gib: float | None = None


def machine(name: str) -> Machine:
    """The TPU slice or the GPUs of this name. Raises UserError, with suggestions."""
    if name.partition(":")[0].strip().lower() in GPUS or is_gpu_name(name):
        return parse_gpus(name)
    return parse_topology(name)


def memory_limit_gib(machine: Machine) -> float:
    """What a program may use of a device's memory."""
    return machine.hbm_gib if isinstance(machine, GpuCluster) else machine.chip.hbm_gib


def require_compiler(machine: Machine) -> None:
    """Raises UserError if what compiles for this machine is not installed."""
    if isinstance(machine, Topology) and importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"compiling for {machine.name} needs libtpu, the TPU compiler, which runs on any Linux "
            "machine: pip install 'flan_jax[plan]' (in a checkout: make plan-extra). "
            "--show_sharding does without"
        )


def abstract_mesh(run: PlannedRun, machine: Machine) -> AbstractMesh:
    """The run's mesh over the machine's devices. Raises UserError if it does not fit them."""
    slices = machine.slices if isinstance(machine, Topology) else 1
    return run.partitioner.abstract_mesh(machine.devices, slices)


def misfit(run: PlannedRun, step: StepKind, machine: Machine) -> Misfit | None:
    """What makes it pointless to compile a step; None if nothing does."""
    try:
        mesh = abstract_mesh(run, machine)
        run.check_batch(step, mesh)
        state = run.state(mesh)
    except UserError as error:
        return Misfit(str(error))
    held = bytes_per_device(state if step == "train" else state.params)
    if step != "decode":
        held += bytes_per_device(abstract_batch(run, step, mesh))
    limit = memory_limit_gib(machine)
    if held / GIB <= limit:
        return None
    what = "parameters, optimizer state and batch" if step == "train" else "parameters and batch"
    reason = f"{what} alone take {held / GIB:.1f} GiB of a device's {limit:.1f} GiB"
    return Misfit(reason, held / GIB)
