"""Prefix and causal language modeling: where texts are split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.objectives import CausalLM, PrefixLM


@given(
    length=st.integers(0, 300),
    rate=st.none() | st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_a_beginning_and_the_rest(length, rate, seed):
    tokens = list(range(2, length + 2))
    inputs, targets = PrefixLM(rate)(tokens, (), Draws(seed))
    assert inputs + targets == tokens
    if length >= 2:
        assert inputs and targets
        needed = PrefixLM(rate).needed(length)
        assert len(inputs) <= needed.inputs and len(targets) <= needed.targets
    if length >= 2 and rate is not None:
        assert abs(len(targets) - length * rate) <= 1


def test_every_split_is_equally_likely():
    """As in T5: from one token of inputs to all but one."""
    count = 20_000
    splits = [len(PrefixLM()(range(11), (), Draws(seed))[0]) for seed in range(count)]
    found = np.bincount(splits, minlength=12)
    assert found[0] == found[11] == 0
    assert np.abs(found[1:11] - count / 10).max() < 4.5 * np.sqrt(count * 0.1 * 0.9)


def test_the_last_quarter_of_the_text():
    """UL2's S-denoiser: r = 0.25 in one span, at the end."""
    inputs, targets = PrefixLM(0.25)(list(range(400)), (), Draws(0))
    assert targets == list(range(300, 400)) and inputs == list(range(300))


def test_causal_is_all_targets():
    assert CausalLM()([5, 6, 7], (), Draws(0)) == ([], [5, 6, 7])


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.5, 2])
def test_senseless_rates_are_refused(rate):
    with pytest.raises(UserError, match="0 < corruption_rate < 1, or None to split anywhere"):
        PrefixLM(rate)
