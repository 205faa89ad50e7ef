"""What training changes: step, parameters, optimizer state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Int32


@jax.tree_util.register_dataclass
@dataclass
class TrainState:
    """A pytree of everything a step reads and writes.

    Attributes:
      step: steps done so far.
      params: the model, a pytree of float32 parameters (frozen ones may be bfloat16).
      opt_state: the optimizer's state, of trained parameters only.
    """

    step: Int32[Array, ""]
    params: Any
    opt_state: Any
