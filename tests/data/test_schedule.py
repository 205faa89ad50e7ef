"""The schedule: exact proportions, epochs without repetition, windows that stand alone."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.data.schedule import Draw, Schedule, permuted


def _schedule(shares, sizes, **kwargs) -> Schedule:
    names = [f"t{i}" for i in range(len(shares))]
    total = math.fsum(shares)
    proportions = {name: share / total for name, share in zip(names, shares, strict=True)}
    return Schedule(proportions, dict(zip(names, sizes, strict=True)), **{"seed": 0, **kwargs})


def test_every_task_is_within_one_example_of_its_share_at_every_window():
    # As many tasks as the Flan 2022 collection has, with rates over four orders of magnitude.
    rates = np.exp(np.random.default_rng(0).uniform(0, 9, 1836))
    schedule = _schedule(list(rates), [None] * 1836, window=1000)
    shares = rates / rates.sum()
    seen = np.zeros(1836)
    for number in range(12):
        draws = schedule.window_draws(number)
        seen += np.bincount([draw.task for draw in draws], minlength=1836)
        assert np.abs(seen - shares * 1000 * (number + 1)).max() <= 1 + 1e-6
        # Phases are independent, so window sizes stay near the nominal one.
        assert abs(len(draws) - 1000) < 150


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8),
    st.integers(1, 200),
    st.integers(0, 10**6),
    st.integers(0, 2**32),
)
def test_any_window_holds_the_exact_share(shares, window, number, seed):
    schedule = _schedule(shares, [None] * len(shares), window=window, seed=seed)
    counts = Counter(draw.task for draw in schedule.window_draws(number))
    for task, share in enumerate(schedule.proportions.values()):
        assert abs(counts[task] - window * share) < 1 + 1e-6


def test_windows_join_without_gap_or_overlap():
    schedule = _schedule([1, 2.5, 0.3], [None] * 3, window=37)
    draws = itertools.chain.from_iterable(schedule.window_draws(n) for n in range(50))
    indices: dict[int, list[int]] = {}
    for draw in draws:
        indices.setdefault(draw.task, []).append(draw.index)
    for found in indices.values():
        # Endless tasks: every index once, from 0, none left out, none again.
        assert sorted(found) == list(range(len(found)))


def test_a_window_does_not_depend_on_those_before_it():
    shares, sizes = [3, 1, 2], [10, None, 7]
    fresh = [_schedule(shares, sizes, window=20).window_draws(n) for n in range(10)]
    used = _schedule(shares, sizes, window=20)
    assert [used.window_draws(n) for n in reversed(range(10))] == fresh[::-1]


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_visits_every_row_once(shuffle):
    schedule = _schedule([1, 1], [23, 5], window=16, shuffle=shuffle)
    draws = list(itertools.chain.from_iterable(schedule.window_draws(n) for n in range(40)))
    rows = Counter(draw for draw in draws if draw.task == 0)
    assert set(rows.values()) == {1}
    by_epoch = {e: {d.index for d in rows if d.epoch == e} for e in range(13)}
    assert all(by_epoch[e] == set(range(23)) for e in range(13))


def test_epochs_come_in_different_orders_when_shuffled():
    schedule = _schedule([1], [50])
    orders = [[schedule.draw("t0", 50 * e + i).index for i in range(50)] for e in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] != list(range(50))
    plain = _schedule([1], [50], shuffle=False)
    assert [plain.draw("t0", 53).index, plain.draw("t0", 53).epoch] == [3, 1]


def test_seeds_give_different_orders_of_tasks_and_rows():
    one, two = (_schedule([1, 1], [50, 50], seed=seed, window=64) for seed in (1, 2))
    assert one.window_draws(0) != two.window_draws(0)
    assert [d.task for d in one.window_draws(0)] != [d.task for d in two.window_draws(0)]


def test_draw_carries_the_position_of_its_task():
    assert _schedule([1, 1], [None, None]).draw("t1", 4, 1) == Draw(1, 4, 0)


@settings(max_examples=200)
@given(st.integers(1, 500), st.integers(0, 2**64 - 1))
def test_permuted_is_a_bijection(size, key):
    assert sorted(permuted(i, size, key) for i in range(size)) == list(range(size))


def test_permuted_scatters_neighbours():
    size = 10_000
    positions = np.array([permuted(i, size, 99) for i in range(size)])
    # Mean distance of two random positions is a third of the range.
    assert abs(np.abs(np.diff(positions)).mean() / size - 1 / 3) < 0.02
    assert abs(np.corrcoef(np.arange(size), positions)[0, 1]) < 0.05


def test_permuted_depends_on_its_key():
    fixed = [
        sum(permuted(i, 100, k) == permuted(i, 100, k + 1) for i in range(100)) for k in range(200)
    ]
    # Two independent permutations agree in one place on average.
    assert np.mean(fixed) < 1.5
