"""Launching jobs: one description, rendered for several engines; see docs/launch.md. No JAX.

spec = JobSpec("flan-t5-xl", "train", gin_files=(…), accelerator=parse_accelerator("v5e-64"))
rendered = render(spec, "tpu_vm")  # pure: files and command lines
execute(rendered, spec.retry)  # does it
"""

from __future__ import annotations

from flan_jax.launch.execute import execute
from flan_jax.launch.render import BACKENDS, render
from flan_jax.launch.rendered import Rendered
from flan_jax.launch.spec import (
    JobSpec,
    LaunchError,
    Place,
    RetryPolicy,
    Software,
    parse_accelerator,
)

__all__ = [
    "BACKENDS",
    "JobSpec",
    "LaunchError",
    "Place",
    "Rendered",
    "RetryPolicy",
    "Software",
    "execute",
    "parse_accelerator",
    "render",
]
