"""T0-SF (Sanh et al., 2022, as in Flan 2022): 193 prompts of P3, each of them a task."""

from flan_jax.mixtures.t0_sf import tasks

__all__ = ["tasks"]
