"""Learning-rate schedules: T5X's products of named factors."""

from __future__ import annotations

from collections.abc import Callable

import gin
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flan_jax.suggestions import did_you_mean

LearningRateFn = Callable[[Int[Array, ""] | int], Float[Array, ""]]
FACTORS = (
    "constant",
    "linear_warmup",
    "linear_decay",
    "rsqrt_decay",
    "rsqrt_normalized_decay",
    "decay_every",
    "cosine_decay",
)


@gin.configurable(module="utils")
def create_learning_rate_scheduler(
    factors: str = "constant * linear_warmup * rsqrt_decay",
    base_learning_rate: float = 0.5,
    warmup_steps: int = 1000,
    decay_factor: float = 0.5,
    steps_per_decay: int = 20000,
    steps_per_cycle: int = 100000,
    step_offset: int = 0,
    min_learning_rate: float = 1e-8,
) -> LearningRateFn:
    """A function from the step to the learning rate: the product of `factors`, joined by "*".

    Steps count from `step_offset`, and the result is at least `min_learning_rate`. Factors and
    defaults are those of T5X (t5x/utils.py):
      constant: base_learning_rate
      linear_warmup: step / warmup_steps, up to 1
      linear_decay: base_learning_rate * min(step / warmup_steps,
        1 + decay_factor * (warmup_steps - step)); includes constant and warm-up
      rsqrt_decay: 1 / sqrt(max(step, warmup_steps))
      rsqrt_normalized_decay: the same, times sqrt(warmup_steps), so that it starts at 1
      decay_every: decay_factor ** (step // steps_per_decay)
      cosine_decay: half a cosine from 1 to 0 every steps_per_cycle steps after warm-up

    Raises:
      ValueError: for an unknown factor.
    """
    names = [name.strip() for name in factors.split("*")]
    for name in names:
        if name not in FACTORS:
            raise ValueError(
                f"unknown learning rate factor {name!r} in {factors!r} (known: "
                f"{', '.join(FACTORS)}){did_you_mean(name, FACTORS)}"
            )

    def factor(name: str, step: Array) -> Array | float:
        if name == "constant":
            return base_learning_rate
        if name == "linear_warmup":
            return jnp.minimum(1.0, step / warmup_steps)
        if name == "linear_decay":
            slope = 1.0 + decay_factor * (warmup_steps - step)
            return base_learning_rate * jnp.minimum(step / warmup_steps, slope)
        if name == "rsqrt_decay":
            return 1.0 / jnp.sqrt(jnp.maximum(step, warmup_steps))
        if name == "rsqrt_normalized_decay":
            return jnp.sqrt(warmup_steps / jnp.maximum(step, warmup_steps))
        if name == "decay_every":
            return decay_factor ** (step // steps_per_decay)
        cycle = jnp.maximum(0.0, (step - warmup_steps) / steps_per_cycle) % 1.0
        return jnp.maximum(0.0, 0.5 * (1.0 + jnp.cos(jnp.pi * cycle)))

    def learning_rate(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.maximum(0, jnp.asarray(step) - step_offset).astype(jnp.float32)
        rate = jnp.ones((), jnp.float32)
        for name in names:
            rate = rate * factor(name, step)
        return jnp.maximum(rate, min_learning_rate)

    return learning_rate
