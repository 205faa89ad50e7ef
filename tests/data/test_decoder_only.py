"""Decoder-only rows: SeqIO's arrays, masks that keep examples apart, the loss of lone examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.data.decoder_only import (
    build_decoder_only_row,
    pack_decoder_only,
    prefix_attention_mask,
)
from flan_jax.data.packing import NO_TASK, TokenizedExample

CAPACITY = 24


def example(inputs, targets, task=0):
    return TokenizedExample(np.array(inputs, np.int32), np.array(targets, np.int32), task)


@st.composite
def examples(draw):
    ids = st.integers(2, 50)
    sizes = st.tuples(st.integers(0, 14), st.integers(1, 10))
    return [
        example(
            draw(st.lists(ids, min_size=n, max_size=n)),
            draw(st.lists(ids, min_size=m, max_size=m)),
            draw(st.integers(0, 3)),
        )
        for n, m in draw(st.lists(sizes, min_size=1, max_size=10))
    ]


def rows_of(made):
    sizes = [(len(e.inputs), len(e.targets)) for e in made]
    return [[made[i] for i in group] for group in pack_decoder_only(sizes, CAPACITY)]


def test_a_row_by_hand():
    made = [example([11, 12, 1], [21, 1], 3), example([13, 1], [22, 23, 1], 0)]
    row = {name: array.tolist() for name, array in build_decoder_only_row(made, 12).items()}
    assert row == {
        "decoder_target_tokens": [11, 12, 1, 21, 1, 13, 1, 22, 23, 1, 0, 0],
        "decoder_input_tokens": [0, 11, 12, 1, 21, 0, 13, 1, 22, 23, 0, 0],
        "decoder_loss_weights": [0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0],
        "decoder_causal_attention": [1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0],
        "decoder_segment_ids": [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0],
        "decoder_positions": [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 0],
        "decoder_task_ids": [3, 3, 3, 3, 3, 0, 0, 0, 0, 0, -1, -1],
    }


def test_loss_on_inputs_too():
    row = build_decoder_only_row([example([5, 1], [6, 1])], 6, loss_on_targets_only=False)
    assert row["decoder_loss_weights"].tolist() == [1, 1, 1, 1, 0, 0]


def test_what_does_not_fit_is_refused():
    made = example([5, 1], [6, 1])
    with pytest.raises(ValueError, match="examples of 8 tokens together do not fit a row of 7"):
        build_decoder_only_row([made, made], 7)
    with pytest.raises(ValueError, match="holds one example, found 2"):
        build_decoder_only_row([made, made], 9, packed=False)
    with pytest.raises(ValueError, match="does not fit a row"):
        pack_decoder_only([(5, 3)], 7)


@given(examples())
def test_rows_give_the_examples_back(made):
    found = []
    for members in rows_of(made):
        row = build_decoder_only_row(members, CAPACITY)
        segments, targets = row["decoder_segment_ids"], row["decoder_loss_weights"] > 0
        for segment in range(1, segments.max() + 1):
            here = segments == segment
            assert row["decoder_positions"][here].tolist() == list(range(here.sum()))
            tokens = row["decoder_target_tokens"]
            read = row["decoder_input_tokens"][here].tolist()
            assert read == [0, *tokens[here][:-1].tolist()]
            (task,) = set(row["decoder_task_ids"][here].tolist())
            found.append((tokens[here & ~targets].tolist(), tokens[here & targets].tolist(), task))
        padding = segments == 0
        for name, array in row.items():
            assert (array[padding] == (NO_TASK if name == "decoder_task_ids" else 0)).all()
    expected = [(e.inputs.tolist(), e.targets.tolist(), e.task) for e in made]
    assert sorted(found) == sorted(expected)


def test_the_mask_by_hand():
    made = [example([11, 1], [21, 22, 1]), example([12], [23, 1])]
    mask = prefix_attention_mask(build_decoder_only_row(made, 9)).astype(int)
    assert mask.tolist() == [
        # Three positions read the start and the inputs; the last of them predicts 21.
        [1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]


def log_probabilities(row, layers=2, width=16, vocabulary=64):
    """A small transformer in numpy: log-probabilities [length, vocabulary] for a row's positions.

    It reads tokens, positions and the attention mask, nothing else; so a row without positions is
    one example from position 0 on.
    """
    rng = np.random.default_rng(0)
    length = len(row["decoder_input_tokens"])
    positions = row.get("decoder_positions", np.arange(length))
    embedding = rng.normal(size=(vocabulary, width))
    x = embedding[row["decoder_input_tokens"]] + rng.normal(size=(64, width))[positions]
    mask = prefix_attention_mask(row)
    for _ in range(layers):
        query, key, value, out = rng.normal(size=(4, width, width)) / np.sqrt(width)
        scores = np.where(mask, (x @ query) @ (x @ key).T / np.sqrt(width), -1e9)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        x = x + np.tanh(weights @ (x @ value)) @ out
    logits = x @ embedding.T / np.sqrt(width)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def loss_sum(row):
    found = log_probabilities(row)
    chosen = np.take_along_axis(found, row["decoder_target_tokens"][:, None], axis=1)[:, 0]
    return float(-(chosen * row["decoder_loss_weights"]).sum())


@settings(deadline=None)
@given(examples())
def test_packed_rows_have_the_loss_of_their_examples_alone(made):
    packed = sum(loss_sum(build_decoder_only_row(members, CAPACITY)) for members in rows_of(made))
    alone = sum(loss_sum(build_decoder_only_row([e], CAPACITY, packed=False)) for e in made)
    assert packed == pytest.approx(alone, rel=1e-9)
    short = sum(
        loss_sum(build_decoder_only_row([e], len(e.inputs) + len(e.targets), packed=False))
        for e in made
    )
    assert packed == pytest.approx(short, rel=1e-9)


def test_inputs_see_each_other_and_targets_only_what_came_before():
    made = [example([5, 6, 7, 1], [8, 9, 10, 1]), example([11, 12, 1], [13, 1])]
    row = build_decoder_only_row(made, 16)
    before = log_probabilities(row)

    def changed_at(position):
        """Positions whose predictions change with the token read at `position`."""
        other = {name: array.copy() for name, array in row.items()}
        other["decoder_input_tokens"][position] = 40
        difference = np.abs(log_probabilities(other) - before).max(axis=1)
        # What a model says at padding means nothing.
        return np.flatnonzero((difference > 1e-12) & (row["decoder_segment_ids"] > 0)).tolist()

    assert changed_at(3) == list(range(8))  # an input: all of its example, before and after
    assert changed_at(4) == list(range(8))  # the last input, read where 8 is predicted
    assert changed_at(6) == [6, 7]  # a target: what comes after
    assert changed_at(9) == list(range(8, 13))


@pytest.mark.slow
def test_the_arrays_are_seqio_s():
    tf = pytest.importorskip("tensorflow")
    seqio = pytest.importorskip("seqio")
    made = [
        example([7, 8, 5, 1], [3, 9, 1]), example([8, 4, 9, 3, 1], [4, 1]), example([6, 1], [2, 1]),
    ]  # fmt: skip
    dataset = tf.data.Dataset.from_generator(
        lambda: iter({"inputs": e.inputs, "targets": e.targets} for e in made),
        output_signature={name: tf.TensorSpec((None,), tf.int32) for name in ("inputs", "targets")},
    )
    lengths = {"inputs": 10, "targets": 10}
    for packed, rows in ((True, [made]), (False, [[e] for e in made])):
        converter = seqio.PrefixLMFeatureConverter(pack=packed)
        found = list(converter(dataset, lengths).as_numpy_iterator())
        assert len(found) == len(rows)
        for theirs, members in zip(found, rows, strict=True):
            ours = build_decoder_only_row(members, 20, packed=packed)
            del ours["decoder_task_ids"]
            assert set(ours) == set(theirs)
            if not packed:  # SeqIO's reads the last token at the first padding; ours padding
                real = ours["decoder_target_tokens"] > 0
                theirs["decoder_input_tokens"] = theirs["decoder_input_tokens"] * real
            for name, array in ours.items():
                assert array.tolist() == theirs[name].tolist(), name
