"""Row formats: rows made at once are those made one by one, whichever model reads them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.data.flat_rows import flatten
from flan_jax.data.packing import TARGETS_CUT, TokenizedExample
from flan_jax.data.row_format import DecoderOnlyRows, EncoderDecoderRows, row_format

CAPACITY = (12, 6)


@st.composite
def examples(draw):
    ids = st.integers(2, 50)
    sizes = draw(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), max_size=12))
    return [
        TokenizedExample(
            np.array(draw(st.lists(ids, min_size=n, max_size=n)), np.int32),
            np.array(draw(st.lists(ids, min_size=m, max_size=m)), np.int32),
            draw(st.integers(0, 3)),
            targets_lost=draw(st.integers(0, 1)),
        )
        for n, m in sizes
    ]


@settings(max_examples=100, deadline=None)
@given(
    examples(), st.sampled_from(["encoder_decoder", "decoder_only"]), st.booleans(), st.randoms()
)
def test_rows_made_at_once_are_those_made_one_by_one(made, kind, packed, random):
    rows = row_format(kind, CAPACITY, packed)
    groups = rows.groups([(len(e.inputs), len(e.targets)) for e in made])
    assert sorted(i for group in groups for i in group) == list(range(len(made)))
    random.shuffle(groups)
    at_once = rows.rows(flatten(made), groups)
    cuts = at_once.pop("decoder_cuts")
    for number, group in enumerate(groups):
        row = rows.row([made[i] for i in group])
        assert set(row) == set(at_once)
        for name, array in row.items():
            np.testing.assert_array_equal(at_once[name][number], array, err_msg=name)
            assert at_once[name].dtype == array.dtype, name
        told = sum(made[i].cut > 0 for i in group)
        assert np.count_nonzero(cuts[number] == TARGETS_CUT) == told


def test_a_decoder_only_row_holds_inputs_and_targets_together():
    assert row_format("decoder_only", (2048, 512), True) == DecoderOnlyRows(2560, True)
    assert row_format("encoder_decoder", (2048, 512), False) == EncoderDecoderRows(
        (2048, 512), False
    )
    # In whatever shares: longer inputs than 12 beside short targets.
    rows = DecoderOnlyRows(18)
    assert rows.groups([(12, 6), (2, 1), (9, 3), (2, 1)]) == [[0], [2, 1, 3]]


def test_examples_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="does not fit"):
        DecoderOnlyRows(18).groups([(16, 3)])
    one = TokenizedExample(np.array([5, 1], np.int32), np.array([6, 1], np.int32), 0)
    for kind in ("encoder_decoder", "decoder_only"):
        with pytest.raises(ValueError, match="holds one example, found 2"):
            row_format(kind, CAPACITY, False).rows(flatten([one, one]), [[0, 1]])
