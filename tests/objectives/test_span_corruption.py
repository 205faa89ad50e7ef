"""Span corruption: nothing is lost, and as much is taken out as T5 takes out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.objectives import SpanCorruption
from tests.objectives.texts import reconstruct

SENTINELS = tuple(range(1099, 999, -1))


def corrupt(tokens, seed=0, objective=None, sentinels=SENTINELS):
    return (objective or SpanCorruption())(tokens, sentinels, Draws(seed, "test"))


@settings(max_examples=150, deadline=None)
@given(
    tokens=st.lists(st.integers(2, 998), max_size=300),
    density=st.floats(0.01, 0.99),
    mean=st.floats(1, 20),
    seed=st.integers(0, 2**32),
)
def test_inputs_and_targets_hold_the_text_exactly(tokens, density, mean, seed):
    inputs, targets = corrupt(tokens, seed, SpanCorruption(density, mean))
    assert reconstruct(inputs, targets, SENTINELS) == tokens
    if len(tokens) < 2:
        assert (inputs, targets) == (tokens, [])
        return
    # Each sentinel has a span; the text begins with kept tokens and ends with a span.
    assert inputs[0] < 1000
    assert inputs[-1] >= 1000
    assert all(a < 1000 or b < 1000 for a, b in itertools.pairwise(inputs))
    assert all(a < 1000 or b < 1000 for a, b in itertools.pairwise(targets))
    assert targets[-1] < 1000


@pytest.mark.parametrize(
    ("length", "noise", "spans"),
    [(2, 1, 1), (10, 2, 1), (20, 3, 1), (40, 6, 2), (100, 15, 5), (512, 77, 26)],
)
def test_counts_are_t5s(length, noise, spans):
    """round(0.15 * length) tokens in round(noise / 3) spans, whatever the draws."""
    for seed in range(5):
        inputs, targets = corrupt(list(range(2, length + 2)), seed)
        assert len(targets) == noise + spans
        assert len(inputs) == length - noise + spans


def test_spans_are_no_more_than_sentinels():
    tokens = list(range(2, 502))
    inputs, targets = corrupt(tokens, sentinels=SENTINELS[:3])
    assert [token for token in targets if token >= 1000] == list(SENTINELS[:3])
    assert reconstruct(inputs, targets, SENTINELS) == tokens
    assert len(targets) - 3 == 75


def test_deterministic_and_drawn_anew_for_another_seed():
    tokens = list(range(2, 102))
    assert corrupt(tokens, 1) == corrupt(tokens, 1)
    assert len({str(corrupt(tokens, seed)) for seed in range(20)}) == 20


def test_every_place_but_the_first_can_be_taken_out():
    """Over many draws each token but the first is taken out about as often as the others."""
    taken = np.zeros(20)
    for seed in range(2000):
        _, targets = corrupt(list(range(2, 22)), seed, SpanCorruption(0.5, 2.0))
        taken[[token - 2 for token in targets if token < 1000]] += 1
    assert taken[0] == 0
    assert taken[1:].min() > 300


@pytest.mark.parametrize(
    "fields", [{"noise_density": 0.0}, {"noise_density": 1.0}, {"mean_noise_span_length": 0.5}]
)
def test_senseless_settings_are_refused(fields):
    with pytest.raises(UserError, match="0 < noise_density < 1 and mean_noise_span_length >= 1"):
        SpanCorruption(**fields)
