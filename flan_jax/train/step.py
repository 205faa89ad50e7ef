"""One training step and one evaluation step, as pure functions to be jitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gin
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from flan_jax.errors import UserError
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.train.schedule import LearningRateFn
from flan_jax.train.state import TrainState

Batch = Mapping[str, Array]
Sums = dict[str, Array]


@gin.configurable(module="trainer")
@dataclass(frozen=True)
class Trainer:
    """How a step is taken. Argument names are T5X's.

    Attributes:
      learning_rate_fn: from the step to the learning rate; None for the optimizer's own.
      num_microbatches: parts that a batch is computed in, one after the other, to save memory; the
        result is that of the whole batch. None for one.
    """

    learning_rate_fn: LearningRateFn | None = None
    num_microbatches: int | None = None

    def __post_init__(self) -> None:
        if self.num_microbatches is not None and self.num_microbatches < 1:
            raise UserError(
                f"trainer.Trainer.num_microbatches must be >= 1, found {self.num_microbatches}"
            )

    @property
    def parts(self) -> int:
        """Microbatches per batch."""
        return self.num_microbatches or 1


def check_parts(batch_size: int, parts: int) -> None:
    """Raises UserError unless `parts` microbatches of equal size make up a batch."""
    if batch_size % parts:
        raise UserError(
            f"BATCH_SIZE {batch_size} must be a multiple of trainer.Trainer.num_microbatches "
            f"(NUM_MICROBATCHES) {parts}"
        )


def make_train_step(
    model: EncoderDecoderModel,
    optimizer: optax.GradientTransformation,
    trainer: Trainer,
    dropout_key: Key[Array, ""],
    num_tasks: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """The function (state, batch) -> (next state, metrics of this step).

    Metrics are float32: sums over target tokens (`cross_entropy`, `z_loss`, `correct`,
    `weight_sum`, and by task `per_task_loss`, `per_task_weight_sum` [tasks]), and `loss` (as
    optimised), `grad_norm`, `update_norm`, `learning_rate`. Dropout is keyed by `dropout_key`,
    step, microbatch.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(dropout_key, state.step)
        if model.module.dropout_rate == 0:
            key = None
        divisor = model.loss_divisor(batch)

        def loss_and_sums(params: Any, part: Batch, key: Array | None) -> tuple[Array, Sums]:
            return model.loss_fn(params, part, key, num_tasks, divisor)

        grads, sums = _accumulate(loss_and_sums, state.params, batch, key, trainer.parts)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        sums["grad_norm"] = optax.global_norm(grads)
        sums["update_norm"] = optax.global_norm(updates)
        rate_fn = trainer.learning_rate_fn
        rate = rate_fn(state.step) if rate_fn else model.optimizer_def.learning_rate
        sums["learning_rate"] = jnp.asarray(rate, jnp.float32)
        return TrainState(state.step + 1, params, opt_state), sums

    return train_step


def _accumulate(
    loss_and_sums: Callable[..., tuple[Array, Sums]],
    params: Any,
    batch: Batch,
    key: Key[Array, ""] | None,
    parts: int,
) -> tuple[Any, Sums]:
    """Gradient and summed metrics over `parts` microbatches."""
    grad_fn = jax.grad(loss_and_sums, has_aux=True)
    if parts == 1:
        return grad_fn(params, batch, key)
    size = next(iter(batch.values())).shape[0]
    check_parts(size, parts)
    # Row i goes to microbatch i % parts: each device keeps its own rows.
    microbatches = {
        name: jnp.moveaxis(rows.reshape(size // parts, parts, *rows.shape[1:]), 1, 0)
        for name, rows in batch.items()
    }

    def one(total: Any, indexed: tuple[Array, Batch]) -> tuple[Any, None]:
        index, part = indexed
        part_key = None if key is None else jax.random.fold_in(key, index)
        return jax.tree.map(jnp.add, total, grad_fn(params, part, part_key)), None

    first = {name: rows[0] for name, rows in microbatches.items()}
    shapes = jax.eval_shape(grad_fn, params, first, key)
    zeros = (jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, shapes[1]))
    total, _ = jax.lax.scan(one, zeros, (jnp.arange(parts), microbatches))
    return total


def make_eval_step(model: EncoderDecoderModel, num_tasks: int) -> Callable[[Any, Batch], Sums]:
    """The function (params, batch) -> sums over target tokens, without dropout."""

    def eval_step(params: Any, batch: Batch) -> Sums:
        return model.loss_fn(params, batch, None, num_tasks)[1]

    return eval_step
