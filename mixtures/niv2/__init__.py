"""Natural Instructions v2 (Wang et al., 2022): the 1,556 tasks that Flan 2022 trains on."""

from flan_jax.mixtures.niv2 import tasks

__all__ = ["tasks"]
