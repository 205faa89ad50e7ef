"""Recommended lengths: as good as a search of all, and never cutting more than was asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.data.length_pair import (
    _NEARLY_AS_FULL,
    describe_pair,
    expected_fill,
    recommend_length_pair,
    shortest_trim,
)


def lognormal(count, seed=0):
    rng = np.random.default_rng(seed)
    inputs = np.clip(rng.lognormal(np.log(150), 1.0, count), 2, 2048)
    targets = np.clip(rng.lognormal(np.log(8), 1.4, count), 2, 512)
    return np.stack([inputs, targets], axis=1).round().astype(int)


pairs = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 60)), min_size=1, max_size=40)


def test_fill_by_hand():
    # Two rows: (6, 1) + (2, 1) and (5, 4).
    fill = expected_fill([(6, 1), (5, 4), (2, 1)], (8, 4))
    assert (fill.rows, fill.examples_per_row) == (2, 1.5)
    assert (fill.inputs, fill.targets, fill.all) == (13 / 16, 6 / 8, 19 / 24)


def test_fill_is_of_whole_windows():
    sizes = [(8, 4), (8, 4), (1, 1)]
    assert expected_fill(sizes, (8, 4), window=2).all == 1
    assert expected_fill(sizes, (8, 4), window=3).rows == 3


def test_a_pair_says_what_is_cut():
    found = describe_pair([(10, 2), (4, 9), (12, 8), (2, 1)], (16, 8), (8, 8))
    assert (found.capacity, found.trim) == ((16, 8), (8, 8))
    assert (found.inputs_cut, found.targets_cut) == (0.5, 0.25)
    assert found.tokens_lost == pytest.approx(7 / 48)
    with pytest.raises(ValueError, match=r"up to \(17, 8\) tokens do not fit rows of \(16, 8\)"):
        describe_pair([(1, 1)], (16, 8), (17, 8))


@given(pairs, st.sampled_from([0.0, 0.01, 0.1, 0.5]))
def test_the_shortest_trim_cuts_few_and_a_shorter_one_more(sizes, share):
    lengths = np.array(sizes)
    trim = np.array(shortest_trim(sizes, share))
    assert ((lengths > trim).mean(axis=0) <= share).all()
    assert ((lengths > trim - 1).mean(axis=0) > share).all()


@settings(max_examples=25, deadline=None)
@given(pairs, st.integers(128, 320), st.integers(16, 70))
def test_nothing_is_cut_that_the_given_pair_keeps(sizes, inputs, targets):
    asked = (inputs, targets)
    found, now = recommend_length_pair(sizes, asked), describe_pair(sizes, asked)
    assert found.inputs >= inputs and found.targets >= targets
    assert (found.inputs_cut, found.targets_cut) == (now.inputs_cut, now.targets_cut)
    assert found.tokens_lost == now.tokens_lost
    assert found.fill.all >= now.fill.all - _NEARLY_AS_FULL


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([8, 16]))
def test_no_target_length_is_better(seed, multiple):
    sizes = np.minimum(lognormal(200, seed), (300, 80))
    found = recommend_length_pair(
        sizes, (300, 80), inputs_length=512, targets_multiple=multiple, window=100
    )
    assert found.inputs == 512 and found.targets % multiple == 0
    fills = [
        expected_fill(sizes, (512, targets), window=100).all for targets in range(80, 513, multiple)
    ]
    assert found.fill.all >= max(fills) - _NEARLY_AS_FULL


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_no_division_of_a_total_is_better(seed):
    sizes = np.minimum(lognormal(200, seed), (300, 80))
    found = recommend_length_pair(sizes, (300, 80), total=640, window=100)
    assert found.inputs + found.targets == 640
    fills = [
        expected_fill(sizes, (640 - targets, targets), window=100).all
        for targets in range(80, 341, 16)
    ]
    assert found.fill.all >= max(fills) - _NEARLY_AS_FULL


@pytest.mark.parametrize(
    "asked",
    [
        {"given": (2048, 512)},
        {"given": (1024, 256)},
        {"given": (2048, 512), "inputs_length": 2048, "cut_at_most": 0.01},
    ],
)
def test_rows_of_the_recommended_lengths_are_full_on_unseen_examples(asked):
    found = recommend_length_pair(lognormal(4096, 1), **asked)
    unseen = describe_pair(lognormal(4096, 2), found.capacity, found.trim)
    assert unseen.fill.all >= 0.93
    if "cut_at_most" in asked:
        assert found.inputs_cut <= 0.01 and found.targets_cut <= 0.01
        assert max(unseen.inputs_cut, unseen.targets_cut) < 0.02


def test_more_room_than_the_trimmed_length_fills_rows_better():
    sizes = lognormal(4096)
    tight, roomy = (describe_pair(sizes, (4096, targets)) for targets in (512, 528))
    assert tight.fill.inputs < 0.97 < 0.985 < roomy.fill.inputs
    assert roomy.fill.all > tight.fill.all + 0.01


def test_impossible_wishes():
    sizes = [(100, 20), (50, 3)]
    with pytest.raises(ValueError, match="inputs_length or total, not both"):
        recommend_length_pair(sizes, (128, 32), inputs_length=128, total=160)
    with pytest.raises(ValueError, match=r"inputs of 64 holds examples of \(128, 32\)"):
        recommend_length_pair(sizes, (128, 32), inputs_length=64)
    with pytest.raises(ValueError, match=r"a total of 150 holds examples of \(128, 32\)"):
        recommend_length_pair(sizes, (128, 32), total=150)
    assert recommend_length_pair(sizes, (128, 32), total=150, cut_at_most=0).trim == (100, 20)
    with pytest.raises(ValueError, match="no examples"):
        recommend_length_pair([], (128, 32))
    with pytest.raises(ValueError, match="from 0 to below 1, found 1"):
        shortest_trim(sizes, 1)
