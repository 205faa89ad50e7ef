"""Packing examples into rows of fixed length, and the arrays an encoder-decoder reads.

Packing is best-fit decreasing over a whole window of examples, inputs and targets jointly: the
largest first, each into the row that it fills best. See docs/packing.md for what that costs and how
full the rows become.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64

from flan_jax.data.vocabulary import PAD_ID

Row = dict[str, np.ndarray]
NO_TASK = -1
INPUTS_CUT = 1
TARGETS_CUT = 2


@dataclass(frozen=True)
class TokenizedExample:
    """Token ids of one example, end-of-sequence ids included.

    Attributes:
      inputs: Int32[Array, "inputs_length"]
      targets: Int32[Array, "targets_length"]
      task: position of the example's task in the mixture.
      inputs_lost, targets_lost: how many tokens were cut off for the example to fit.
    """

    inputs: Int32[np.ndarray, " inputs_length"]
    targets: Int32[np.ndarray, " targets_length"]
    task: int
    inputs_lost: int = 0
    targets_lost: int = 0

    @property
    def cut(self) -> int:
        """0, or which sides were truncated: INPUTS_CUT, TARGETS_CUT, or both, as bits."""
        return INPUTS_CUT * (self.inputs_lost > 0) | TARGETS_CUT * (self.targets_lost > 0)


def pack_best_fit(
    lengths: Sequence[tuple[int, int]] | Int64[np.ndarray, "examples 2"],
    capacity: tuple[int, int],
) -> list[list[int]]:
    """Groups of examples that fit together.

    The examples are placed twice, ordered by two measures of size, and the better result is kept:
    one measure adds up the shares of a row that an example takes, the other weighs each share by
    the demand for it, which is better where inputs and targets are about equally scarce.

    Args:
      lengths: (inputs, targets) length of each example, none above `capacity`.
      capacity: (inputs, targets) length of a row.

    Returns:
      Positions of the examples of each row; every position occurs exactly once. A pure function of
      the arguments.

    Raises:
      ValueError: an example is longer than a row.
    """
    if len(lengths) == 0:
        return []
    sizes = np.asarray(lengths, dtype=np.int64)
    limit = np.asarray(capacity, dtype=np.int64)
    over = (sizes > limit).any(axis=1)
    if over.any():
        found = tuple(sizes[over.argmax()].tolist())
        raise ValueError(f"an example of length {found} does not fit a row of {capacity}")
    shares = sizes / np.maximum(limit, 1)
    demand = shares.sum(axis=0)
    scarce = int(demand[1] > demand[0])
    rows: list[list[int]] = []
    for weights in (demand, np.ones(2)):
        size = shares[:, 0] * weights[0] + shares[:, 1] * weights[1]
        order = np.argsort(-size, kind="stable")
        found_rows = _place(sizes, capacity, order, scarce)
        if not rows or len(found_rows) < len(rows):
            rows = found_rows
        if len(rows) <= np.ceil(demand.max()) or demand.min() == 0:
            break  # no packing has fewer rows, or the second order is the first
    return rows


def pack_sequences(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """`pack_best_fit` for examples that are one sequence each, as decoder-only models read them."""
    sizes = np.zeros((len(lengths), 2), np.int64)
    sizes[:, 0] = lengths
    return pack_best_fit(sizes, (capacity, 0))


def _place(
    sizes: Int64[np.ndarray, "examples 2"],
    capacity: tuple[int, int],
    order: Int64[np.ndarray, " examples"],
    scarce: int,
) -> list[list[int]]:
    """Puts the examples, in `order`, where they leave least room on the `scarce` side (0: inputs).

    Open rows lie on shelves by the room left on the scarce side; the set of shelves in use is the
    bits of one integer, so that the fullest row that may do is found by bit operations. On a shelf,
    rows are sorted by the room left on the other side, as `room * examples + row`. Shelves are made
    when first needed: thousands of empty lists a window would keep the garbage collector busy.
    """
    count = len(sizes)
    ours, others = sizes[:, scarce].tolist(), sizes[:, 1 - scarce].tolist()
    least_ours, least_others = min(ours), min(others)
    shelves: dict[int, list[int]] = {}
    used = 0
    rows: list[list[int]] = []
    for position in order.tolist():
        size, other = ours[position], others[position]
        wanted = other * count
        room, bits = size - 1, used >> size
        while bits:
            step = (bits & -bits).bit_length()
            room, bits = room + step, bits >> step
            shelf = shelves[room]
            if shelf[-1] >= wanted:
                other_room, row = divmod(shelf.pop(bisect_left(shelf, wanted)), count)
                if not shelf:
                    used ^= 1 << room
                rows[row].append(position)
                break
        else:
            room, other_room, row = capacity[scarce], capacity[1 - scarce], len(rows)
            rows.append([position])
        room, other_room = room - size, other_room - other
        if room >= least_ours and other_room >= least_others:  # else nothing fits any more
            insort(shelves.setdefault(room, []), other_room * count + row)
            used |= 1 << room
    return rows


def build_row(
    examples: Sequence[TokenizedExample],
    capacity: tuple[int, int],
    *,
    packed: bool = True,
    cuts: bool = False,
) -> Row:
    """The arrays of one row (names and meaning as in T5X's EncDecFeatureConverter).

    Args:
      examples: what the row holds, in order; they must fit.
      capacity: (inputs, targets) length of the row.
      packed: whether to add segment ids and positions; one example at most if not.
      cuts: whether to add `decoder_cuts`, which has each example's `cut` at its first target.

    Returns:
      Int32 arrays of the capacity's lengths (loss weights: Float32), padded with 0;
      `decoder_task_ids` is padded with -1.

    Raises:
      ValueError: there are several examples, and `packed` is not set.
    """
    if len(examples) > 1 and not packed:
        raise ValueError(f"a row that is not packed holds one example, found {len(examples)}")
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
    if cuts:
        row["decoder_cuts"] = np.zeros(targets_length, np.int32)
    start_in = start_out = 0
    for segment, example in enumerate(examples, start=1):
        end_in, end_out = start_in + len(example.inputs), start_out + len(example.targets)
        here_in, here_out = slice(start_in, end_in), slice(start_out, end_out)
        row["encoder_input_tokens"][here_in] = example.inputs
        row["decoder_target_tokens"][here_out] = example.targets
        row["decoder_input_tokens"][start_out + 1 : end_out] = example.targets[:-1]
        row["decoder_loss_weights"][here_out] = 1.0
        row["decoder_task_ids"][here_out] = example.task
        if cuts:
            row["decoder_cuts"][here_out][:1] = example.cut
        if packed:
            row["encoder_segment_ids"][here_in] = segment
            row["decoder_segment_ids"][here_out] = segment
            row["encoder_positions"][here_in] = np.arange(end_in - start_in)
            row["decoder_positions"][here_out] = np.arange(end_out - start_out)
        start_in, start_out = end_in, end_out
    return row


def padding_fractions(batch: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Fraction of padding among the positions of a batch.

    `inputs_padding` and `targets_padding` of encoder and decoder; only `padding` if the rows are
    those of a decoder-only model.
    """
    targets = float((batch["decoder_target_tokens"] == PAD_ID).mean())
    if "encoder_input_tokens" not in batch:
        return {"padding": targets}
    inputs = float((batch["encoder_input_tokens"] == PAD_ID).mean())
    return {"inputs_padding": inputs, "targets_padding": targets}


def count_tokens(batch: Mapping[str, np.ndarray]) -> int:
    """Tokens that are not padding, of inputs and targets together."""
    names = ("encoder_input_tokens", "decoder_target_tokens")
    return sum(int(np.count_nonzero(batch[name] != PAD_ID)) for name in names if name in batch)
