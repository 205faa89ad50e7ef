"""What a model learns from plain text: objectives that make inputs and targets of tokens."""

from flan_jax.objectives.span_corruption import SpanCorruption

__all__ = ["SpanCorruption"]
