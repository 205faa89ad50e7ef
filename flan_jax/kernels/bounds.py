"""Which blocks of keys each block of queries needs."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flan_jax.kernels.operands import Operands
from flan_jax.kernels.scores import Grid


def key_bounds(grid: Grid, operands: Operands) -> Int[Array, " bounds"]:
    """For each row and query block, the first key block it needs and the one after the last, flat.

    Cautious: needed are blocks whose ranges of segments overlap. In a packed row, whose segments
    follow each other, a query block needs little more than the keys of its own segments.
    """
    query_low, query_high = _ranges(operands.query_codes, grid.block_q)
    key_low, key_high = _ranges(operands.key_codes, grid.block_k)
    needed = (query_low[..., :, None] <= key_high[..., None, :]) & (
        key_low[..., None, :] <= query_high[..., :, None]
    )
    own = needed[:, 0]
    if grid.causal:
        last_query = (np.arange(grid.query_blocks) + 1) * grid.block_q - 1
        first_key = np.arange(grid.key_blocks) * grid.block_k
        own &= first_key[None, :] <= last_query[:, None]
        if grid.prefix:
            own |= needed[:, 1]
    index = np.arange(grid.key_blocks)
    first = jnp.min(jnp.where(own, index, grid.key_blocks), axis=-1)
    after = jnp.max(jnp.where(own, index + 1, 0), axis=-1)
    return jnp.stack([jnp.minimum(first, after), after], axis=-1).astype(jnp.int32).reshape(-1)


def _ranges(
    codes: Float[Array, "batch rows length"], block: int
) -> tuple[Float[Array, "batch rows blocks"], Float[Array, "batch rows blocks"]]:
    """Lowest and highest segment of each block; of one with padding only, an empty range."""
    blocks = codes.reshape(*codes.shape[:2], -1, block)
    real = blocks > 0
    low = jnp.min(jnp.where(real, blocks, jnp.inf), axis=-1)
    return low, jnp.max(jnp.where(real, blocks, -jnp.inf), axis=-1)
