"""From a job to what a backend would do: pure, nothing is read, run or written."""

from __future__ import annotations

from collections.abc import Callable

from flan_jax.launch.backends import gke, local, skypilot, slurm, tpu_vm
from flan_jax.launch.rendered import Rendered
from flan_jax.launch.spec import JobSpec, LaunchError
from flan_jax.suggestions import did_you_mean

BACKENDS: dict[str, Callable[[JobSpec], Rendered]] = {
    "local": local.render,
    "tpu_vm": tpu_vm.render,
    "gke": gke.render,
    "skypilot": skypilot.render,
    "slurm": slurm.render,
}


def render(spec: JobSpec, backend: str) -> Rendered:
    """What `backend` would do for the job.

    Raises:
      LaunchError: there is no such backend, or it cannot run this job.
    """
    if backend not in BACKENDS:
        known = ", ".join(BACKENDS)
        raise LaunchError(
            f"no backend is called {backend!r}; they are {known}{did_you_mean(backend, BACKENDS)}"
        )
    return BACKENDS[backend](spec)
