"""What a model learns from plain text: objectives that make inputs and targets of tokens."""

from flan_jax.objectives.denoiser import BoundObjective, Denoised, Denoiser, Objective, Room
from flan_jax.objectives.language_modeling import CausalLM, PrefixLM
from flan_jax.objectives.mixture_of_denoisers import MixtureOfDenoisers
from flan_jax.objectives.span_corruption import SpanCorruption

__all__ = [
    "BoundObjective",
    "CausalLM",
    "Denoised",
    "Denoiser",
    "MixtureOfDenoisers",
    "Objective",
    "PrefixLM",
    "Room",
    "SpanCorruption",
]
