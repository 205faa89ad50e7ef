"""Adafactor as T5X runs it, for parameters whose layers are stacked.

T5X's non-scanned models have one parameter a layer, and Adafactor's factoring, update clipping and
parameter scale act on each. Here the layers share one array with a leading axis "layers", so the
update of one parameter is mapped over that axis: the same numbers.

It is written for few passes over memory, which is all that it costs: reductions of the gradient and
of the parameter, then one pass that makes the update. (As a chain of optax's transformations, whose
results are the same but for rounding, it took 1.5 times as long on CPU.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from flan_jax.train.schedule import LearningRateFn, create_learning_rate_scheduler

__all__ = ["Adafactor", "AdafactorState", "create_learning_rate_scheduler"]


class AdafactorState(NamedTuple):
    """Trees like the parameters; slots that a parameter does not use hold (1,) zeros, per layer.

    Attributes:
      count: int32, steps taken. The learning rate is that of the training step if `update` is told
        it, else that of `count` before the step; they differ where the optimizer began anew.
      v_row, v_col: factored second moments: the parameter's shape without its largest (v_row) or
        second largest (v_col) dimension.
      v: unfactored second moments.
      m: momentum, used with beta1 only.
    """

    count: Any
    v_row: Any
    v_col: Any
    v: Any
    m: Any


class _Slots(NamedTuple):
    v_row: Any
    v_col: Any
    v: Any
    m: Any


def factored_dims(shape: tuple[int, ...], min_dim_size_to_factor: int) -> tuple[int, int] | None:
    """(second largest, largest) dimension if both are large enough to factor, else None."""
    if len(shape) < 2:
        return None
    # Ties are broken as T5X and optax do: by numpy's argsort.
    second, largest = (int(dim) for dim in np.argsort(shape)[-2:])
    return (second, largest) if shape[second] >= min_dim_size_to_factor else None


@gin.configurable(module="adafactor")
@dataclass(frozen=True)
class Adafactor:
    """Definition of the optimizer (https://arxiv.org/abs/1804.04235); defaults are T5X's.

    Attributes:
      learning_rate: constant used when `create` gets no learning_rate_fn.
      factored: keep row and column statistics instead of full ones where the two largest
        dimensions are at least `min_dim_size_to_factor`.
      multiply_by_parameter_scale: the step is relative to the parameter's RMS, at least epsilon2.
      beta1: momentum; None: none is kept.
      decay_rate: the second moments' decay at step t is 1 - (t + 1 - step_offset)**-decay_rate.
      step_offset: set to the first step of a finetuning run to restart that decay.
      clipping_threshold: updates with a larger RMS are scaled down to it; None: never.
      weight_decay_rate: the parameters shrink by this fraction a step, not scaled by the
        learning rate.
      weight_decay_rate_lr_exponent: multiplies that by learning rate ** exponent.
      global_norm_clip_threshold: gradients are first scaled down to this global norm.
      logical_factor_rules: accepted from T5X's gin files and not used: T5X ignores it too for
        parameters of at most two dimensions, which each layer of ours has. (By it, T5X factors
        kernels of scanned layers however small; for the same numbers set min_dim_size_to_factor to
        their smallest dimension. That of every public model is above the default.)
    """

    learning_rate: float | None = None
    factored: bool = True
    multiply_by_parameter_scale: bool = True
    beta1: float | None = None
    decay_rate: float = 0.8
    step_offset: int = 0
    clipping_threshold: float | None = 1.0
    weight_decay_rate: float | None = None
    min_dim_size_to_factor: int = 128
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3
    weight_decay_rate_lr_exponent: float | None = None
    global_norm_clip_threshold: float | None = None
    logical_factor_rules: Any = None

    def create(
        self, learning_rate_fn: LearningRateFn | None, logical_axes: Any
    ) -> optax.GradientTransformationExtraArgs:
        """The transformation; add its updates to the parameters (`optax.apply_updates`).

        Its `update(gradients, state, params, step=None)` takes the step of the schedule.

        Args:
          learning_rate_fn: step -> learning rate; None: the constant `learning_rate`.
          logical_axes: tree of PartitionSpecs like the parameters (`sharding.logical_axes`);
            parameters whose first axis is "layers" are treated layer by layer.

        Raises:
          ValueError: if there is no learning rate.
        """
        if learning_rate_fn is None and self.learning_rate is None:
            raise ValueError(
                "Adafactor needs a learning rate: bind trainer.Trainer.learning_rate_fn or"
                " adafactor.Adafactor.learning_rate."
            )
        rate_fn: Any = learning_rate_fn or optax.constant_schedule(self.learning_rate or 0.0)
        stacked = jax.tree.map(_is_stacked, logical_axes)

        def init(params: Any) -> AdafactorState:
            def leaf(param: Array, is_stacked: bool) -> _Slots:
                return (jax.vmap(self._init_leaf) if is_stacked else self._init_leaf)(param)

            slots = jax.tree.map(leaf, params, stacked)
            return AdafactorState(jnp.zeros((), jnp.int32), *_unzip(slots, params, _Slots))

        def update(
            updates: Any, state: Any, params: Any = None, *, step: Array | None = None, **_: Any
        ) -> tuple[Any, AdafactorState]:
            if params is None:
                raise ValueError("Adafactor's update needs the parameters: update(g, s, params).")
            rate = rate_fn(state.count if step is None else step)
            grads = self._clip_global_norm(updates)

            def leaf(is_stacked: bool, grad: Array, param: Array, *slots: Array) -> _Update:
                one = self._leaf_update(state.count, rate)
                return (jax.vmap(one) if is_stacked else one)(grad, param, _Slots(*slots))

            results = jax.tree.map(
                leaf, stacked, grads, params, state.v_row, state.v_col, state.v, state.m
            )
            updates, *slots = _unzip(results, params, _Update)
            return updates, AdafactorState(optax.safe_increment(state.count), *slots)

        return optax.GradientTransformationExtraArgs(init, update)

    def state_axes(self, logical_axes: Any, params: Any) -> AdafactorState:
        """Logical axes of the state that `create(...).init(params)` makes.

        Args:
          logical_axes: as for `create`.
          params: arrays or ShapeDtypeStructs; shapes decide what is factored.
        """

        def leaf(axes: PartitionSpec, param: Array) -> _Slots:
            lead = ("layers",) if _is_stacked(axes) else ()
            names = tuple(axes)[len(lead) :]
            dims = self._factored_dims(param.shape[len(lead) :])
            unused, whole = PartitionSpec(*lead, None), PartitionSpec(*axes)
            momentum = unused if self.beta1 is None else whole
            if dims is None:
                return _Slots(unused, unused, whole, momentum)
            rows = PartitionSpec(*lead, *np.delete(names, dims[1]).tolist())
            columns = PartitionSpec(*lead, *np.delete(names, dims[0]).tolist())
            return _Slots(rows, columns, unused, momentum)

        slots = jax.tree.map(leaf, logical_axes, params)
        return AdafactorState(PartitionSpec(), *_unzip(slots, params, _Slots))

    def _factored_dims(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        return factored_dims(shape, self.min_dim_size_to_factor) if self.factored else None

    def _init_leaf(self, param: Array) -> _Slots:
        def zeros(shape: Any) -> Array:
            return jnp.zeros(shape, param.dtype)

        # A new array for each slot: one that is in two slots could not be donated.
        dims = self._factored_dims(param.shape)
        momentum = jnp.zeros((1,)) if self.beta1 is None else zeros(param.shape)
        if dims is None:
            return _Slots(zeros((1,)), zeros((1,)), zeros(param.shape), momentum)
        columns, rows = (zeros(np.delete(param.shape, dim)) for dim in dims)
        return _Slots(rows, columns, zeros((1,)), momentum)

    def _leaf_update(self, count: Array, rate: Array) -> Callable[..., _Update]:
        """Update of one parameter of one layer."""
        decay = 1.0 - jnp.asarray(count - self.step_offset + 1, jnp.float32) ** -self.decay_rate

        def step(grad: Array, param: Array, slots: _Slots) -> _Update:
            grad = grad.astype(jnp.float32)
            moments = self._second_moments(grad, slots, decay)
            roots, size = self._inverse_roots(moments, grad.shape)
            scale = rate * self._parameter_scale(param) / self._clipped(grad, roots, size)
            # The number that scales the whole parameter goes into the smallest array, and the sign
            # into another: an array with two uses would be broadcast in memory on CPUs.
            first, *others = roots
            first = first * (scale if others else -scale)
            update = math.prod((-root for root in others), start=first * grad)
            momentum = slots.m
            if self.beta1 is not None:
                momentum = self.beta1 * slots.m - (1.0 - self.beta1) * update
                update = -momentum
            shrinking = self._weight_decay(rate)
            if shrinking is not None:
                update = update - shrinking * param
            return _Update(update, moments.v_row, moments.v_col, moments.v, momentum)

        return step

    def _second_moments(self, grad: Array, slots: _Slots, decay: Array) -> _Slots:
        """The slots with this gradient's square in their averages."""
        square = jnp.square(grad)

        def average(old: Array, axes: tuple[int, ...] = ()) -> Array:
            mean = jnp.mean(square, axis=axes) + self.epsilon1
            return (decay * old + (1.0 - decay) * mean).astype(old.dtype)

        dims = self._factored_dims(grad.shape)
        if dims is None:
            return slots._replace(v=average(slots.v))
        second, largest = dims
        rows, columns = average(slots.v_row, (largest,)), average(slots.v_col, (second,))
        return slots._replace(v_row=rows, v_col=columns)

    def _inverse_roots(
        self, moments: _Slots, shape: tuple[int, ...]
    ) -> tuple[tuple[Array, ...], Array | float]:
        """Factors, and a number to divide by, that make a gradient the unclipped update.

        The factors are one array of the parameter's shape, or a row's and a column's.
        """
        dims = self._factored_dims(shape)
        if dims is None:
            return (jax.lax.rsqrt(moments.v),), 1.0
        second, largest = dims
        by_row = jnp.expand_dims(jax.lax.rsqrt(moments.v_row), largest)
        by_column = jnp.expand_dims(jax.lax.rsqrt(moments.v_col), second)
        return (by_row, by_column), jax.lax.rsqrt(jnp.mean(moments.v_row))

    def _clipped(self, grad: Array, roots: tuple[Array, ...], size: Array | float) -> Array | float:
        """The number to divide by instead of `size`, so that the update's RMS is not too large."""
        if self.clipping_threshold is None:
            return size
        # One expression of arrays that are used once: the update, used again, would be written to
        # memory before it is known how large it is.
        return jnp.maximum(size, _rms(math.prod(roots, start=grad)) / self.clipping_threshold)

    def _parameter_scale(self, param: Array) -> Array | float:
        return jnp.maximum(_rms(param), self.epsilon2) if self.multiply_by_parameter_scale else 1.0

    def _weight_decay(self, rate: Array) -> Array | float | None:
        if not self.weight_decay_rate_lr_exponent:
            return self.weight_decay_rate
        return (self.weight_decay_rate or 1.0) * rate**self.weight_decay_rate_lr_exponent

    def _clip_global_norm(self, grads: Any) -> Any:
        if not self.global_norm_clip_threshold:
            return grads
        clip = optax.clip_by_global_norm(self.global_norm_clip_threshold)
        return clip.update(grads, clip.init(grads))[0]


class _Update(NamedTuple):
    update: Any
    v_row: Any
    v_col: Any
    v: Any
    m: Any


def _rms(array: Array) -> Array:
    return jnp.sqrt(jnp.mean(jnp.square(array)))


def _is_stacked(axes: PartitionSpec) -> bool:
    return len(axes) > 0 and axes[0] == "layers"


def _unzip(tree: Any, like: Any, kind: type) -> tuple[Any, ...]:
    """A tuple of trees like `like` from a tree whose leaves are `kind` named tuples."""
    treedef = jax.tree.structure(like)
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
    return tuple(jax.tree.unflatten(treedef, column) for column in zip(*leaves, strict=True))
