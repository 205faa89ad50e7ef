"""Attention by blocks, without the matrix of scores in main memory (Dao et al. 2022,
https://arxiv.org/abs/2205.14135), as T5 and PaLM train with it on TPU.

Unlike kernels that take a bias of [heads, queries, keys], this one takes T5's relative position
bias by offset, lays it out on the chip, and returns its gradient by offset.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from flan_jax.kernels.operands import Operands
from flan_jax.kernels.pieces import backward_in_pieces, forward_in_pieces
from flan_jax.kernels.scores import LANES, LOG2_E, SUBLANES, Grid, bias_rows, fitted_block

# By these names policies of `jax.checkpoint` know what the backward pass needs beside the inputs:
# with both saved the forward kernel does not run again.
OUT, LOG_SUM = "attention_out", "attention_lse"

# Of those that fit a v4 core's memory at 2048 x 2048 with a bias, the fastest in the compiler's
# schedule (benchmarks/attention_kernel.py).
BLOCKS = (256, 512)


def flash_attention(
    query: Float[Array, "batch q heads kv"],
    key: Float[Array, "batch k key_heads kv"],
    value: Float[Array, "batch k key_heads kv"],
    *,
    query_segments: Int[Array, "batch q"],
    key_segments: Int[Array, "batch k"],
    causal: bool = False,
    prefix: Bool[Array, "batch k"] | None = None,
    bias_by_offset: Float[Array, "heads offsets"] | Float[Array, "heads 8 padded"] | None = None,
    key_weights: Float[Array, "batch heads k"] | None = None,
    block_q: int = BLOCKS[0],
    block_k: int = BLOCKS[1],
    interpret: bool = False,
) -> Float[Array, "batch q heads kv"]:
    """softmax(query · key + bias) · value over the keys each query may attend.

    Products are summed in float32 and the softmax is float32; its probabilities are rounded to the
    value's dtype for the second product. There is no 1 / sqrt(kv): callers scale. Gradients flow to
    query, key, value and bias_by_offset. Blocks of keys that no query of a block may attend are
    skipped: those after the queries (causal), and those of other segments of a packed row.

    A query without keys (padding) gets 0 and gives no gradient, where plain attention gives it the
    mean of all values; losses use neither.

    Args:
      query, key, value: of one dtype. key_heads is `heads` or 1 (multi-query attention).
      query_segments, key_segments: a query attends keys of its own segment; 0 is padding.
      causal: keys after the query are not attended. Needs q = k.
      prefix: with causal, positions that also see later ones of the prefix of their segment.
      bias_by_offset: added to the scores, by key - query from -(q - 1) to k - 1: q + k - 1 offsets;
        or what `laid_out_bias` makes of these, once for all layers that share them.
      key_weights: multiply the probabilities after the softmax (dropout whose mask all queries
        share, as in T5X); no gradient flows to them.
      block_q, block_k: queries and keys of a tile, multiples of 128; made smaller for short
        lengths. Lengths are padded to multiples of the tile.
      interpret: run by Pallas's interpreter, on any platform. Nothing here asks which platform
        there is: ahead-of-time compilation for TPUs runs on hosts without.

    Raises:
      ValueError: for shapes or dtypes that do not fit each other.
    """
    _check(query, key, value, causal, prefix, (block_q, block_k))
    _check_shapes(
        query.shape,
        key.shape[1],
        query_segments=query_segments,
        key_segments=key_segments,
        prefix=prefix,
        key_weights=key_weights,
        **({"laid_out_bias" if _is_laid_out(bias_by_offset) else "bias_by_offset": bias_by_offset}),
    )
    batch, q, heads, kv = query.shape
    k = key.shape[1]
    if bias_by_offset is not None and key.shape[2] == 1:
        key, value = (jnp.broadcast_to(x, (batch, k, heads, kv)) for x in (key, value))
    grid = kernel_grid(
        query.shape,
        (k, key.shape[2]),
        causal=causal,
        prefix=prefix is not None,
        bias=bias_by_offset is not None,
        weights=key_weights is not None,
        blocks=(block_q, block_k),
    )
    operands = Operands(
        query=_joined(grid, query, grid.queries),
        key=_joined(grid, key, grid.keys),
        value=_joined(grid, value, grid.keys),
        query_codes=_codes(query_segments, prefix, grid.queries, nothing=-1),
        key_codes=_codes(key_segments, prefix, grid.keys, nothing=0),
        bias=None if bias_by_offset is None else _bias(grid, bias_by_offset, q, k),
        weights=None if key_weights is None else _weights(grid, key_weights),
    )
    out: Array = _attend(grid, interpret, _alike(operands))
    out = out.reshape(batch, grid.queries, grid.columns * grid.heads, grid.head_dim)
    return out[:, :q, :heads, :kv]


def _check(
    query: Array,
    key: Array,
    value: Array,
    causal: bool,
    prefix: Array | None,
    blocks: tuple[int, int],
) -> None:
    batch, q, heads, kv = query.shape
    k = key.shape[1]
    if key.shape != value.shape or key.shape not in ((batch, k, heads, kv), (batch, k, 1, kv)):
        raise ValueError(
            f"key {key.shape} and value {value.shape} must be of one shape, [batch, k, heads, kv]"
            f" or [batch, k, 1, kv] with the batch, heads and kv of the query {query.shape}."
        )
    if not query.dtype == key.dtype == value.dtype:
        dtypes = (query.dtype.name, key.dtype.name, value.dtype.name)
        raise ValueError(f"query, key and value must be of one dtype, found {dtypes}.")
    if causal and q != k:
        raise ValueError(f"causal attention needs as many queries as keys, found {q} and {k}.")
    if prefix is not None and not causal:
        raise ValueError("a prefix says where causal attention looks ahead: it needs causal=True.")
    if any(size <= 0 or size % LANES for size in blocks):
        raise ValueError(f"block_q and block_k must be multiples of {LANES}, found {blocks}.")


def _check_shapes(shape: tuple[int, ...], k: int, **given: Array | None) -> None:
    batch, q, heads, _ = shape
    expected = {
        "query_segments": ("[batch, q]", (batch, q)),
        "key_segments": ("[batch, k]", (batch, k)),
        "prefix": ("[batch, k]", (batch, k)),
        "bias_by_offset": ("[heads, q + k - 1]", (heads, q + k - 1)),
        "laid_out_bias": ("[heads, 8, padded q + k]", (heads, SUBLANES, padded(q) + padded(k))),
        "key_weights": ("[batch, heads, k]", (batch, heads, k)),
    }
    for name, x in given.items():
        meaning, wanted = expected[name]
        if x is not None and x.shape != wanted:
            raise ValueError(f"{name} must be {meaning} = {wanted}, found {x.shape}.")


def kernel_grid(
    query: tuple[int, ...],
    keys: tuple[int, int],
    *,
    causal: bool = False,
    prefix: bool = False,
    bias: bool = False,
    weights: bool = False,
    blocks: tuple[int, int] = BLOCKS,
) -> Grid:
    """The grid of a call.

    Args:
      query: [batch, q, heads, kv] of the queries.
      keys: length and heads of the keys.
      causal, prefix, bias, weights: what there is.
      blocks: block_q, block_k.
    """
    batch, q, heads, kv = query
    length, key_heads = keys
    queries, padded_keys = padded(q), padded(length)
    block_q, block_k = fitted_block(queries, blocks[0]), fitted_block(padded_keys, blocks[1])
    head_dim = _padded_head_dim(kv)
    together = 1 if head_dim >= LANES else min(LANES // head_dim, heads)
    columns = -(-heads // together)
    multi_query = key_heads == 1 and columns > 1 and not bias
    # Where the columns cannot be divided over a chip's two cores, query blocks are.
    splits = 2 if (multi_query or columns % 2) and (queries // block_q) % 2 == 0 else 1
    return Grid(
        batch=batch,
        queries=queries,
        keys=padded_keys,
        columns=columns,
        heads=together,
        head_dim=head_dim,
        multi_query=multi_query,
        block_q=block_q,
        block_k=block_k,
        causal=causal,
        prefix=prefix,
        bias=bias,
        weights=weights,
        splits=splits,
    )


def _padded_head_dim(kv: int) -> int:
    if kv >= LANES:
        return -(-kv // LANES) * LANES
    return max(16, 1 << (kv - 1).bit_length())


def _joined(
    grid: Grid, x: Float[Array, "batch length heads kv"], length: int
) -> Float[Array, "batch padded joined"]:
    """Heads side by side, padded; one head of keys is repeated for each of a column block."""
    batch, short, heads, kv = x.shape
    wanted = grid.columns * grid.heads
    if heads == 1 and wanted > 1:
        heads = grid.heads if grid.multi_query else wanted
        x, wanted = jnp.broadcast_to(x, (batch, short, heads, kv)), heads
    padding = ((0, 0), (0, length - short), (0, wanted - heads), (0, grid.head_dim - kv))
    if any(after for _, after in padding):
        x = jnp.pad(x, padding)
    return x.reshape(batch, length, wanted * grid.head_dim)


def _codes(
    segments: Int[Array, "batch length"],
    prefix: Bool[Array, "batch length"] | None,
    length: int,
    *,
    nothing: int,
) -> Float[Array, "batch rows padded"]:
    """Segments so coded that padding equals nothing: see `scores.visible`."""
    found = [segments] if prefix is None else [segments, jnp.where(prefix, segments, 0)]
    padded = [jnp.pad(row, ((0, 0), (0, length - row.shape[1]))) for row in found]
    codes = jnp.stack(padded, axis=1)
    return jnp.where(codes == 0, nothing, codes).astype(jnp.float32)


def laid_out_bias(
    by_offset: Float[Array, "heads offsets"], q: int, k: int
) -> Float[Array, "heads 8 padded"]:
    """A bias by offset as the kernels read it, which takes a while: once for many calls.

    Args:
      by_offset: from -(q - 1) to k - 1.
      q, k: numbers of queries and of keys.
    """
    padding = ((0, 0), (padded(q) - q, padded(k) - k + 1))
    return bias_rows(jnp.pad(by_offset.astype(jnp.float32), padding))


def padded(length: int) -> int:
    """A length that is a multiple of the lanes of a vector register."""
    return -(-length // LANES) * LANES


def _is_laid_out(bias: Array | None) -> bool:
    return bias is not None and bias.ndim == 3


def _bias(grid: Grid, bias: Array, q: int, k: int) -> Float[Array, "padded_heads 8 padded_offsets"]:
    rows = bias if _is_laid_out(bias) else laid_out_bias(bias, q, k)
    heads = grid.columns * grid.heads - rows.shape[0]
    return jnp.pad(rows, ((0, heads), (0, 0), (0, 0))) if heads else rows


def _weights(
    grid: Grid, weights: Float[Array, "batch heads k"]
) -> Float[Array, "batch columns column_heads keys"]:
    batch, heads, keys = weights.shape
    padding = ((0, 0), (0, grid.columns * grid.heads - heads), (0, grid.keys - keys))
    shape = (batch, grid.columns, grid.heads, grid.keys)
    return jnp.pad(weights.astype(jnp.float32), padding).reshape(shape)


def _alike(operands: Operands) -> Operands:
    """Operands that, inside a `shard_map`, vary over the same mesh axes.

    The transpose of the cast sums the gradient of what does not vary (the bias) over the others.
    """
    leaves = jax.tree.leaves(operands)
    varying = frozenset().union(*(jax.typeof(x).mat.varying for x in leaves))

    def cast(x: Array) -> Array:
        missing = tuple(sorted(varying - jax.typeof(x).mat.varying))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(grid: Grid, interpret: bool, operands: Operands) -> Array:
    return _attend_forward(grid, interpret, operands)[0]


def _attend_forward(grid: Grid, interpret: bool, operands: Operands) -> tuple[Array, Operands]:
    operands = _base_2(operands)
    out, log_sum = forward_in_pieces(grid, operands, interpret)
    out, log_sum = checkpoint_name(out, OUT), checkpoint_name(log_sum, LOG_SUM)
    return out, dataclasses.replace(operands, out=out, log_sum=log_sum)


def _base_2(operands: Operands) -> Operands:
    if operands.bias is None:
        return operands
    return dataclasses.replace(operands, bias=operands.bias * LOG2_E)


def _attend_backward(
    grid: Grid, interpret: bool, kept: Operands, out_grad: Array
) -> tuple[Operands]:
    operands = dataclasses.replace(kept, out_grad=out_grad)
    found: dict[str, Any] = backward_in_pieces(grid, operands, interpret)
    for name in ("query_codes", "key_codes", "weights"):
        x = getattr(operands, name)
        found[name] = None if x is None else jnp.zeros_like(x)
    return (Operands(**found),)


_attend.defvjp(_attend_forward, _attend_backward)
