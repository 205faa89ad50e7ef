"""Program synthesis tasks of Flan 2022: repairing programs, and solving contest problems."""

from flan_jax.mixtures.program_synthesis import tasks

__all__ = ["tasks"]
