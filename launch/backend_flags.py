"""Which flags of `flan-jax launch` each backend reads: what it would ignore is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flan_jax.launch.spec import LaunchError

_XPK = "gke --xpk"
# Flags that not every backend reads.
FLAGS: dict[str, tuple[str, ...]] = {
    "processes": ("local",),
    "port": ("local",),
    "spot": ("tpu_vm", "gke", _XPK, "skypilot"),
    "image": ("tpu_vm", "gke", _XPK, "skypilot"),
    "package": ("tpu_vm", "skypilot"),
    "project": ("tpu_vm", _XPK),
    "zone": ("tpu_vm", _XPK, "skypilot"),
    "network": ("tpu_vm",),
    "service_account": ("tpu_vm", "gke"),
    "runtime_version": ("tpu_vm", "skypilot"),
    "reserved": ("tpu_vm",),
    "namespace": ("gke", _XPK),
    "queue": ("gke",),
    "xpk": (_XPK,),
    "cluster": (_XPK,),
    "partition": ("slurm",),
    "account": ("slurm",),
    "time_limit": ("slurm",),
    "cpus_per_task": ("slurm",),
    "memory": ("slurm",),
    "keep": ("tpu_vm",),
}
_BACKENDS = ("local", "tpu_vm", "gke", "skypilot", "slurm")


def check_flags(backend: str, given: Mapping[str, Any]) -> None:
    """Refuses what the backend would not read.

    Args:
      backend: its name; of one that does not exist nothing is said.
      given: flags that were given another value than their default.

    Raises:
      LaunchError: naming the flags, and the backends that read them.
    """
    if backend not in _BACKENDS:
        return
    if given.get("image") and given.get("package"):
        raise LaunchError(
            "--image and --package are two ways to have the program on the machines: give one"
        )
    reader = _XPK if backend == "gke" and given.get("xpk") else backend
    ignored = [name for name in given if reader not in FLAGS.get(name, (reader,))]
    if ignored:
        lines = [f"--{name}: {', '.join(FLAGS[name])}" for name in ignored]
        raise LaunchError(
            f"{reader} does not read these flags; those that do:\n  " + "\n  ".join(lines)
        )
