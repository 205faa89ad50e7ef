"""What is compiled: a traced step, and what its model FLOPs are counted from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # JAX is imported only where programs are made and compiled
    import jax


@dataclass(frozen=True)
class TracedStep:
    """A step to be compiled, as its builder returns it.

    A builder is a function `(devices, **arguments) -> TracedStep`, named "module:function". It
    is called in the process that compiles, with the devices of the topology in JAX's order and the
    arguments of the job.

    Attributes:
      step: `jax.jit(function).trace(*shapes)`, the shapes with NamedShardings over the devices.
      forward: a trace of the forward pass alone, to count model FLOPs from; None: the step's own.
      passes: forward passes that the FLOPs of a step are worth: 3 for training (the backward pass
        costs two; recomputation does not count), 1 otherwise.
      tokens: tokens in a step (inputs and targets, padding included), for tokens/s; 0 if unknown.
      loop_runs: runs of loops that end by what they compute, as decoding does when all rows have.
      info: anything else to be reported, for JSON.
    """

    step: jax.stages.Traced
    forward: jax.stages.Traced | None = None
    passes: int = 1
    tokens: int = 0
    loop_runs: int = 1
    info: Mapping[str, Any] = field(default_factory=dict)
