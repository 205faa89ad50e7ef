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
from flan_jax.layout import out_sharding
from flan_jax.models.language_model import LanguageModel
from flan_jax.models.lora import has_dropout
from flan_jax.suggestions import did_you_mean
from flan_jax.train.schedule import LearningRateFn
from flan_jax.train.state import TrainState
from flan_jax.train.trainable import Trainable, as_patterns, select

FROZEN_DTYPES = ("float32", "bfloat16")
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
      trainable: regular expressions for whole names of parameters, such as
        ".*layer_norm/scale"; only these are trained, besides LoRA's adapters. None: the adapters
        alone if the model has some, else everything.
      frozen: likewise; these are not trained, whatever `trainable` says.
      frozen_dtype: what parameters that are not trained are kept in: "float32", or "bfloat16" for
        half the memory (models cast most parameters to their activations' dtype anyway).
    """

    learning_rate_fn: LearningRateFn | None = None
    num_microbatches: int | None = None
    trainable: str | tuple[str, ...] | None = None
    frozen: str | tuple[str, ...] = ()
    frozen_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("trainable", "frozen"):
            object.__setattr__(self, name, as_patterns(name, getattr(self, name)))
        if self.frozen_dtype not in FROZEN_DTYPES:
            raise UserError(
                f"trainer.Trainer.frozen_dtype must be one of {FROZEN_DTYPES}, found "
                f"{self.frozen_dtype!r}{did_you_mean(self.frozen_dtype, FROZEN_DTYPES)}"
            )
        if self.num_microbatches is not None and self.num_microbatches < 1:
            raise UserError(
                f"trainer.Trainer.num_microbatches must be >= 1, found {self.num_microbatches}"
            )

    @property
    def parts(self) -> int:
        """Microbatches per batch."""
        return self.num_microbatches or 1

    def select(self, params: Any) -> Trainable:
        """The parameters to be trained of a model (or of the tree of its shapes).

        Raises:
          UserError: a pattern matches no parameter, or nothing is left to be trained.
        """
        return select(params, self.trainable, self.frozen, self.frozen_dtype)


def check_parts(batch_size: int, parts: int) -> None:
    """Raises UserError unless `parts` microbatches of equal size make up a batch."""
    if batch_size % parts:
        raise UserError(
            f"BATCH_SIZE {batch_size} must be a multiple of trainer.Trainer.num_microbatches "
            f"(NUM_MICROBATCHES) {parts}"
        )


def make_train_step(
    model: LanguageModel,
    optimizer: optax.GradientTransformationExtraArgs,
    trainer: Trainer,
    dropout_key: Key[Array, ""],
    num_tasks: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """The function (state, batch) -> (next state, metrics of this step).

    Metrics are float32: sums over target tokens (`cross_entropy`, `z_loss`, `correct`,
    `weight_sum`, and by task `per_task_loss`, `per_task_weight_sum` [tasks]), and `loss` (as
    optimised), `grad_norm`, `update_norm`, `learning_rate`. Dropout is keyed by `dropout_key`,
    step, microbatch. Gradients are those of the trained parameters (`Trainer.select`), and
    `state.opt_state` is that of `optimizer.init(trainer.select(params).of(params))`.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(dropout_key, state.step)
        if not has_dropout(model.module):
            key = None
        selected = trainer.select(state.params)
        divisor = model.loss_divisor(batch)

        def loss_and_sums(trained: Any, part: Batch, key: Array | None) -> tuple[Array, Sums]:
            params = selected.put(state.params, trained)
            return model.loss_fn(params, part, key, num_tasks, divisor)

        trained = selected.of(state.params)
        grads, sums = _accumulate(loss_and_sums, trained, batch, key, trainer.parts)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained, step=state.step)
        params = selected.put(state.params, optax.apply_updates(trained, updates))
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
        name: jnp.moveaxis(_in_parts(rows, parts), 1, 0) for name, rows in batch.items()
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


def _in_parts(rows: Array, parts: int) -> Array:
    """[batch, …] as [batch / parts, parts, …], split as the batch is over all its mesh axes."""
    shape = (rows.shape[0] // parts, parts, *rows.shape[1:])
    # Left to itself, `reshape` drops mesh axes of size 1, and types no longer agree.
    return jnp.reshape(rows, shape, out_sharding=out_sharding("batch", *[None] * rows.ndim))


def make_eval_step(model: LanguageModel, num_tasks: int) -> Callable[[Any, Batch], Sums]:
    """The function (params, batch) -> sums over target tokens, without dropout."""

    def eval_step(params: Any, batch: Batch) -> Sums:
        return model.loss_fn(params, batch, None, num_tasks)[1]

    return eval_step
