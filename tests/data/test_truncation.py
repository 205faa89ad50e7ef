"""Truncation counts: right, by task, and the same from examples and from rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.data.decoder_only import build_decoder_only_row, pack_decoder_only
from flan_jax.data.packing import TokenizedExample, build_row, pack_best_fit
from flan_jax.data.truncation import TaskTruncation, TruncationCounts

NAMES = ("a", "b", "c", "d")
CAPACITY = (16, 8)


@st.composite
def examples(draw):
    sizes = st.tuples(
        st.integers(1, 16), st.integers(1, 8), st.integers(0, 3), st.integers(0, 2),
        st.integers(0, 2),
    )  # fmt: skip
    return [
        TokenizedExample(np.full(i, 5, np.int32), np.full(t, 6, np.int32), task, *lost)
        for i, t, task, *lost in draw(st.lists(sizes, min_size=1, max_size=20))
    ]


def _rows(made, architecture):
    sizes = [(len(e.inputs), len(e.targets)) for e in made]
    if architecture == "encoder-decoder":
        for group in pack_best_fit(sizes, CAPACITY):
            yield build_row([made[i] for i in group], CAPACITY, cuts=True)
    elif architecture == "decoder-only":
        for group in pack_decoder_only(sizes, 24):
            yield build_decoder_only_row([made[i] for i in group], 24, cuts=True)
    elif architecture == "encoder-decoder, not packed":
        yield from (build_row([e], CAPACITY, packed=False, cuts=True) for e in made)
        yield build_row([], CAPACITY, packed=False, cuts=True)
    else:
        yield from (build_decoder_only_row([e], 24, packed=False, cuts=True) for e in made)


@pytest.mark.parametrize(
    "architecture",
    [
        "encoder-decoder", "decoder-only", "encoder-decoder, not packed",
        "decoder-only, not packed",
    ],
)  # fmt: skip
@given(made=examples())
def test_examples_and_rows_give_the_same_counts(architecture, made):
    expected = {
        name: TaskTruncation(
            sum(e.task == task for e in made),
            sum(e.task == task and e.inputs_lost > 0 for e in made),
            sum(e.task == task and e.targets_lost > 0 for e in made),
        )
        for task, name in enumerate(NAMES)
        if any(e.task == task for e in made)
    }
    counts = TruncationCounts(NAMES)
    counts.add(made)
    assert counts.by_task() == expected

    rows = list(_rows(made, architecture))
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    counts = TruncationCounts(NAMES)
    counts.add_batch(batch)
    assert counts.by_task() == expected
    assert counts.total() == tuple(np.sum(list(expected.values()), axis=0))


def test_counts_add_up():
    cut = TokenizedExample(np.full(2, 5, np.int32), np.full(2, 6, np.int32), 1, inputs_lost=4)
    counts = TruncationCounts(NAMES)
    counts.add([])
    assert counts.by_task() == {} and counts.total() == (0, 0, 0)
    counts.add([cut])
    counts.add([cut])
    assert counts.by_task() == {"b": (2, 2, 0)}


def test_rows_without_cuts_are_refused():
    example = TokenizedExample(np.full(2, 5, np.int32), np.full(2, 6, np.int32), 1)
    row = build_row([example], CAPACITY)
    with pytest.raises(KeyError, match="decoder_cuts"):
        TruncationCounts(NAMES).add_batch({name: array[None] for name, array in row.items()})
