"""All rows of a window at once, from tokens that lie one after the other.

What `flan_jax.data.packing.build_row` gives for each row, stacked, but with a few passes over whole
arrays instead of a dozen small ones for each example.
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
    counts = np.fromiter(map(len, groups), np.int64, len(groups))
    order = np.fromiter((i for group in groups for i in group), np.int64, int(counts.sum()))
    if not packed and counts.max(initial=0) > 1:
        raise ValueError(f"a row that is not packed holds one example, found {counts.max()}")
    row = np.repeat(np.arange(len(groups)), counts)
    first = np.cumsum(counts) - counts  # of each row, among `order`
    segment = (np.arange(len(order)) - first[row] + 1).astype(np.int32)
    whole = examples.lengths.sum(axis=1)
    begin = (np.cumsum(whole) - whole)[order]  # of each example, among the tokens
    ours, theirs = examples.lengths[order].T
    inputs = _Side(begin, ours, row, first, len(groups), capacity[0])
    targets = _Side(begin + ours, theirs, row, first, len(groups), capacity[1])
    tokens = examples.tokens
    batch = {
        "encoder_input_tokens": inputs.put(tokens[inputs.source]),
        "decoder_target_tokens": targets.put(tokens[targets.source]),
    }
    previous = batch["decoder_target_tokens"].ravel()
    shifted = np.full(previous.shape, PAD_ID, np.int32)
    shifted[1:] = previous[:-1]
    shifted[targets.starts] = PAD_ID
    shifted[np.setdiff1d(targets.ends, targets.starts)] = PAD_ID  # after the last target of a row
    batch["decoder_input_tokens"] = shifted.reshape(len(groups), capacity[1])
    batch["decoder_loss_weights"] = targets.put(np.ones(len(targets.source), np.float32))
    batch["decoder_task_ids"] = targets.put(targets.repeat(examples.tasks[order]), NO_TASK)
    if packed:
        for name, side in (("encoder", inputs), ("decoder", targets)):
            batch[f"{name}_segment_ids"] = side.put(side.repeat(segment))
            batch[f"{name}_positions"] = side.put(side.positions)
    if cuts:
        found = np.zeros(len(groups) * capacity[1], np.int32)
        found[targets.starts] = examples.cuts[order]
        batch["decoder_cuts"] = found.reshape(len(groups), capacity[1])
    return batch


class _Side:
    """Where the inputs, or the targets, of examples come from and go to.

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

    def put(self, values: np.ndarray, padding: int = PAD_ID) -> np.ndarray:
        """Rows that hold `values`, one for each token; integers become Int32."""
        kind = np.float32 if values.dtype == np.float32 else np.int32
        rows = np.full(self._shape[0] * self._shape[1], padding, kind)
        rows[self._places] = values
        return rows.reshape(self._shape)
