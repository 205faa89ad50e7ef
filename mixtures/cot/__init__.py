"""Chain-of-thought finetuning tasks of Flan 2022."""

from flan_jax.mixtures.cot import tasks

__all__ = ["tasks"]
