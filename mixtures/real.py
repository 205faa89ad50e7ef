"""`real`: every real task whose data are on this machine."""

from __future__ import annotations

from flan_jax.mixtures import cot, gsm8k, niv2
from flan_jax.mixtures.niv2.tasks import known_size
from flan_jax.mixtures.present import register_present_mixture

__all__ = ["cot", "gsm8k", "niv2"]

register_present_mixture(
    "real",
    ("cot", "gsm8k", "niv2"),
    size=known_size,
    description="chain-of-thought, GSM8K and Natural Instructions tasks in the data folder",
)
