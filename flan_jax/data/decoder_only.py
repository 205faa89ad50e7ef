"""Rows for decoder-only models: inputs, then targets, in one sequence (a prefix language model).

The names and numbers are those of SeqIO's `PrefixLMFeatureConverter`, so a model written for T5X
reads them. (Where a row is not packed, SeqIO's inputs have the last token once more, at the first
padding, which weighs nothing; ours have padding there.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from flan_jax.data.packing import NO_TASK, Row, TokenizedExample, pack_sequences
from flan_jax.data.vocabulary import PAD_ID


def pack_decoder_only(lengths: Sequence[tuple[int, int]], capacity: int) -> list[list[int]]:
    """Groups of examples that fit a row of `capacity` tokens, inputs and targets together.

    Raises:
      ValueError: an example is longer than a row.
    """
    return pack_sequences([inputs + targets for inputs, targets in lengths], capacity)


def build_decoder_only_row(
    examples: Sequence[TokenizedExample],
    capacity: int,
    *,
    packed: bool = True,
    cuts: bool = False,
    loss_on_targets_only: bool = True,
) -> Row:
    """The arrays of one row.

    `decoder_causal_attention` is 1 where a position may be seen by all others of its prefix: the
    inputs and, as in T5X, one more, where the last input is read and the first target predicted.
    A model whose attention is causal throughout ignores it.

    Args:
      examples: what the row holds, in order; they must fit.
      capacity: length of the row.
      packed: whether to add segment ids and positions; one example at most if not.
      cuts: whether to add `decoder_cuts`, which has each example's `cut` at its first token.
      loss_on_targets_only: whether inputs weigh nothing in the loss. If they weigh too, attention
        must be causal throughout: a prefix that sees itself is no prediction.

    Returns:
      Int32 arrays of length `capacity` (loss weights: Float32), padded with 0; `decoder_task_ids`
      is padded with -1.

    Raises:
      ValueError: the examples do not fit, or there are several and `packed` is not set.
    """
    needed = sum(len(e.inputs) + len(e.targets) for e in examples)
    if needed > capacity:
        raise ValueError(f"examples of {needed} tokens together do not fit a row of {capacity}")
    if len(examples) > 1 and not packed:
        raise ValueError(f"a row that is not packed holds one example, found {len(examples)}")
    names = ["target_tokens", "input_tokens", "causal_attention"]
    names += ["segment_ids", "positions"] if packed else []
    names += ["cuts"] if cuts else []
    row: Row = {f"decoder_{name}": np.full(capacity, PAD_ID, np.int32) for name in names}
    row["decoder_loss_weights"] = np.zeros(capacity, np.float32)
    row["decoder_task_ids"] = np.full(capacity, NO_TASK, np.int32)
    start = 0
    for segment, example in enumerate(examples, start=1):
        tokens = np.concatenate([example.inputs, example.targets])
        first_target, end = start + len(example.inputs), start + len(tokens)
        row["decoder_target_tokens"][start:end] = tokens
        row["decoder_input_tokens"][start + 1 : end] = tokens[:-1]
        row["decoder_loss_weights"][first_target if loss_on_targets_only else start : end] = 1.0
        row["decoder_causal_attention"][start : min(first_target + 1, end)] = 1
        row["decoder_task_ids"][start:end] = example.task
        if packed:
            row["decoder_segment_ids"][start:end] = segment
            row["decoder_positions"][start:end] = np.arange(end - start)
        if cuts:
            row["decoder_cuts"][start:end][:1] = example.cut
        start = end
    return row


def prefix_attention_mask(row: Mapping[str, np.ndarray]) -> Bool[np.ndarray, "length length"]:
    """True at [q, k] where position q of a row may attend to position k.

    That is, where both are of the same example and k is not after q, or both are in its prefix.
    """
    length = len(row["decoder_target_tokens"])
    prefix = row["decoder_causal_attention"] > 0
    segments = row.get("decoder_segment_ids", row["decoder_task_ids"] != NO_TASK).astype(np.int32)
    mask = np.tri(length, dtype=bool) | (prefix[:, None] & prefix[None, :])
    return mask & (segments[:, None] == segments[None, :]) & (segments[:, None] > 0)
