"""Attention over lengths that one kernel call cannot hold on the chip, in pieces.

Each piece is a call on a part of the queries and a part of the keys. Outputs of the parts of the
keys are means under their own softmax; they are put together by the sums of exponentials (Dao et
al. 2022, section 3.1). Gradients, given the sums over all keys, simply add up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from flan_jax.kernels.backward import backward
from flan_jax.kernels.bounds import key_bounds
from flan_jax.kernels.forward import forward
from flan_jax.kernels.operands import Operands
from flan_jax.kernels.scores import LANES, LOWEST, Grid, fitted_block

# Keys a call can hold, of 16-bit operands, by what is known to compile within a v4 core's memory:
# with a bias the queries too, as it is laid out for both.
_KEYS = {True: 2048, False: 4096}
_WIDE_KEYS = 2560  # of column blocks of more than 128 lanes


@dataclass(frozen=True)
class Piece:
    """A part of the queries and of the keys, and the grid of its kernel call."""

    queries: slice
    keys: slice
    grid: Grid
    prefix_only: bool


def pieces(grid: Grid, itemsize: int) -> list[list[Piece]]:
    """Pieces by part of the queries; a single one where a call can hold everything."""
    longest = _KEYS[grid.bias] if grid.width <= LANES else _WIDE_KEYS * 2 * LANES // grid.width
    longest = max(longest * 2 // itemsize // LANES, 1) * LANES
    key_parts = _parts(grid.keys, longest)
    whole = [slice(0, grid.queries)]
    query_parts = _parts(grid.queries, longest) if grid.bias or grid.causal else whole
    if len(key_parts) == 1 and not grid.bias:
        query_parts = whole
    return [list(_row(grid, queries, key_parts)) for queries in query_parts]


def _parts(length: int, longest: int) -> list[slice]:
    count = -(-length // longest)
    size = -(-length // (count * LANES)) * LANES
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _row(grid: Grid, queries: slice, key_parts: list[slice]) -> Iterator[Piece]:
    for keys in key_parts:
        ahead, diagonal = keys.start > queries.start, keys.start == queries.start
        if grid.causal and ahead and not grid.prefix:
            continue
        blocks = (queries.stop - queries.start) // (block_q := _block(queries, grid.block_q))
        piece = dataclasses.replace(
            grid,
            queries=queries.stop - queries.start,
            keys=keys.stop - keys.start,
            block_q=block_q,
            block_k=_block(keys, grid.block_k),
            causal=grid.causal and diagonal,
            prefix=grid.prefix and diagonal,
            splits=grid.splits if blocks % grid.splits == 0 else 1,
        )
        yield Piece(queries, keys, piece, prefix_only=grid.prefix and ahead)


def _block(part: slice, block: int) -> int:
    return fitted_block(part.stop - part.start, block)


def _cut(grid: Grid, operands: Operands, piece: Piece) -> Operands:
    """The operands of a piece."""
    if (piece.grid.queries, piece.grid.keys) == (grid.queries, grid.keys):
        return operands
    rows = slice(1, 2) if piece.prefix_only else slice(0, 2 if piece.grid.prefix else 1)
    along = {
        "query": (slice(None), piece.queries),
        "key": (slice(None), piece.keys),
        "value": (slice(None), piece.keys),
        "query_codes": (slice(None), rows, piece.queries),
        "key_codes": (slice(None), rows, piece.keys),
        "bias": (slice(None), slice(None), _bias_lanes(grid, piece)),
        "weights": (..., piece.keys),
        "out": (slice(None), piece.queries),
        "log_sum": (..., piece.queries),
        "out_grad": (slice(None), piece.queries),
    }
    given = {name: getattr(operands, name) for name in along}
    parts: dict[str, Any] = {n: None if x is None else x[along[n]] for n, x in given.items()}
    return Operands(**parts)


def _bias_lanes(grid: Grid, piece: Piece) -> slice:
    """The lanes of `bias_rows` with the offsets of a piece: they fall from lane to lane."""
    lowest = piece.keys.start - piece.queries.stop + grid.queries
    stop = grid.offsets - lowest
    return slice(stop - piece.grid.offsets, stop)


def forward_in_pieces(
    grid: Grid, operands: Operands, interpret: bool
) -> tuple[Float[Array, "batch queries joined"], Float[Array, "batch columns heads queries"]]:
    """`forward` for any length."""
    found = []
    for row in pieces(grid, operands.query.dtype.itemsize):
        parts = []
        for piece in row:
            part = _cut(grid, operands, piece)
            parts.append(forward(piece.grid, part, key_bounds(piece.grid, part), interpret))
        found.append(parts[0] if len(parts) == 1 else _together(grid, parts))
    if len(found) == 1:
        return found[0]
    outs, log_sums = zip(*found, strict=True)
    return jnp.concatenate(outs, axis=1), jnp.concatenate(log_sums, axis=-1)


def _together(grid: Grid, parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    log_sums = jnp.stack([log_sum for _, log_sum in parts])
    some = log_sums < -LOWEST  # the mark of a query without keys
    highest = jnp.max(jnp.where(some, log_sums, LOWEST), axis=0)
    shares = jnp.where(some, jnp.exp2(log_sums - highest), 0.0)
    total = jnp.sum(shares, axis=0)
    shares = shares / jnp.maximum(total, 1e-30)

    def per_element(share: Array) -> Array:  # [batch, columns, heads, q] -> [batch, q, joined]
        batch, columns, heads, queries = share.shape
        share = share.transpose(0, 3, 1, 2).reshape(batch, queries, columns * heads)
        return jnp.repeat(share, grid.head_dim, axis=-1)

    weighed = [out * per_element(share) for (out, _), share in zip(parts, shares, strict=True)]
    out = sum(weighed[1:], weighed[0]).astype(parts[0][0].dtype)
    return out, jnp.where(total > 0, highest + jnp.log2(jnp.maximum(total, 1e-30)), -LOWEST)


def backward_in_pieces(grid: Grid, operands: Operands, interpret: bool) -> dict[str, Array]:
    """`backward` for any length."""
    rows = pieces(grid, operands.query.dtype.itemsize)
    if len(rows) == 1 and len(rows[0]) == 1 and rows[0][0].grid.keys == grid.keys:
        return backward(grid, operands, key_bounds(grid, operands), interpret)
    totals: dict[str, Any] = {
        name: jnp.zeros_like(getattr(operands, name), jnp.float32)
        for name in ("query", "key", "value", *(["bias"] if grid.bias else []))
    }
    for piece in (piece for row in rows for piece in row):
        part = _cut(grid, operands, piece)
        places = {
            "query": (slice(None), piece.queries),
            "key": (slice(None), piece.keys),
            "value": (slice(None), piece.keys),
            "bias": (..., _bias_lanes(grid, piece)),
        }
        found = backward(piece.grid, part, key_bounds(piece.grid, part), interpret)
        for name, gradient in found.items():
            totals[name] = totals[name].at[places[name]].add(gradient.astype(jnp.float32))
    return {n: x if n == "bias" else x.astype(operands.query.dtype) for n, x in totals.items()}
