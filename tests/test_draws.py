"""Draws: the stream is pinned, uniform, and drawn without repetition."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.draws import Draws, stable_hash


def test_the_generator_is_splitmix64():
    draws = Draws()
    draws._state = 1234567  # the seed for which the reference outputs are published
    assert [draws.bits() for _ in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_the_stream_is_pinned():
    # If this fails, every run's data changes: such a change needs a new major version.
    assert stable_hash(0, "task", 7) == 1812266483500202810
    draws = Draws(0, "task", 7)
    assert [draws.bits() for _ in range(3)] == [
        1892512010970435121,
        5123807570727612726,
        3853703265393319905,
    ]
    assert [draws.below(1000) for _ in range(4)] == [112, 277, 781, 112]
    assert draws.sample(range(10), 4) == [8, 2, 3, 4]
    assert draws.weighted("abc", [1, 2, 3]) == "b"
    assert draws.uniform() == 0.44105577645090277


def test_the_stream_does_not_depend_on_python_s_hash_seed():
    code = "from flan_jax.draws import Draws; print(Draws(3, 'x', -1).bits())"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {f"{Draws(3, 'x', -1).bits()}\n"}


def test_paths_are_told_apart():
    paths = [(1,), ("1",), (1, 1), (11,), ("1", "1"), ("11",), (), ("",), ("", ""), (-1,)]
    assert len({stable_hash(*path) for path in paths}) == len(paths)


def _chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("n", [2, 7, 100])
def test_below_is_uniform_within_a_stream(n):
    draws = Draws("uniform", n)
    total = 200 * n
    counts = np.bincount([draws.below(n) for _ in range(total)], minlength=n)
    # Mean n - 1 and standard deviation sqrt(2 (n - 1)); 5 of them are beyond chance.
    assert _chi_square(counts, np.full(n, 200)) < n - 1 + 5 * (2 * (n - 1)) ** 0.5


def test_below_is_uniform_across_streams():
    # The first draw of neighbouring paths decides templates: paths must not be correlated.
    counts = np.bincount([Draws(0, "t", i).below(10) for i in range(5000)], minlength=10)
    assert _chi_square(counts, np.full(10, 500)) < 9 + 5 * 18**0.5


def test_neighbouring_streams_are_not_correlated():
    first = np.array([Draws(0, i).uniform() for i in range(2000)])
    second = np.array([Draws(1, i).uniform() for i in range(2000)])
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / 2000**0.5
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 5 / 2000**0.5


def test_weighted_follows_its_weights_and_skips_zeros():
    draws = Draws("weighted")
    counts = Counter(draws.weighted("abcd", [1, 0, 2, 5]) for _ in range(8000))
    assert "b" not in counts
    expected = np.array([1000, 2000, 5000])
    assert _chi_square(np.array([counts[c] for c in "acd"]), expected) < 2 + 5 * 4**0.5


def test_between_reaches_both_ends():
    draws = Draws("between")
    assert {draws.between(-1, 2) for _ in range(200)} == {-1, 0, 1, 2}
    assert draws.between(5, 5) == 5


def test_chance_of_nothing_and_of_everything():
    draws = Draws("chance")
    assert not any(draws.chance(0.0) for _ in range(100))
    assert all(draws.chance(1.0) for _ in range(100))


@given(st.integers(), st.integers(0, 30), st.data())
def test_sample_takes_distinct_positions(seed, size, data):
    k = data.draw(st.integers(0, size))
    taken = Draws(seed).sample(range(size), k)
    assert len(taken) == k == len(set(taken))
    assert set(taken) <= set(range(size))


@given(st.integers(), st.lists(st.integers(), max_size=30))
def test_shuffled_is_a_permutation_and_leaves_its_argument(seed, items):
    before = list(items)
    assert Counter(Draws(seed).shuffled(items)) == Counter(items)
    assert items == before


def test_all_orders_of_three_are_equally_likely():
    counts = Counter(tuple(Draws(i).shuffled("abc")) for i in range(6000))
    assert len(counts) == 6
    assert _chi_square(np.array(list(counts.values())), np.full(6, 1000)) < 5 + 5 * 10**0.5


def test_impossible_draws_are_refused():
    with pytest.raises(ValueError, match="n >= 1, got 0"):
        Draws().below(0)
    with pytest.raises(ValueError, match="cannot sample 3 of 2"):
        Draws().sample([1, 2], 3)
