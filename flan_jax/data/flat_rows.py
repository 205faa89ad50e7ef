"""All rows of a window at once, from tokens that lie one after the other.

What `build_row` and `build_decoder_only_row` give for each row, stacked, but with a few passes over
whole arrays instead of a dozen small ones for each example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from flan_jax.data.packing import NO_TASK, TokenizedExample
from flan_jax.data.vocabulary import PAD_ID

Batch = dict[str, np.ndarray]


class FlatExamples(NamedTuple):
    """Tokenised examples, one after the other.

    Attributes:
      tokens: of each example its inputs, then its targets; of any integer type.
      lengths: how many of each there are.
      tasks: position of each example's task in the mixture.
      cuts: which sides of it were truncated, as `TokenizedExample.cut`.
    """

    tokens: np.ndarray
    lengths: Int64[np.ndarray, "examples 2"]
    tasks: Int32[np.ndarray, " examples"]
    cuts: Int32[np.ndarray, " examples"]


def flatten(examples: Sequence[TokenizedExample]) -> FlatExamples:
    """Examples that were made one by one."""
    parts = [tokens for example in examples for tokens in (example.inputs, example.targets)]
    lengths = np.fromiter(map(len, parts), np.int64, len(parts)).reshape(-1, 2)
    return FlatExamples(
        np.concatenate(parts) if parts else np.zeros(0, np.int32),
        lengths,
        np.fromiter((example.task for example in examples), np.int32, len(examples)),
        np.fromiter((example.cut for example in examples), np.int32, len(examples)),
    )


def build_rows(
    examples: FlatExamples,
    groups: Sequence[Sequence[int]],
    capacity: tuple[int, int],
    *,
    packed: bool = True,
    cuts: bool = False,
) -> Batch:
    """The arrays of many rows, each [rows, length], exactly as `build_row` makes them.

    Args:
      examples: the examples.
      groups: which of them each row holds, in order; they must fit.
      capacity: (inputs, targets) length of a row.
      packed: whether to add segment ids and positions; one example a row if not.
      cuts: whether to add `decoder_cuts`, which has each example's `cut` at its first target.
    """
    placed = _place(examples, groups, packed)
    order, row, first, begin = placed.order, placed.row, placed.first, placed.begin
    ours, theirs = examples.lengths[order].T
    inputs = _Side(begin, ours, row, first, len(groups), capacity[0])
    targets = _Side(begin + ours, theirs, row, first, len(groups), capacity[1])
    tokens = examples.tokens
    batch = {
        "encoder_input_tokens": inputs.put(tokens[inputs.source]),
        "decoder_target_tokens": targets.put(tokens[targets.source]),
    }
    batch["decoder_input_tokens"] = _shifted(batch["decoder_target_tokens"], targets)
    batch["decoder_loss_weights"] = targets.put(np.ones(len(targets.source), np.float32))
    batch["decoder_task_ids"] = targets.put(targets.repeat(examples.tasks[order]), NO_TASK)
    if packed:
        for name, side in (("encoder", inputs), ("decoder", targets)):
            batch[f"{name}_segment_ids"] = side.put(side.repeat(placed.segment))
            batch[f"{name}_positions"] = side.put(side.positions)
    if cuts:
        batch["decoder_cuts"] = targets.put_first(examples.cuts[order])
    return batch


def build_decoder_only_rows(
    examples: FlatExamples,
    groups: Sequence[Sequence[int]],
    capacity: int,
    *,
    packed: bool = True,
    cuts: bool = False,
) -> Batch:
    """The arrays of many rows, each [rows, capacity], as `build_decoder_only_row` makes them.

    Args:
      examples: the examples; none is empty.
      groups: which of them each row holds, in order; they must fit.
      capacity: length of a row.
      packed: whether to add segment ids and positions; one example a row if not.
      cuts: whether to add `decoder_cuts`, which has each example's `cut` at its first token.
    """
    placed = _place(examples, groups, packed)
    order = placed.order
    inputs, whole = examples.lengths[order, 0], examples.lengths[order].sum(axis=1)
    side = _Side(placed.begin, whole, placed.row, placed.first, len(groups), capacity)
    first_target = side.repeat(inputs)
    batch = {"decoder_target_tokens": side.put(examples.tokens[side.source])}
    batch["decoder_input_tokens"] = _shifted(batch["decoder_target_tokens"], side)
    weighs = side.positions >= first_target
    batch["decoder_loss_weights"] = side.put(weighs.astype(np.float32))
    batch["decoder_causal_attention"] = side.put(side.positions <= first_target)
    batch["decoder_task_ids"] = side.put(side.repeat(examples.tasks[order]), NO_TASK)
    if packed:
        batch["decoder_segment_ids"] = side.put(side.repeat(placed.segment))
        batch["decoder_positions"] = side.put(side.positions)
    if cuts:
        batch["decoder_cuts"] = side.put_first(examples.cuts[order])
    return batch


class _Placed(NamedTuple):
    """Examples in the order in which rows hold them.

    Attributes:
      order: their positions among all examples.
      row, segment: of each its row, and its number in it, from 1.
      first: of each row its first example, among `order`.
      begin: of each example its first token, among all tokens.
    """

    order: np.ndarray
    row: np.ndarray
    segment: np.ndarray
    first: np.ndarray
    begin: np.ndarray


def _place(examples: FlatExamples, groups: Sequence[Sequence[int]], packed: bool) -> _Placed:
    counts = np.fromiter(map(len, groups), np.int64, len(groups))
    order = np.fromiter((i for group in groups for i in group), np.int64, int(counts.sum()))
    if not packed and counts.max(initial=0) > 1:
        raise ValueError(f"a row that is not packed holds one example, found {counts.max()}")
    row = np.repeat(np.arange(len(groups)), counts)
    first = np.cumsum(counts) - counts
    segment = (np.arange(len(order)) - first[row] + 1).astype(np.int32)
    whole = examples.lengths.sum(axis=1)
    begin = (np.cumsum(whole) - whole)[order]
    return _Placed(order, row, segment, first, begin)


def _shifted(tokens: np.ndarray, side: _Side) -> np.ndarray:
    """What a decoder reads to predict `tokens` [rows, length]: those before, of each example."""
    previous = tokens.ravel()
    shifted = np.full(previous.shape, PAD_ID, np.int32)
    shifted[1:] = previous[:-1]
    shifted[side.starts] = PAD_ID
    shifted[np.setdiff1d(side.ends, side.starts)] = PAD_ID  # after the last one of a row
    return shifted.reshape(tokens.shape)


class _Side:
    """Where the inputs, or the targets, or both, of examples come from and go to.

    Attributes:
      source: of each token, its place among all tokens.
      positions: of each token, its place in its example.
      starts, ends: of each example that is not empty, its first place in the raveled rows, and the
        place after its last one (those after the last row left out).
    """

    def __init__(
        self,
        begin: np.ndarray,
        lengths: np.ndarray,
        row: np.ndarray,
        first: np.ndarray,
        rows: int,
        capacity: int,
    ):
        before = np.cumsum(lengths) - lengths
        total = int(lengths.sum())
        start = row * capacity + before
        if len(lengths):
            start -= before[np.minimum(first, len(lengths) - 1)][row]
        self._lengths = lengths
        self._shape = (rows, capacity)
        self.positions = np.arange(total) - np.repeat(before, lengths)
        self.source = np.repeat(begin, lengths) + self.positions
        self._places = np.repeat(start, lengths) + self.positions
        if total and self._places[-1] >= rows * capacity:
            raise ValueError(f"examples do not fit a row of {capacity}")
        self.starts = start[lengths > 0]
        ends = (start + lengths)[lengths > 0]
        self.ends = ends[ends < rows * capacity]

    def repeat(self, values: np.ndarray) -> np.ndarray:
        """A value for each token, given one for each example."""
        return np.repeat(values, self._lengths)

    def put_first(self, values: np.ndarray) -> np.ndarray:
        """Rows that hold a value of each example at its first token, else 0; none may be empty."""
        rows = np.zeros(self._shape[0] * self._shape[1], np.int32)
        rows[self.starts] = values
        return rows.reshape(self._shape)

    def put(self, values: np.ndarray, padding: int = PAD_ID) -> np.ndarray:
        """Rows that hold `values`, one for each token; integers become Int32."""
        kind = np.float32 if values.dtype == np.float32 else np.int32
        rows = np.full(self._shape[0] * self._shape[1], padding, kind)
        rows[self._places] = values
        return rows.reshape(self._shape)
