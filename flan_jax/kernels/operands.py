"""Operands of the attention kernels, which part of each a program sees, and the call itself."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from flan_jax.kernels.scores import SUBLANES, Grid

# What a v4 core has; the compiler's own default is the same or less.
VMEM_BYTES = 16 * 2**20


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Operands:
    """What the kernels read; None where there is none.

    `joined` is columns * width: heads side by side, in the layout in which projections produce
    them. Codes are float32 (whole numbers, which it holds exactly, and which transpose on every
    generation); `scores.visible` says what they mean.
    """

    query: Float[Array, "batch queries joined"]
    key: Float[Array, "batch keys key_joined"]
    value: Float[Array, "batch keys key_joined"]
    query_codes: Float[Array, "batch rows queries"]
    key_codes: Float[Array, "batch rows keys"]
    bias: Float[Array, "heads 8 offsets"] | None = None
    weights: Float[Array, "batch columns heads keys"] | None = None
    out: Float[Array, "batch queries joined"] | None = None
    log_sum: Float[Array, "batch columns heads queries"] | None = None
    out_grad: Float[Array, "batch queries joined"] | None = None


# How each operand is blocked; outputs name these too.
_KINDS = {
    "query": "query",
    "key": "key",
    "value": "value",
    "query_codes": "query_codes",
    "key_codes": "key_codes",
    "bias": "bias",
    "weights": "weights",
    "out": "query",
    "log_sum": "statistic",
    "out_grad": "query",
}
# Blocks so rarely changed that a second buffer for the next is not worth its memory.
_RARE = ("bias", "key_grad", "key_part", "bias_part")


def _spec(grid: Grid, kind: str) -> pl.BlockSpec:
    code_rows = 2 if grid.prefix else 1
    heads, keys, offsets = grid.heads, grid.keys, grid.offsets
    blocks: dict[str, tuple[tuple[int, ...], Callable[..., tuple[Any, ...]]]] = {
        "query": ((1, grid.block_q, grid.width), lambda s, r, c, q: (r, q, c)),
        "key": ((1, keys, grid.width), lambda s, r, c, q: (r, 0, grid.key_column(c))),
        "query_codes": ((1, code_rows, grid.block_q), lambda s, r, c, q: (r, 0, q)),
        "key_codes": ((1, code_rows, keys), lambda s, r, c, q: (r, 0, 0)),
        "bias": ((heads, SUBLANES, offsets), lambda s, r, c, q: (c, 0, 0)),
        "weights": ((1, 1, heads, keys), lambda s, r, c, q: (r, c, 0, 0)),
        "statistic": ((1, 1, heads, grid.block_q), lambda s, r, c, q: (r, c, 0, q)),
        "key_part": ((1, 1, grid.width, keys), lambda s, r, c, q: (s, r, grid.key_column(c), 0)),
        "bias_part": ((1, heads, SUBLANES, offsets), lambda s, r, c, q: (s, c, 0, 0)),
    }
    shape, index = blocks["key" if kind in ("value", "key_grad") else kind]
    rare = kind in _RARE
    if kind in ("key", "value"):
        # With weights the values are read once, to be weighted.
        rare = grid.multi_query or (kind == "value" and grid.weights)
    mode = pl.Buffered(1) if rare else None
    return pl.BlockSpec(shape, lambda *ids: index(*grid.place(*ids)), pipeline_mode=mode)


def call(
    kernel: Callable[[Grid, Any], None],
    grid: Grid,
    operands: Operands,
    bounds: Int[Array, " bounds"],
    *,
    outputs: dict[str, tuple[tuple[int, ...], Any, str]],
    scratch: dict[str, Any],
    products: int,
    interpret: bool,
    name: str,
) -> tuple[Array, ...]:
    """Runs a kernel over the grid.

    Args:
      kernel: called with the grid and a namespace of references: `bounds`, the operands that are
        there, the outputs, the scratch and, with a bias, `strip`.
      grid: sizes.
      operands: what it reads.
      bounds: for each batch row and query block the first key block it needs and the one after the
        last, flat.
      outputs: shape, dtype and kind of block of each.
      scratch: memory of a core.
      products: how many matrix products of [queries, keys, head_dim] it makes, for the estimate of
        its cost.
      interpret: run by JAX's interpreter and not on a TPU.
      name: by which the compiler's reports know it.
    """
    given = {
        field.name: getattr(operands, field.name)
        for field in dataclasses.fields(operands)
        if getattr(operands, field.name) is not None
    }
    if grid.bias:
        scratch = scratch | {"strip": pltpu.VMEM(grid.strip, jnp.float32)}
    names = ("bounds", *given, *outputs, *scratch)
    varying = jax.typeof(operands.query).mat  # as all operands do, inside a `shard_map`
    out_shape = [
        jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=varying)
        for shape, dtype, _ in outputs.values()
    ]

    def body(*refs: Any) -> None:
        kernel(grid, SimpleNamespace(**dict(zip(names, refs, strict=True))))

    return pl.pallas_call(
        body,
        out_shape=out_shape,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid.shape,
            in_specs=[_spec(grid, _KINDS[name]) for name in given],
            out_specs=[_spec(grid, kind) for _, _, kind in outputs.values()],
            scratch_shapes=list(scratch.values()),
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=grid.semantics, vmem_limit_bytes=VMEM_BYTES
        ),
        cost_estimate=_cost(grid, [*given.values(), *out_shape], products),
        interpret=interpret,
        name=name,
        metadata={"typical_scalars": ",".join(map(str, unpacked_bounds(grid)))},
    )(bounds, *given.values())


def _cost(grid: Grid, arrays: list[Any], products: int) -> pl.CostEstimate:
    """Work on the blocks that are visited; padding and packing may leave less."""
    pairs = grid.batch * grid.columns * grid.heads * visited_pairs(grid)
    return pl.CostEstimate(
        flops=2 * products * grid.head_dim * pairs,
        transcendentals=pairs,
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
    )


@functools.cache
def visited_pairs(grid: Grid) -> int:
    """Pairs of a query and a key in the blocks that one head visits when no row is packed."""
    return sum(unpacked_bounds(grid)[1::2]) * grid.block_q * grid.block_k


@functools.cache
def unpacked_bounds(grid: Grid) -> tuple[int, ...]:
    """The bounds of each query block of a row with one segment, first and after the last in turn.

    A plan without hardware counts the kernel's loops with them (`flan_jax.plan.kernel_cycles`).
    """
    blocks = [grid.key_blocks] * grid.query_blocks
    if grid.causal and not grid.prefix:
        last_keys = ((block + 1) * grid.block_q for block in range(grid.query_blocks))
        blocks = [min(-(-last // grid.block_k), grid.key_blocks) for last in last_keys]
    return tuple(bound for block in blocks for bound in (0, block))
