"""The output head and its cross-entropy in one, without float32 logits of the whole batch.

Logits of a 256k vocabulary are the largest array of a training step. Here they exist for some rows
at a time: as the loss is a sum over tokens with weights that are known beforehand, the gradient of
the head and of its input can be taken along with the loss, chunk by chunk, and only has to be
scaled in the backward pass. (The idea is that of Liger Kernel's fused linear cross-entropy,
Hsu et al. 2024, arXiv:2410.10989.) On a mesh the head is gathered over `fsdp` once, not once a
chunk, its gradient is scattered once, and a vocabulary that is split over `tensor` stays so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from flan_jax.layout import mesh_platform, out_sharding
from flan_jax.sharding import as_tuple, partition_spec

# Logits of a chunk, of one device: 2**28 float32 are 1 GiB. Smaller chunks save memory that other
# parts of a step need anyway, and read head and gradient from memory more often.
MAX_CHUNK_LOGITS = 2**28


@dataclass(frozen=True)
class Head:
    """The matrix that makes logits of states.

    Attributes:
      matrix: a parameter as it is stored, [embed, vocab], or [vocab, embed] if `is_embedding`.
      is_embedding: whether it is the token embedding.
      scale: the states are multiplied by it.
      dtype: what states and matrix are multiplied in; the result is float32.
    """

    matrix: Float[Array, "embed vocab"] | Float[Array, "vocab embed"]
    is_embedding: bool
    scale: float
    dtype: str


class TokenStatistics(NamedTuple):
    """Of each token, float32 [batch, length]; no gradient flows through them.

    Attributes:
      loss: z-loss included.
      z_loss: that part.
      right: 1.0 where the target is the first of the largest logits.
    """

    loss: Float[Array, "batch length"]
    z_loss: Float[Array, "batch length"]
    right: Float[Array, "batch length"]


class Terms(NamedTuple):
    """The loss of a token: see `losses.cross_entropy_with_logits`."""

    label_smoothing: float
    z_loss: float


def weighted_loss(
    states: Float[Array, "batch length embed"],
    head: Head,
    targets: Int[Array, "batch length"],
    weights: Float[Array, "batch length"],
    *,
    label_smoothing: float,
    z_loss: float,
    max_chunk_logits: int = MAX_CHUNK_LOGITS,
) -> tuple[Float[Array, ""], TokenStatistics]:
    """Sum over tokens of weight * loss, and the statistics of each token.

    The gradient is with respect to states and `head.matrix`.

    Args:
      states: normalised, laid out as the residual stream is.
      head: the output head.
      targets: ids.
      weights: of each token in the sum; with the loss's divisor in them.
      label_smoothing, z_loss: see `losses.cross_entropy_with_logits`.
      max_chunk_logits: of a device at a time.
    """
    terms = Terms(label_smoothing, z_loss)
    axes = ("vocab", "embed") if head.is_embedding else ("embed", "vocab")
    static = _Static(head.is_embedding, head.scale, head.dtype, terms, max_chunk_logits, axes)
    results: Any = _weighted_loss(static, states, head.matrix, targets, weights)
    loss, *statistics = results
    return loss, TokenStatistics(*statistics)


# Statistics, and the gradients of states and matrix, None if they are not asked for.
ChunkResult = tuple[TokenStatistics, Any, Any]


class _Static(NamedTuple):
    is_embedding: bool
    scale: float
    dtype: str
    terms: Terms
    max_chunk_logits: int
    axes: tuple[str, str]


class _Wanted(NamedTuple):
    """Which gradients are taken."""

    states: bool
    matrix: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_loss(
    static: _Static, states: Array, matrix: Array, targets: Array, weights: Array
) -> tuple[Array, ...]:
    return _on_mesh(static, _Wanted(False, False), states, matrix, targets, weights)


def _forward(static: _Static, *primals: Any) -> tuple[tuple[Array, ...], tuple[Any, Any]]:
    # A frozen head is not "perturbed": its gradient is a third of the work.
    wanted = _Wanted(states=True, matrix=primals[1].perturbed)
    results = _on_mesh(static, wanted, *(primal.value for primal in primals))
    return results[:4], (results[4], results[5] if wanted.matrix else None)


def _backward(
    static: _Static, kept: tuple[Any, Any], grads: tuple[Any, ...]
) -> tuple[Any, Any, None, None]:
    del static
    states, matrix = (None if x is None else x * grads[0].astype(x.dtype) for x in kept)
    return states, matrix, None, None


_weighted_loss.defvjp(_forward, _backward, symbolic_zeros=True)


def _on_mesh(
    static: _Static,
    wanted: _Wanted,
    states: Array,
    matrix: Array,
    targets: Array,
    weights: Array,
) -> tuple[Array, ...]:
    """Loss, three statistics, and the gradients that are wanted.

    `_local` on what each device has, with the collectives that a mesh needs.
    """
    arrays = (states, matrix, targets, weights)
    if out_sharding() is None:
        return _local(static, _Group((), (), (), False), wanted, *arrays)
    batch, length, _ = partition_spec(("batch", "length", "embed"))
    matrix_spec = partition_spec(static.axes)
    by_name = dict(zip(static.axes, matrix_spec, strict=True))
    group = _Group(
        batch=as_tuple(batch),
        matrix=as_tuple(by_name["embed"]),
        vocab=as_tuple(by_name["vocab"]),
        split_length="tensor" in as_tuple(length),
    )
    residual, rows = PartitionSpec(batch, length, None), PartitionSpec(batch, None)
    outputs: tuple[PartitionSpec, ...] = (PartitionSpec(), rows, rows, rows)
    outputs += (residual,) * wanted.states + (matrix_spec,) * wanted.matrix
    local = functools.partial(_local, static, group, wanted)
    inputs = (residual, matrix_spec, rows, rows)
    mapped = jax.shard_map(local, in_specs=inputs, out_specs=outputs, check_vma=False)
    return mapped(*jax.sharding.reshard(arrays, inputs))


class _Group(NamedTuple):
    """Mesh axes: of the batch, those that split the matrix along `embed`, along `vocab`."""

    batch: tuple[str, ...]
    matrix: tuple[str, ...]
    vocab: tuple[str, ...]
    split_length: bool


def _local(
    static: _Static,
    group: _Group,
    wanted: _Wanted,
    states: Array,
    matrix: Array,
    targets: Array,
    weights: Array,
) -> tuple[Array, ...]:
    dtype, shape = jnp.dtype(static.dtype), targets.shape
    embed_dim = static.axes.index("embed")
    matrix = matrix.astype(dtype)
    for axis in reversed(group.matrix):
        matrix = jax.lax.all_gather(matrix, axis, axis=embed_dim, tiled=True)
    if group.split_length:
        states = jax.lax.all_gather(states, "tensor", axis=1, tiled=True)
    rows = (states.astype(dtype) * jnp.asarray(static.scale, dtype)).reshape(-1, states.shape[-1])
    chunk = functools.partial(_chunk, static, group, wanted, matrix)
    parts = _num_chunks(rows.shape[0], matrix.shape[1 - embed_dim], static.max_chunk_logits)
    columns = (rows, targets.reshape(-1), weights.reshape(-1))
    statistics, states_grad, matrix_grad = _over_chunks(chunk, columns, parts)
    loss = jnp.sum(weights * statistics.loss.reshape(shape))
    if group.batch:
        loss = jax.lax.psum(loss, group.batch)
    results = (loss, *(x.reshape(shape) for x in statistics))
    if wanted.states:
        results += (_states_grad(static, group, states, states_grad),)
    if wanted.matrix:
        results += (_matrix_grad(static, group, matrix_grad.astype(matrix.dtype)),)
    return results


def _states_grad(static: _Static, group: _Group, states: Array, grad: Array) -> Array:
    """The gradient of the states, summed over the parts of the vocabulary, laid out as they are."""
    grad = (grad * static.scale).astype(states.dtype).reshape(states.shape)
    if not group.split_length:
        return _psum(grad, group.vocab)
    if group.vocab:
        return jax.lax.psum_scatter(grad, "tensor", scatter_dimension=1, tiled=True)
    size = states.shape[1] // jax.lax.axis_size("tensor")
    return jax.lax.dynamic_slice_in_dim(grad, jax.lax.axis_index("tensor") * size, size, axis=1)


def _matrix_grad(static: _Static, group: _Group, grad: Array) -> Array:
    """The gradient of the matrix, summed over the batch, float32, laid out as the matrix is.

    What travels is in the dtype of the computation, as of other parameters.
    """
    for axis in group.matrix:
        dimension = static.axes.index("embed")
        grad = jax.lax.psum_scatter(grad, axis, scatter_dimension=dimension, tiled=True)
    rest = tuple(axis for axis in group.batch if axis not in group.matrix)
    return _psum(grad, rest).astype(jnp.float32)


def _num_chunks(rows: int, vocab: int, max_logits: int) -> int:
    """The fewest chunks of equal size that are small enough; one row each, if nothing else is."""
    wanted = min(-(-rows * vocab // max_logits), rows)
    return next(n for n in range(max(wanted, 1), rows + 1) if rows % n == 0)


def _over_chunks(
    chunk: Callable[..., ChunkResult],
    columns: Sequence[Array],
    parts: int,
) -> ChunkResult:
    """Statistics and gradient of the states of all rows, and the summed gradient of the matrix."""
    if parts == 1:
        return chunk(*columns)
    pieces = [x.reshape(parts, x.shape[0] // parts, *x.shape[1:]) for x in columns]
    shape = jax.eval_shape(chunk, *(x[0] for x in pieces))[2]
    total = None if shape is None else jnp.zeros(shape.shape, shape.dtype)

    def one(total: Any, piece: Sequence[Array]) -> tuple[Any, tuple]:
        statistics, states_grad, matrix_grad = chunk(*piece)
        total = None if total is None else total + matrix_grad
        return total, (statistics, states_grad)

    total, (statistics, states_grad) = jax.lax.scan(one, total, pieces)
    statistics = TokenStatistics(*(x.reshape(-1) for x in statistics))
    if states_grad is not None:
        states_grad = states_grad.reshape(columns[0].shape)
    return statistics, states_grad, total


def _chunk(
    static: _Static,
    group: _Group,
    wanted: _Wanted,
    matrix: Array,
    states: Float[Array, "rows embed"],
    targets: Int[Array, " rows"],
    weights: Float[Array, " rows"],
) -> ChunkResult:
    equation = "ne,ve->nv" if static.is_embedding else "ne,ev->nv"
    multiply = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    logits = multiply(equation, states, matrix)
    log_z, target_logit, is_target = _log_z_and_target(logits, targets, group.vocab)
    right = _is_first_maximum(logits, targets, target_logit, group.vocab)
    terms, vocab = static.terms, logits.shape[-1] * _size(group.vocab)
    confidence, low = 1.0 - terms.label_smoothing, terms.label_smoothing / (vocab - 1)
    cross_entropy = log_z - target_logit
    if terms.label_smoothing:
        total = _psum(jnp.sum(logits, axis=-1), group.vocab)
        mean_logit = (confidence - low) * target_logit + low * total
        entropy = -(confidence * jnp.log(confidence) + (vocab - 1) * low * jnp.log(low + 1e-20))
        cross_entropy = log_z - mean_logit - entropy
    z_part = terms.z_loss * jnp.square(log_z)
    statistics = TokenStatistics(cross_entropy + z_part, z_part, right.astype(jnp.float32))
    if not wanted.states:
        return statistics, None, None
    probs = jnp.exp(logits - log_z[:, None])
    slope = 1.0 + 2.0 * terms.z_loss * log_z
    grad = probs * slope[:, None] - low - jnp.where(is_target, confidence - low, 0.0)
    grad = (grad * weights[:, None]).astype(static.dtype)
    back = "nv,ve->ne" if static.is_embedding else "nv,ev->ne"
    states_grad = multiply(back, grad, matrix)
    if not wanted.matrix:
        return statistics, states_grad, None
    pair = (grad, states) if static.is_embedding else (states, grad)
    to_matrix = multiply("nv,ne->ve" if static.is_embedding else "ne,nv->ev", *pair)
    return statistics, states_grad, to_matrix


def _log_z_and_target(
    logits: Float[Array, "rows vocab"], targets: Int[Array, " rows"], axes: tuple[str, ...]
) -> tuple[Float[Array, " rows"], Float[Array, " rows"], Bool[Array, "rows vocab"]]:
    """Logsumexp of the logits, the target's logit (0 for an id out of range), and where it is."""
    largest = jnp.max(logits, axis=-1)
    if axes:
        largest = jax.lax.pmax(largest, axes)
    total = _psum(jnp.sum(jnp.exp(logits - largest[:, None]), axis=-1), axes)
    is_target = _columns(logits, axes) == targets[:, None]
    if not axes and mesh_platform() in (None, "cpu"):
        # On CPUs a masked sum writes all that it adds up to memory: 1/20 of a small T5's step.
        at = jnp.take_along_axis(logits, targets[:, None], axis=-1, mode="fill", fill_value=0.0)
        target_logit = at[:, 0]
    else:
        target_logit = _psum(jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1), axes)
    return jnp.log(total) + largest, target_logit, is_target


def _is_first_maximum(
    logits: Float[Array, "rows vocab"],
    targets: Int[Array, " rows"],
    target_logit: Float[Array, " rows"],
    axes: tuple[str, ...],
) -> Bool[Array, " rows"]:
    at_target = target_logit[:, None]
    first = _columns(logits, axes) < targets[:, None]
    beaten = jnp.any((logits > at_target) | (first & (logits == at_target)), axis=-1)
    return _psum(beaten.astype(jnp.float32), axes) == 0.0


def _columns(logits: Float[Array, "rows vocab"], axes: tuple[str, ...]) -> Int[Array, "1 vocab"]:
    """The id of each column."""
    index = jnp.arange(logits.shape[-1])[None]
    return index + jax.lax.axis_index(axes) * logits.shape[-1] if axes else index


def _psum(x: Array, axes: tuple[str, ...]) -> Array:
    return jax.lax.psum(x, axes) if axes else x


def _size(axes: tuple[str, ...]) -> int:
    return jax.lax.axis_size(axes) if axes else 1
