"""The forward kernel of `flash_attention`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from flan_jax.kernels import scores as sc
from flan_jax.kernels.operands import Operands, call

# Rows of ones beneath the transposed values, so that the product with the probabilities gives their
# sums too: a packed tile of 16-bit elements.
ONES = 16


def forward(
    grid: sc.Grid, operands: Operands, bounds: Int[Array, " bounds"], interpret: bool
) -> tuple[Float[Array, "batch queries joined"], Float[Array, "batch columns heads queries"]]:
    """Output, and the base-2 logarithm of each query's sum of exponentials, float32."""
    dtype = operands.value.dtype
    rows_of_head = grid.head_dim + ONES
    scratch = {
        "values": pltpu.VMEM((grid.heads, rows_of_head, grid.keys), dtype),
        "scores": pltpu.VMEM((grid.heads, grid.keys, grid.block_q), jnp.float32),
        "mixed": pltpu.VMEM((grid.heads, rows_of_head, grid.block_q), jnp.float32),
    }
    outputs = {
        "out": (operands.query.shape, dtype, "query"),
        "log_sum": ((grid.batch, grid.columns, grid.heads, grid.queries), jnp.float32, "statistic"),
    }
    out, log_sum = call(
        _kernel,
        grid,
        operands,
        bounds,
        outputs=outputs,
        scratch=scratch,
        products=2,
        interpret=interpret,
        name="flash_attention_forward",
    )
    return out, log_sum


def _kernel(grid: sc.Grid, refs: Any) -> None:
    _, row, _, query_block = sc.grid_point(grid)
    _prepare(grid, refs, row)
    queries = sc.each_head(grid, refs.query[0])
    first, last = sc.loop_bounds(grid, refs, row, query_block)

    def score(block: Any, maxima: tuple[Array, ...]) -> tuple[Array, ...]:
        rows = sc.key_rows(grid, block)
        keys, mask = refs.key[0, rows, :], sc.visible(grid, refs, query_block, block)
        found = []
        for head in range(grid.heads):
            products = sc.product(keys, queries[head], (1, 1))
            scores = sc.masked_scores(grid, refs, (query_block, block), head, products, mask)
            refs.scores[head, rows, :] = scores
            tall = scores.reshape(grid.block_k // sc.SUBLANES, sc.SUBLANES, grid.block_q)
            found.append(jnp.maximum(maxima[head], jnp.max(tall, axis=0)))
        return tuple(found)

    start = jnp.full((sc.SUBLANES, grid.block_q), sc.LOWEST, jnp.float32)
    maxima = jax.lax.fori_loop(first, last, score, (start,) * grid.heads)
    maxima = [jnp.max(maximum, axis=0, keepdims=True) for maximum in maxima]
    refs.mixed[...] = jnp.zeros(refs.mixed.shape, jnp.float32)

    def mix(block: Any, _: int) -> int:
        rows = sc.key_rows(grid, block)
        for head in range(grid.heads):
            powers = jnp.exp2(refs.scores[head, rows, :] - maxima[head]).astype(refs.values.dtype)
            refs.mixed[head] += sc.product(refs.values[head, :, rows], powers, (1, 0))
        return 0

    jax.lax.fori_loop(first, last, mix, 0)
    _write(grid, refs, maxima)


def _prepare(grid: sc.Grid, refs: Any, row: Any) -> None:
    """Transposes the values, once for all query blocks, and lays out biases, once for a column."""
    first_block = pl.program_id(3) == 0

    @pl.when(first_block)
    def _() -> None:
        def prepare(block: Any, _: int) -> int:
            rows = sc.key_rows(grid, block)
            turned = refs.value[0, rows, :].astype(jnp.float32).T
            ones = jnp.ones((ONES, grid.block_k), refs.values.dtype)
            for head in range(grid.heads):
                values = turned[sc.head_rows(grid, head)]
                if grid.weights:
                    values = values * refs.weights[0, 0, head : head + 1, rows]
                refs.values[head, : grid.head_dim, rows] = values.astype(refs.values.dtype)
                refs.values[head, grid.head_dim :, rows] = ones
            return 0

        jax.lax.fori_loop(0, grid.key_blocks, prepare, 0)

    if grid.bias:

        @pl.when(first_block & (row == 0))
        def _() -> None:
            sc.fill_bias_strip(grid, refs.bias, refs.strip)


def _write(grid: sc.Grid, refs: Any, maxima: list[Array]) -> None:
    outputs = []
    for head in range(grid.heads):
        total = refs.mixed[head, grid.head_dim : grid.head_dim + 1]
        some = total > 0
        outputs.append(refs.mixed[head, : grid.head_dim] * jnp.where(some, 1 / total, 0.0))
        # Of a query without keys: so high that its powers in the backward pass are 0.
        log_sum = jnp.where(some, maxima[head] + jnp.log2(total), -sc.LOWEST)
        refs.log_sum[0, 0, head : head + 1, :] = log_sum
    refs.out[0] = jnp.concatenate(outputs, axis=0).T.astype(refs.out.dtype)
