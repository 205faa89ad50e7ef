"""What the forward and the backward kernel share: the grid, and scores of a tile of (key, query).

Tiles are transposed, [keys, queries]: statistics of a query (maximum, sum, segment) are then rows
that lie along the 128 lanes and broadcast over sublanes at no cost, and the maximum over keys is
taken vector by vector.

Heads narrower than the 128 lanes share a column block: a block holds `heads` of them, side by side.
A product over all lanes with a query whose other heads are zeroed is that head's product, at no
cost, since the matrix unit is 128 deep whatever is asked of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float

LANES = 128
SUBLANES = 8
LOG2_E = math.log2(math.e)  # the hardware's exponential is to base 2, and so are our statistics
MASKED = -1e10
# Where the maximum of a row starts: a masked score less this is -9e9, whose power of 2 is 0, so a
# query that sees no key sums to 0 (and not to the number of keys).
LOWEST = -1e9


def fitted_block(length: int, block: int) -> int:
    """The largest multiple of 128 that is not above `block` and divides `length`, one itself."""
    return max(size for size in range(LANES, block + 1, LANES) if length % size == 0)


@dataclass(frozen=True)
class Grid:
    """Static sizes of one kernel call.

    Attributes:
      batch, queries, keys: sizes; lengths are multiples of the blocks.
      columns: column blocks of the queries.
      heads, head_dim: of a column block.
      multi_query: one column block of keys and values serves all those of the queries.
      block_q: queries of a program.
      block_k: keys of an iteration of its loop.
      causal, prefix, bias, weights: what there is.
      splits: parts of the query blocks that run on different cores, with a sum of their own of what
        is summed over queries.
    """

    batch: int
    queries: int
    keys: int
    columns: int
    heads: int
    head_dim: int
    multi_query: bool
    block_q: int
    block_k: int
    causal: bool
    prefix: bool
    bias: bool
    weights: bool
    splits: int

    @property
    def width(self) -> int:
        """Lanes of a column block."""
        return self.heads * self.head_dim

    @property
    def query_blocks(self) -> int:
        return self.queries // self.block_q

    @property
    def key_blocks(self) -> int:
        return self.keys // self.block_k

    @property
    def in_parts(self) -> bool:
        """Whether gradients of keys and values are summed where they are written: float32 parts.

        Not so where every column has its own keys: there the sum is kept on the chip, and what is
        written is rounded and in the layout of the keys.
        """
        return self.multi_query or self.splits > 1

    @property
    def offsets(self) -> int:
        """Lanes of a row of biases by offset (one is unused)."""
        return self.queries + self.keys

    @property
    def strip(self) -> tuple[int, int, int]:
        """Shape of the biases of a column block: see `fill_bias_strip`."""
        return (self.heads, self.offsets - LANES, LANES)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the grid: batch and columns change places so that what is summed stays put."""
        outer = (self.batch, self.columns) if self.multi_query else (self.columns, self.batch)
        return (self.splits, *outer, self.query_blocks // self.splits)

    @property
    def semantics(self) -> tuple[Literal["parallel", "arbitrary"], ...]:
        """The one dimension that is divided over the two cores of a chip that has them."""
        if self.splits > 1:
            return ("parallel", "arbitrary", "arbitrary", "arbitrary")
        return ("arbitrary", "parallel", "arbitrary", "arbitrary")

    def place(self, *ids: Any) -> tuple[Any, Any, Any, Any]:
        """(split, batch row, column block, query block) of a grid point."""
        split, first, second, block = ids[:4]
        row, column = (first, second) if self.multi_query else (second, first)
        return split, row, column, block * self.splits + split

    def key_column(self, column: Any) -> Any:
        return 0 if self.multi_query else column


def grid_point(grid: Grid) -> tuple[Any, Any, Any, Any]:
    """Inside a kernel: (split, batch row, column block, query block) of this program."""
    return grid.place(*(pl.program_id(axis) for axis in range(4)))


def loop_bounds(grid: Grid, refs: Any, row: Any, query_block: Any) -> tuple[Any, Any]:
    """The first key block that a query block needs, and the one after the last."""
    place = 2 * (row * grid.query_blocks + query_block)
    return refs.bounds[place], refs.bounds[place + 1]


def head_rows(grid: Grid, head: int) -> slice:
    """Rows of a head in a transposed column block."""
    return slice(head * grid.head_dim, (head + 1) * grid.head_dim)


def each_head(
    grid: Grid, block: Float[Array, "length width"]
) -> list[Float[Array, "length width"]]:
    """The block once for each head, all other heads zeroed."""
    if grid.heads == 1:
        return [block]
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, grid.width), 1)
    wide = block.astype(jnp.float32)  # v4 selects 32-bit elements only
    ranges = [head_rows(grid, head) for head in range(grid.heads)]
    return [
        jnp.where((lane >= rows.start) & (lane < rows.stop), wide, 0.0).astype(block.dtype)
        for rows in ranges
    ]


def transposed(x: Float[Array, "rows columns"]) -> Float[Array, "columns rows"]:
    """The transpose, by way of float32, which every generation can do."""
    return x.astype(jnp.float32).T.astype(x.dtype)


def product(
    x: Float[Array, "_ _"], y: Float[Array, "_ _"], contract: tuple[int, int]
) -> Float[Array, "rows columns"]:
    """Matrix product over dimension contract[0] of x and contract[1] of y, summed in float32."""
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)


def key_rows(grid: Grid, block: Any) -> Any:
    """The slice of keys of a block."""
    return pl.ds(pl.multiple_of(block * grid.block_k, grid.block_k), grid.block_k)


def visible(
    grid: Grid, refs: Any, query_block: Any, key_block: Any
) -> Bool[Array, "block_k block_q"]:
    """Which keys of a block each query may attend.

    `refs.query_codes` has the segment of each query, or -1 for padding; `refs.key_codes` that of
    each key, or 0. With a prefix there are second rows, of which only elements in a prefix are such
    that they can be equal.
    """
    rows = key_rows(grid, key_block)

    def along_sublanes(row: int) -> Array:
        codes = jnp.broadcast_to(refs.key_codes[0, row : row + 1, rows], (LANES, grid.block_k))
        return jnp.tile(codes.T, (1, grid.block_q // LANES))

    mask = along_sublanes(0) == refs.query_codes[0, 0:1, :]
    if grid.causal:
        shape = (grid.block_k, grid.block_q)
        ahead = jax.lax.broadcasted_iota(jnp.int32, shape, 0) - jax.lax.broadcasted_iota(
            jnp.int32, shape, 1
        )
        mask &= ahead <= query_block * grid.block_q - key_block * grid.block_k
        if grid.prefix:
            mask |= along_sublanes(1) == refs.query_codes[0, 1:2, :]
    return mask


def strip_rows(grid: Grid, query_block: Any, key_block: Any, tile: int) -> Any:
    """Where in a strip the biases of a block of keys and of 128 queries (`tile`) of a block are."""
    first_query = query_block * grid.block_q + tile * LANES
    start = key_block * grid.block_k - first_query + grid.queries - LANES
    return pl.ds(pl.multiple_of(start, LANES), grid.block_k)


def masked_scores(
    grid: Grid,
    refs: Any,
    place: tuple[Any, Any],
    head: int,
    products: Float[Array, "block_k block_q"],
    mask: Bool[Array, "block_k block_q"],
) -> Float[Array, "block_k block_q"]:
    """Products of keys and queries to scores in units of log 2, with the bias, masked."""
    scores = products * LOG2_E
    if grid.bias:
        tiles = range(grid.block_q // LANES)
        scores += jnp.concatenate(
            [refs.strip[head, strip_rows(grid, *place, tile), :] for tile in tiles], axis=1
        )
    return jnp.where(mask, scores, MASKED)


def fill_bias_strip(grid: Grid, rows: Any, strip: Any) -> None:
    """Lays out biases by offset so that those of a tile of 128 queries are a slice of rows.

    strip[h, r, j] is the bias of offset (key - query) r - j - (queries - 128): with the tile's
    first query q, rows from k - q + queries - 128 on are those of keys from k on.

    Args:
      grid: sizes.
      rows: [heads, 8, offsets] reference made by `bias_rows`.
      strip: reference to be filled, `grid.strip`.
    """
    for head in range(grid.heads):

        def fill(tile: Any, _: int, head: int = head) -> int:
            window = rows[head, :, _window(grid, tile)]
            for group in range(LANES // SUBLANES):
                start = LANES - SUBLANES * group
                here = pl.ds(pl.multiple_of(tile * LANES + SUBLANES * group, SUBLANES), SUBLANES)
                strip[head, here, :] = window[:, start : start + LANES]
            return 0

        jax.lax.fori_loop(0, grid.offsets // LANES - 1, fill, 0)


def clear_bias_strip(grid: Grid, strip: Any) -> None:
    """Zeros."""
    for head in range(grid.heads):

        def clear(tile: Any, _: int, head: int = head) -> int:
            here = pl.ds(pl.multiple_of(tile * LANES, LANES), LANES)
            strip[head, here, :] = jnp.zeros((LANES, LANES), jnp.float32)
            return 0

        jax.lax.fori_loop(0, grid.offsets // LANES - 1, clear, 0)


def _window(grid: Grid, tile: Any) -> Any:
    start = grid.offsets - 2 * LANES - tile * LANES
    return pl.ds(pl.multiple_of(start, LANES), 2 * LANES)


def sum_bias_strip(grid: Grid, strip: Any, rows: Any, roll: Any) -> None:
    """The transpose of `fill_bias_strip`: sums of a strip's elements by offset."""
    rows[...] = jnp.zeros(rows.shape, rows.dtype)
    for head in range(grid.heads):

        def add(tile: Any, _: int, head: int = head) -> int:
            total = jnp.zeros((SUBLANES, 2 * LANES), jnp.float32)
            for group in range(LANES // SUBLANES):
                here = pl.ds(pl.multiple_of(tile * LANES + SUBLANES * group, SUBLANES), SUBLANES)
                part = strip[head, here, :]
                wide = jnp.concatenate([part, jnp.zeros_like(part)], axis=1)
                total += roll(wide, LANES - SUBLANES * group, 1)
            rows[head, :, _window(grid, tile)] += total
            return 0

        jax.lax.fori_loop(0, grid.offsets // LANES - 1, add, 0)


def bias_rows(
    bias_by_offset: Float[Array, "heads offsets"],
) -> Float[Array, "heads 8 offsets"]:
    """Biases in falling order of offset, once for each of 8 sublanes and shifted by its index.

    A sublane's shift is what the hardware cannot do cheaply; lanes of whole vectors it can rotate.
    """
    falling = jnp.flip(bias_by_offset.astype(jnp.float32), axis=1)
    size = falling.shape[1]
    shifted = [jnp.pad(falling, ((0, 0), (by, 0)))[:, :size] for by in range(SUBLANES)]
    return jnp.stack(shifted, axis=1)
