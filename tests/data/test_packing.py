"""Packing: every example once, nothing over the edge, arrays that give the examples back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.data.packing import (
    NO_TASK,
    TokenizedExample,
    build_row,
    pack_best_fit,
    padding_fractions,
)

CAPACITY = (24, 10)
lengths = st.lists(st.tuples(st.integers(1, 24), st.integers(1, 10)), max_size=60)


@st.composite
def examples(draw):
    ids = st.integers(2, 1000)
    return [
        TokenizedExample(
            np.array(draw(st.lists(ids, min_size=n, max_size=n)), np.int32),
            np.array(draw(st.lists(ids, min_size=m, max_size=m)), np.int32),
            draw(st.integers(0, 5)),
        )
        for n, m in draw(
            st.lists(st.tuples(st.integers(1, 24), st.integers(1, 10)), min_size=1, max_size=12)
        )
    ]


@given(lengths)
def test_every_example_once_and_never_over_capacity(sizes):
    rows = pack_best_fit(sizes, CAPACITY)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    for row in rows:
        assert sum(sizes[i][0] for i in row) <= CAPACITY[0]
        assert sum(sizes[i][1] for i in row) <= CAPACITY[1]


@given(lengths)
def test_no_row_is_opened_while_another_has_room(sizes):
    rows = pack_best_fit(sizes, CAPACITY)
    for earlier in range(len(rows)):
        for later in rows[earlier + 1 :]:
            opener = later[0]  # rows list their examples in the order they came in
            # What the earlier row held when the later one was opened is at most what it holds now,
            # so an opener that fits a final row would have fitted before.
            used = np.sum([sizes[i] for i in rows[earlier]], axis=0)
            assert (used + sizes[opener] > CAPACITY).any()


def test_an_example_over_capacity_is_refused():
    with pytest.raises(ValueError, match=r"length \(25, 3\) does not fit a row of \(24, 10\)"):
        pack_best_fit([(25, 3), (1, 1)], CAPACITY)


def _first_fit(sizes, capacity, bins=64):
    """Rows opened by first-fit over a stream with a bounded number of open bins."""
    opened, rows = [], 0
    for size in sizes:
        for used in opened:
            if used[0] + size[0] <= capacity[0] and used[1] + size[1] <= capacity[1]:
                used[0] += size[0]
                used[1] += size[1]
                break
        else:
            rows += 1
            opened.append(list(size))
            if len(opened) > bins:
                opened.pop(0)
    return rows


def test_rows_are_fuller_than_first_fit_s():
    rng = np.random.default_rng(0)
    # Lengths like those of instruction data: log-normal, inputs far longer than targets.
    inputs = np.clip(rng.lognormal(4.6, 0.8, 1024), 5, 512).astype(int)
    targets = np.clip(rng.lognormal(2.2, 0.9, 1024), 2, 128).astype(int)
    sizes = list(zip(inputs.tolist(), targets.tolist(), strict=True))
    ours = len(pack_best_fit(sizes, (512, 128)))
    assert ours <= _first_fit(sizes, (512, 128))
    fill = inputs.sum() / (512 * ours)
    assert fill > 0.93
    bound = max(inputs.sum() / 512, targets.sum() / 128)
    assert ours <= 1.08 * bound


def _unpack(row):
    """The examples of a packed row, read from its segment ids alone."""
    found = []
    for segment in range(1, int(row["encoder_segment_ids"].max(initial=0)) + 1):
        here_in, here_out = (
            row["encoder_segment_ids"] == segment,
            row["decoder_segment_ids"] == segment,
        )
        tasks = set(row["decoder_task_ids"][here_out].tolist())
        assert len(tasks) == 1
        found.append(
            (
                row["encoder_input_tokens"][here_in].tolist(),
                row["decoder_target_tokens"][here_out].tolist(),
                tasks.pop(),
            )
        )
    return found


@given(examples())
def test_a_row_gives_its_examples_back(made):
    sizes = [(len(e.inputs), len(e.targets)) for e in made]
    for group in pack_best_fit(sizes, CAPACITY):
        members = [made[i] for i in group]
        row = build_row(members, CAPACITY)
        assert _unpack(row) == [(e.inputs.tolist(), e.targets.tolist(), e.task) for e in members]
        _check_row(row, members)


def _check_row(row, members):
    for side, key, capacity in (("encoder", "inputs", 24), ("decoder", "targets", 10)):
        segments, positions = row[f"{side}_segment_ids"], row[f"{side}_positions"]
        assert segments.shape == positions.shape == (capacity,)
        used = sum(len(getattr(e, key)) for e in members)
        assert (segments[:used] > 0).all() and (segments[used:] == 0).all()
        assert (np.diff(segments[:used]) >= 0).all()
        expected = np.concatenate([np.arange(len(getattr(e, key))) for e in members])
        assert positions[:used].tolist() == expected.tolist() and not positions[used:].any()
    weights = row["decoder_loss_weights"]
    assert weights.dtype == np.float32
    assert weights.tolist() == (row["decoder_segment_ids"] > 0).astype(float).tolist()
    assert (row["decoder_task_ids"][weights == 0] == NO_TASK).all()
    # Shifted right within each segment, 0 (the decoder's start) at each segment's first place.
    shifted = np.roll(row["decoder_target_tokens"], 1)
    starts = row["decoder_positions"] == 0
    expected = np.where(starts | (weights == 0), 0, shifted)
    assert row["decoder_input_tokens"].tolist() == expected.tolist()


def test_a_row_by_hand():
    a = TokenizedExample(np.array([11, 12, 1], np.int32), np.array([21, 1], np.int32), 3)
    b = TokenizedExample(np.array([13, 1], np.int32), np.array([22, 23, 1], np.int32), 0)
    row = {name: array.tolist() for name, array in build_row([a, b], (7, 6)).items()}
    assert row == {
        "encoder_input_tokens": [11, 12, 1, 13, 1, 0, 0],
        "encoder_segment_ids": [1, 1, 1, 2, 2, 0, 0],
        "encoder_positions": [0, 1, 2, 0, 1, 0, 0],
        "decoder_target_tokens": [21, 1, 22, 23, 1, 0],
        "decoder_input_tokens": [0, 21, 0, 22, 23, 0],
        "decoder_loss_weights": [1, 1, 1, 1, 1, 0],
        "decoder_segment_ids": [1, 1, 2, 2, 2, 0],
        "decoder_positions": [0, 1, 0, 1, 2, 0],
        "decoder_task_ids": [3, 3, 0, 0, 0, -1],
    }


def test_without_packing_there_are_no_segments():
    example = TokenizedExample(np.array([5, 1], np.int32), np.array([6, 1], np.int32), 0)
    row = build_row([example], (4, 4), packed=False)
    assert not [name for name in row if "segment" in name or "positions" in name]
    assert row["decoder_input_tokens"].tolist() == [0, 6, 0, 0]


def test_padding_fractions():
    example = TokenizedExample(np.array([5, 1], np.int32), np.array([6, 7, 1], np.int32), 0)
    row = build_row([example], (8, 4))
    batch = {name: array[None] for name, array in row.items()}
    assert padding_fractions(batch) == (0.75, 0.25)
