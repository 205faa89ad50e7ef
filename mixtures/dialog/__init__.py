"""Dialog tasks of Flan 2022: what is said next, and what was said before."""

from flan_jax.mixtures.dialog import tasks

__all__ = ["tasks"]
