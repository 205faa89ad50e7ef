"""Which row lengths suit a mixture: how full rows become, and a recommended pair of lengths.

Two pairs of lengths matter. Examples are *trimmed* to one; rows *have* the other, which is at least
as long. A row of exactly the trimmed length is shut by each example whose targets fill it, however
empty its inputs are: a little more room for targets lets such a row be filled up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from flan_jax.data.packing import pack_best_fit

# A TPU's registers are 8 sublanes by 128 lanes, with 16 rows of bfloat16 in the sublanes; XLA pads
# arrays to that.
INPUTS_MULTIPLE = 128
TARGETS_MULTIPLE = 16
PACKING_WINDOW = 4096
_LONGEST = 2  # rows at most this many times the inputs given: attention costs grow with them
_NEARLY_AS_FULL = 0.002  # of two pairs whose fill differs less, the shorter is recommended

Lengths = Sequence[tuple[int, int]] | Int64[np.ndarray, "examples 2"]


@dataclass(frozen=True)
class Fill:
    """How full rows are.

    Attributes:
      rows: how many rows the examples took.
      examples_per_row: how many examples a row holds on average.
      inputs, targets: fraction of the positions on each side that hold a token.
      all: fraction of all positions, of inputs and targets together.
    """

    rows: int
    examples_per_row: float
    inputs: float
    targets: float
    all: float


@dataclass(frozen=True)
class LengthPair:
    """Lengths of a row's inputs and targets, and what to expect of them.

    Attributes:
      inputs, targets: lengths of a row.
      trim: (inputs, targets) length that examples are cut to; at most a row's.
      fill: how full rows become.
      inputs_cut, targets_cut: fraction of the examples whose inputs, or targets, are cut.
      tokens_lost: fraction of all tokens that are cut off.
    """

    inputs: int
    targets: int
    trim: tuple[int, int]
    fill: Fill
    inputs_cut: float
    targets_cut: float
    tokens_lost: float

    @property
    def capacity(self) -> tuple[int, int]:
        """(inputs, targets) length of a row."""
        return self.inputs, self.targets


def expected_fill(
    lengths: Lengths, capacity: tuple[int, int], *, window: int = PACKING_WINDOW
) -> Fill:
    """How full rows of `capacity` become when every `window` examples are packed together.

    Args:
      lengths: (inputs, targets) length of each example, in the order in which they are read; what
        remains of an incomplete window is left out.
      capacity: (inputs, targets) length of a row; no example is longer.
      window: examples that are packed together.

    Raises:
      ValueError: there are no examples, or one is longer than a row.
    """
    sizes = _as_array(lengths)
    rows = 0
    window = min(window, len(sizes))
    sizes = sizes[: len(sizes) // window * window]
    for start in range(0, len(sizes), window):
        rows += len(pack_best_fit(sizes[start : start + window], capacity))
    inputs, targets = (int(total) for total in sizes.sum(axis=0))
    return Fill(
        rows,
        len(sizes) / rows,
        inputs / (rows * capacity[0]),
        targets / (rows * capacity[1]),
        (inputs + targets) / (rows * sum(capacity)),
    )


def describe_pair(
    lengths: Lengths,
    capacity: tuple[int, int],
    trim: tuple[int, int] | None = None,
    *,
    window: int = PACKING_WINDOW,
) -> LengthPair:
    """What to expect of rows of `capacity`, with examples cut to `trim` (by default `capacity`).

    Args:
      lengths: (inputs, targets) length of each example before anything is cut.
      capacity: (inputs, targets) length of a row.
      trim: longest inputs and targets of an example.
      window: examples that are packed together.

    Raises:
      ValueError: there are no examples, or `trim` is longer than a row.
    """
    sizes = _as_array(lengths)
    trim = capacity if trim is None else trim
    if trim[0] > capacity[0] or trim[1] > capacity[1]:
        raise ValueError(f"examples of up to {trim} tokens do not fit rows of {capacity}")
    kept = np.minimum(sizes, trim)
    cut = (sizes > trim).mean(axis=0)
    return LengthPair(
        *capacity,
        trim,
        expected_fill(kept, capacity, window=window),
        float(cut[0]),
        float(cut[1]),
        1 - int(kept.sum()) / max(int(sizes.sum()), 1),
    )


def shortest_trim(lengths: Lengths, cut_at_most: float) -> tuple[int, int]:
    """The shortest (inputs, targets) length to cut examples to, for few of them to be cut.

    Args:
      lengths: (inputs, targets) length of each example before anything is cut.
      cut_at_most: fraction of the examples whose inputs, and whose targets, may be cut.

    Raises:
      ValueError: there are no examples, or the fraction is not in [0, 1).
    """
    if not 0 <= cut_at_most < 1:
        raise ValueError(f"cut_at_most must be a fraction from 0 to below 1, found {cut_at_most}")
    ordered = np.sort(_as_array(lengths), axis=0)
    kept = ordered[len(ordered) - 1 - math.floor(cut_at_most * len(ordered))]
    return int(kept[0]), int(kept[1])


def recommend_length_pair(
    lengths: Lengths,
    given: tuple[int, int],
    *,
    inputs_length: int | None = None,
    total: int | None = None,
    cut_at_most: float | None = None,
    targets_multiple: int = TARGETS_MULTIPLE,
    window: int = PACKING_WINDOW,
) -> LengthPair:
    """The row lengths whose positions, of inputs and targets together, are filled best.

    No example is cut that `given` does not cut: examples are trimmed to `given`, and the rows are
    at least as long. (`cut_at_most` allows more.) Among all pairs allowed, the best on the examples
    given is found; pairs that cannot be better, by their demand alone, are not packed.

    Args:
      lengths: (inputs, targets) length of each example before anything is cut, in the order in
        which they are read; a few windows of them are enough.
      given: (inputs, targets) length that is used now.
      inputs_length: length of a row's inputs; None to choose, up to twice the given one.
      total: length of inputs and targets together; None to choose.
      cut_at_most: fraction of the examples whose inputs, and whose targets, may be cut, instead of
        as many as `given` cuts: lengths below the given ones become possible.
      targets_multiple: the length of a row's targets is a multiple of this.
      window: examples that are packed together.

    Raises:
      ValueError: there are no examples, `inputs_length` and `total` are both given, or no pair
        holds the longest example.
    """
    sizes = _as_array(lengths)
    if inputs_length is not None and total is not None:
        raise ValueError("give inputs_length or total, not both: one fixes the other's meaning")
    trim = given if cut_at_most is None else shortest_trim(sizes, cut_at_most)
    kept = np.minimum(sizes, trim)
    demand = kept.sum(axis=0)
    bounds = sorted(
        (-_most_fill(demand, pair), pair)
        for pair in _candidates(trim, given, inputs_length, total, targets_multiple, demand)
    )
    if not bounds:
        wanted = f"a total of {total}" if total is not None else f"inputs of {inputs_length}"
        raise ValueError(
            f"no row with {wanted} holds examples of {trim}: allow more, or cut more (cut_at_most)"
        )
    found: list[tuple[float, tuple[int, int]]] = []
    best = 0.0
    for bound, pair in bounds:
        if -bound < best - _NEARLY_AS_FULL:
            break
        fill = expected_fill(kept, pair, window=window).all
        found.append((fill, pair))
        best = max(best, fill)
    close = [(sum(pair), -fill, pair) for fill, pair in found if fill >= best - _NEARLY_AS_FULL]
    return describe_pair(sizes, min(close)[2], trim, window=window)


def _candidates(
    trim: tuple[int, int],
    given: tuple[int, int],
    inputs_length: int | None,
    total: int | None,
    multiple: int,
    demand: Int64[np.ndarray, " 2"],
) -> Iterator[tuple[int, int]]:
    """Pairs of row lengths that hold examples of `trim`."""
    first = _round_up(trim[1], multiple)
    if total is not None:
        for targets in range(first, total - trim[0] + 1, multiple):
            yield total - targets, targets
        return
    if inputs_length is not None:
        choices = [inputs_length] if inputs_length >= trim[0] else []
    else:
        if trim[0] <= given[0] and trim[1] <= given[1]:
            yield given
        shortest = _round_up(trim[0], INPUTS_MULTIPLE)
        choices = list(range(shortest, max(shortest, _LONGEST * given[0]) + 1, INPUTS_MULTIPLE))
    for inputs in choices:
        # Beyond twice the targets that go with these inputs, more room for them only adds padding.
        matching = math.ceil(inputs * int(demand[1]) / max(int(demand[0]), 1))
        last = max(first + 2 * max(multiple, trim[1]), _round_up(2 * matching, multiple))
        yield from zip(itertools.repeat(inputs), range(first, last + 1, multiple))


def _most_fill(demand: Int64[np.ndarray, " 2"], pair: tuple[int, int]) -> float:
    """What no packing can exceed: the fill if the scarcer side were full."""
    rows = max(demand[0] / pair[0], demand[1] / pair[1])
    return float(demand.sum() / (rows * sum(pair)))


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _as_array(lengths: Lengths) -> Int64[np.ndarray, "examples 2"]:
    sizes = np.asarray(lengths, dtype=np.int64).reshape(-1, 2)
    if len(sizes) == 0:
        raise ValueError("there are no examples to take lengths from")
    return sizes
