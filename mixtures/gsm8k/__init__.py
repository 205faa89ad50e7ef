"""GSM8K (Cobbe et al., 2021)."""

from flan_jax.mixtures.gsm8k import tasks

__all__ = ["tasks"]
