"""Packing: every example once, nothing over the edge, arrays that give the examples back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.data.decoder_only import build_decoder_only_row
from flan_jax.data.packing import (
    INPUTS_CUT,
    NO_TASK,
    TARGETS_CUT,
    TokenizedExample,
    build_row,
    count_tokens,
    pack_best_fit,
    pack_sequences,
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


def _best_fit(sizes, order, scarce, capacity=CAPACITY):
    """Best fit, written as its definition: least room left, on the scarce side first."""
    rows, rooms = [], []
    for position in order:
        size = sizes[position]
        left = [(room[0] - size[0], room[1] - size[1]) for room in rooms]
        fitting = [
            (rest[scarce], rest[1 - scarce], row) for row, rest in enumerate(left) if min(rest) >= 0
        ]
        if fitting:
            row = min(fitting)[2]
        else:
            row = len(rows)
            rows.append([])
            rooms.append(capacity)
        rows[row].append(position)
        rooms[row] = (rooms[row][0] - size[0], rooms[row][1] - size[1])
    return rows


@given(lengths)
def test_the_better_of_two_best_fits(sizes):
    shares = [(i / CAPACITY[0], t / CAPACITY[1]) for i, t in sizes]
    demand = [np.array(shares)[:, side].sum() for side in (0, 1)] if sizes else [0, 0]
    scarce = int(demand[1] > demand[0])
    results = []
    for weights in (demand, (1, 1)):
        size = [i * weights[0] + t * weights[1] for i, t in shares]
        order = sorted(range(len(sizes)), key=lambda n: -size[n])
        results.append(_best_fit(sizes, order, scarce))
    assert pack_best_fit(sizes, CAPACITY) == min(results, key=len)


@given(lengths)
def test_lists_and_arrays_are_packed_the_same_every_time(sizes):
    rows = pack_best_fit(sizes, CAPACITY)
    assert pack_best_fit(np.array(sizes, np.int32).reshape(-1, 2), CAPACITY) == rows
    assert pack_best_fit(sizes, CAPACITY) == rows


@given(st.lists(st.integers(1, 24), max_size=60))
def test_sequences(sizes):
    rows = pack_sequences(sizes, 24)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    used = [sum(sizes[i] for i in row) for row in rows]
    assert all(n <= 24 for n in used)
    assert sum(n <= 12 for n in used) <= 1  # two rows half empty would have been one


def test_empty_sides_take_no_room():
    assert pack_best_fit([(0, 3), (24, 0), (0, 7)], CAPACITY) == [[1, 2, 0]]


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


def _lognormal(count, seed=0):
    """Lengths like those of instruction data: inputs far longer than targets, both long-tailed."""
    rng = np.random.default_rng(seed)
    inputs = np.clip(rng.lognormal(np.log(150), 1.0, count), 2, 2048)
    targets = np.clip(rng.lognormal(np.log(8), 1.4, count), 2, 512)
    return np.stack([inputs, targets], axis=1).round().astype(int)


@pytest.mark.parametrize(
    "capacity, inputs, every", [((2048, 512), 0.98, 0.85), ((1024, 256), 0.97, 0.84)]
)
def test_rows_are_fuller_than_first_fit_s(capacity, inputs, every):
    sizes = np.minimum(_lognormal(4096), capacity)
    rows = len(pack_best_fit(sizes, capacity))
    assert rows < _first_fit(sizes.tolist(), capacity)
    assert sizes[:, 0].sum() / (rows * capacity[0]) >= inputs
    assert sizes.sum() / (rows * sum(capacity)) >= every


@pytest.mark.parametrize("mirrored", [False, True])
def test_either_side_may_be_the_scarce_one(mirrored):
    sizes, capacity = np.minimum(_lognormal(2048), (2048, 256)), (2048, 256)
    if mirrored:
        sizes, capacity = sizes[:, ::-1], capacity[::-1]
    rows = len(pack_best_fit(sizes, capacity))
    assert rows == len(pack_best_fit(sizes[:, ::-1], capacity[::-1]))
    assert rows <= 1.07 * (sizes / capacity).sum(axis=0).max()


def test_the_second_order_is_better_where_long_targets_are_scarce():
    sizes, capacity = np.minimum(_lognormal(4096), (2048, 64)), (2048, 64)
    rows = len(pack_best_fit(sizes, capacity))
    assert rows <= 1.02 * (sizes / capacity).sum(axis=0).max()
    shares = sizes / capacity
    order = np.argsort(-shares @ shares.sum(axis=0), kind="stable").tolist()
    first = _best_fit(sizes.tolist(), order, 1, capacity)
    assert rows < 0.985 * len(first)


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


def test_without_packing_a_row_holds_one_example():
    example = TokenizedExample(np.array([5, 1], np.int32), np.array([6, 1], np.int32), 0)
    with pytest.raises(ValueError, match="holds one example, found 2"):
        build_row([example, example], (8, 8), packed=False)


def test_cuts_stand_at_each_example_s_first_target():
    def example(targets, **lost):
        return TokenizedExample(np.array([5, 1], np.int32), np.array(targets, np.int32), 2, **lost)

    made = [
        example([6, 7, 1]),
        example([8, 1], inputs_lost=9),
        example([1], targets_lost=1),
        example([9, 1], inputs_lost=1, targets_lost=2),
    ]
    row = build_row(made, (8, 10), cuts=True)
    both = INPUTS_CUT | TARGETS_CUT
    assert row["decoder_cuts"].tolist() == [0, 0, 0, INPUTS_CUT, 0, TARGETS_CUT, both, 0, 0, 0]
    assert "decoder_cuts" not in build_row(made, (8, 10))


def test_padding_fractions():
    example = TokenizedExample(np.array([5, 1], np.int32), np.array([6, 7, 1], np.int32), 0)
    row = build_row([example], (8, 4))
    batch = {name: array[None] for name, array in row.items()}
    assert padding_fractions(batch) == {"inputs_padding": 0.75, "targets_padding": 0.25}
    assert count_tokens(batch) == 5


def test_padding_fraction_of_decoder_only_rows():
    example = TokenizedExample(np.array([5, 1], np.int32), np.array([6, 7, 1], np.int32), 0)
    row = build_decoder_only_row([example], 20)
    batch = {name: array[None] for name, array in row.items()}
    assert padding_fractions(batch) == {"padding": 0.75}
    assert count_tokens(batch) == 5
