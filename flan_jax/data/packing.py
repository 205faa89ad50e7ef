"""Packing examples into rows of fixed length, and the arrays a T5 reads.

Packing is best-fit decreasing over a whole window: the longest examples first, each into the
fullest row that still takes both its inputs and its targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from flan_jax.data.vocabulary import PAD_ID

Row = dict[str, np.ndarray]
NO_TASK = -1


@dataclass(frozen=True)
class TokenizedExample:
    """Token ids of one example, end-of-sequence ids included.

    Attributes:
      inputs: Int32[Array, "inputs_length"]
      targets: Int32[Array, "targets_length"]
      task: position of the example's task in the mixture.
    """

    inputs: Int32[np.ndarray, " inputs_length"]
    targets: Int32[np.ndarray, " targets_length"]
    task: int


def pack_best_fit(lengths: Sequence[tuple[int, int]], capacity: tuple[int, int]) -> list[list[int]]:
    """Groups of examples that fit together.

    Args:
      lengths: (inputs, targets) length of each example, none above `capacity`.
      capacity: (inputs, targets) length of a row.

    Returns:
      Positions of the examples of each row; every position occurs exactly once.
    """
    if not lengths:
        return []
    sizes = np.asarray(lengths, dtype=np.int64)
    limit = np.asarray(capacity, dtype=np.int64)
    over = (sizes > limit).any(axis=1)
    if over.any():
        found = tuple(sizes[over.argmax()].tolist())
        raise ValueError(f"an example of length {found} does not fit a row of {capacity}")
    order = np.argsort(-(sizes / limit).max(axis=1), kind="stable")
    room = np.empty((len(sizes), 2), dtype=np.int64)  # room left in each open row
    rows: list[list[int]] = []
    for position in order:
        size = sizes[position]
        left = room[: len(rows)] - size
        fits = (left >= 0).all(axis=1)
        if fits.any():
            slack = np.where(fits, (left / limit).sum(axis=1), np.inf)
            row = int(slack.argmin())
        else:
            row = len(rows)
            rows.append([])
            room[row] = limit
        rows[row].append(int(position))
        room[row] -= size
    return rows


def build_row(
    examples: Sequence[TokenizedExample], capacity: tuple[int, int], *, packed: bool = True
) -> Row:
    """The arrays of one row (names and meaning as in T5X's EncDecFeatureConverter).

    Args:
      examples: what the row holds, in order; they must fit.
      capacity: (inputs, targets) length of the row.
      packed: whether to add segment ids and positions.

    Returns:
      Int32 arrays of the capacity's lengths (loss weights: Float32), padded with 0;
      `decoder_task_ids` is padded with -1.
    """
    inputs_length, targets_length = capacity
    row: Row = {
        "encoder_input_tokens": np.full(inputs_length, PAD_ID, np.int32),
        "decoder_target_tokens": np.full(targets_length, PAD_ID, np.int32),
        "decoder_input_tokens": np.full(targets_length, PAD_ID, np.int32),
        "decoder_loss_weights": np.zeros(targets_length, np.float32),
        "decoder_task_ids": np.full(targets_length, NO_TASK, np.int32),
    }
    if packed:
        for name, length in (("encoder", inputs_length), ("decoder", targets_length)):
            row[f"{name}_segment_ids"] = np.zeros(length, np.int32)
            row[f"{name}_positions"] = np.zeros(length, np.int32)
    start_in = start_out = 0
    for segment, example in enumerate(examples, start=1):
        end_in, end_out = start_in + len(example.inputs), start_out + len(example.targets)
        here_in, here_out = slice(start_in, end_in), slice(start_out, end_out)
        row["encoder_input_tokens"][here_in] = example.inputs
        row["decoder_target_tokens"][here_out] = example.targets
        row["decoder_input_tokens"][start_out + 1 : end_out] = example.targets[:-1]
        row["decoder_loss_weights"][here_out] = 1.0
        row["decoder_task_ids"][here_out] = example.task
        if packed:
            row["encoder_segment_ids"][here_in] = segment
            row["decoder_segment_ids"][here_out] = segment
            row["encoder_positions"][here_in] = np.arange(end_in - start_in)
            row["decoder_positions"][here_out] = np.arange(end_out - start_out)
        start_in, start_out = end_in, end_out
    return row


def padding_fractions(batch: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Fraction of padding among encoder and decoder positions of a batch."""
    inputs = float((batch["encoder_input_tokens"] == PAD_ID).mean())
    targets = float((batch["decoder_loss_weights"] == 0).mean())
    return inputs, targets
