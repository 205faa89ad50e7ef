"""The backward kernel of `flash_attention`: all gradients in one pass over the scores."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Int

from flan_jax.kernels import scores as sc
from flan_jax.kernels.operands import Operands, call


def backward(
    grid: sc.Grid, operands: Operands, bounds: Int[Array, " bounds"], interpret: bool
) -> dict[str, Array]:
    """Gradients "query", "key", "value" and, with a bias, "bias" (as `bias_rows`, float32)."""
    dtype = operands.query.dtype
    scratch = {
        "turned_key": pltpu.VMEM((grid.width, grid.keys), dtype),
        "query_sum": pltpu.VMEM((grid.width, grid.block_q), jnp.float32),
    }
    if grid.weights:
        scratch["weighted_value"] = pltpu.VMEM((grid.keys, grid.width), dtype)
    outputs: dict[str, Any] = {"query_grad": (operands.query.shape, dtype, "query")}
    if grid.in_parts:
        batch, keys, joined = operands.key.shape
        part = ((grid.splits, batch, joined, keys), jnp.float32, "key_part")
        outputs |= {"key_sum": part, "value_sum": part}
    else:
        total = pltpu.VMEM((grid.width, grid.keys), jnp.float32)
        scratch |= {"key_sum": total, "value_sum": total}
        gradient = (operands.key.shape, dtype, "key_grad")
        outputs |= {"key_grad": gradient, "value_grad": gradient}
    if grid.bias:
        scratch["strip_grad"] = pltpu.VMEM(grid.strip, jnp.float32)
        heads = grid.columns * grid.heads
        shape = (grid.splits, heads, sc.SUBLANES, grid.offsets)
        outputs["bias_grad"] = (shape, jnp.float32, "bias_part")
    found = call(
        _kernel,
        grid,
        operands,
        bounds,
        outputs=outputs,
        scratch=scratch,
        products=5,
        interpret=interpret,
        name="flash_attention_backward",
    )
    gradients = {}
    for output, gradient in zip(outputs, found, strict=True):
        name, kind = output.split("_")
        if kind == "sum":
            gradient = jnp.sum(gradient, axis=0).swapaxes(1, 2).astype(dtype)
        gradients[name] = jnp.sum(gradient, axis=0) if name == "bias" else gradient
    return gradients


def _kernel(grid: sc.Grid, refs: Any) -> None:
    _, row, column, query_block = sc.grid_point(grid)
    _prepare(grid, refs, row, column)
    query, out_grad = refs.query[0], refs.out_grad[0]
    turned_query, turned_grad = sc.transposed(query), sc.transposed(out_grad)
    # Sums over a head's elements: transposed, they are rows.
    agreement = (refs.out[0].astype(jnp.float32) * out_grad.astype(jnp.float32)).T
    queries, out_grads = sc.each_head(grid, query), sc.each_head(grid, out_grad)
    refs.query_sum[...] = jnp.zeros(refs.query_sum.shape, jnp.float32)
    values = refs.weighted_value if grid.weights else refs.value.at[0]
    key_sum, value_sum = _sums(grid, refs)

    def step(block: Any, _: int) -> int:
        rows = sc.key_rows(grid, block)
        keys, mask = refs.key[0, rows, :], sc.visible(grid, refs, query_block, block)
        value = values[rows, :]
        for head in range(grid.heads):
            mine = sc.head_rows(grid, head)
            products = sc.product(keys, queries[head], (1, 1))
            scores = sc.masked_scores(grid, refs, (query_block, block), head, products, mask)
            probs = jnp.exp2(scores - refs.log_sum[0, 0, head : head + 1, :])
            delta = jnp.sum(agreement[mine], axis=0, keepdims=True)
            grad = probs * (sc.product(value, out_grads[head], (1, 1)) - delta)
            if grid.bias:
                _add_to_strip(grid, refs, (query_block, block), head, grad)
            probs, grad = probs.astype(query.dtype), grad.astype(query.dtype)
            value_grad = sc.product(turned_grad[mine], probs, (1, 1))
            if grid.weights:
                value_grad *= refs.weights[0, 0, head : head + 1, rows]
            value_sum[mine, rows] += value_grad
            key_sum[mine, rows] += sc.product(turned_query[mine], grad, (1, 1))
            refs.query_sum[mine, :] += sc.product(refs.turned_key[mine, rows], grad, (1, 0))
        return 0

    first, last = sc.loop_bounds(grid, refs, row, query_block)
    jax.lax.fori_loop(first, last, step, 0)
    refs.query_grad[0] = refs.query_sum[...].T.astype(refs.query_grad.dtype)
    _write(grid, refs, row)


def _add_to_strip(grid: sc.Grid, refs: Any, place: tuple[Any, Any], head: int, grad: Array) -> None:
    for tile in range(grid.block_q // sc.LANES):
        columns = slice(tile * sc.LANES, (tile + 1) * sc.LANES)
        refs.strip_grad[head, sc.strip_rows(grid, *place, tile), :] += grad[:, columns]


def _sums(grid: sc.Grid, refs: Any) -> tuple[Any, Any]:
    """Where gradients of keys and values are summed, transposed: [width, keys]."""
    if grid.in_parts:
        return refs.key_sum.at[0, 0], refs.value_sum.at[0, 0]
    return refs.key_sum, refs.value_sum


def _prepare(grid: sc.Grid, refs: Any, row: Any, column: Any) -> None:
    first_block = pl.program_id(3) == 0

    @pl.when(first_block)
    def _() -> None:
        def prepare(block: Any, _: int) -> int:
            rows = sc.key_rows(grid, block)
            refs.turned_key[:, rows] = sc.transposed(refs.key[0, rows, :])
            if grid.weights:
                turned = refs.value[0, rows, :].astype(jnp.float32).T
                weighted = [
                    turned[sc.head_rows(grid, head)] * refs.weights[0, 0, head : head + 1, rows]
                    for head in range(grid.heads)
                ]
                value = jnp.concatenate(weighted, axis=0).T
                refs.weighted_value[rows, :] = value.astype(refs.weighted_value.dtype)
            return 0

        jax.lax.fori_loop(0, grid.key_blocks, prepare, 0)

    @pl.when(first_block & ((column == 0) | (not grid.multi_query)))
    def _() -> None:
        for total in _sums(grid, refs):
            total[...] = jnp.zeros(total.shape, jnp.float32)

    if grid.bias:

        @pl.when(first_block & (row == 0))
        def _() -> None:
            sc.fill_bias_strip(grid, refs.bias, refs.strip)
            sc.clear_bias_strip(grid, refs.strip_grad)


def _write(grid: sc.Grid, refs: Any, row: Any) -> None:
    last_block = pl.program_id(3) == grid.shape[3] - 1

    if not grid.in_parts:

        @pl.when(last_block)
        def _() -> None:
            def write(block: Any, _: int) -> int:
                rows = sc.key_rows(grid, block)
                refs.key_grad[0, rows, :] = refs.key_sum[:, rows].T.astype(refs.key_grad.dtype)
                grad = refs.value_sum[:, rows].T.astype(refs.value_grad.dtype)
                refs.value_grad[0, rows, :] = grad
                return 0

            jax.lax.fori_loop(0, grid.key_blocks, write, 0)

    if grid.bias:

        @pl.when(last_block & (row == grid.batch - 1))
        def _() -> None:
            sc.sum_bias_strip(grid, refs.strip_grad, refs.bias_grad.at[0], pltpu.roll)
