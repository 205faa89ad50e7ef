"""The schedule: exact proportions, epochs without repetition, windows that stand alone."""

from __future__ import annotations

import itertools
import math
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.data.schedule import Draw, Schedule, permuted, permuted_all
from flan_jax.mixing import get_mixture


def _schedule(shares, sizes, **kwargs) -> Schedule:
    names = [f"t{i}" for i in range(len(shares))]
    total = math.fsum(shares)
    proportions = {name: share / total for name, share in zip(names, shares, strict=True)}
    return Schedule(proportions, dict(zip(names, sizes, strict=True)), **{"seed": 0, **kwargs})


def _worst_deviation(schedule: Schedule, windows: int) -> float:
    """Largest deviation of any task from its share after any example, in double precision.

    A task deviates most just before or just after one of its own draws, or at the end.
    """
    shares = np.array(list(schedule.proportions.values()))
    counts, step, worst = np.zeros(len(shares)), 0, 0.0
    for number in range(windows):
        draws = schedule.window_draws(number)
        assert len(draws) == schedule.window
        for draw in draws:
            share, count = shares[draw.task], counts[draw.task]
            worst = max(worst, abs(count - step * share), abs(count + 1 - (step + 1) * share))
            counts[draw.task] += 1
            step += 1
        worst = max(worst, np.abs(counts - step * shares).max())
    return worst


def test_every_task_of_flan2022_is_within_one_draw_of_its_share_after_every_example():
    import flan_jax.mixtures  # noqa: F401  (announces the mixture)

    proportions = get_mixture("flan2022").proportions()
    assert len(proportions) > 1800
    schedule = Schedule(proportions, dict.fromkeys(proportions), seed=0)
    assert 0.9 < _worst_deviation(schedule, 300) < 1


def test_the_bound_does_not_need_equal_or_similar_rates():
    # As many tasks as the Flan 2022 collection has, with rates over four orders of magnitude.
    rates = np.exp(np.random.default_rng(0).uniform(0, 9, 1836))
    schedule = _schedule(list(rates), [None] * 1836, window=1000)
    assert 0.9 < _worst_deviation(schedule, 70) < 1


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8),
    st.integers(1, 200),
    st.integers(0, 10**6),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_any_window_holds_the_exact_share(shares, window, number, seed, shuffle):
    schedule = _schedule(shares, [None] * len(shares), window=window, seed=seed, shuffle=shuffle)
    draws = schedule.window_draws(number)
    assert len(draws) == window
    counts = Counter(draw.task for draw in draws)
    for task, share in enumerate(schedule.proportions.values()):
        assert abs(counts[task] - window * share) < 2
        # Endless: the rows read so far are the draws so far.
        rows = [draw.index for draw in draws if draw.task == task]
        assert all(abs(row - number * window * share) < 1 for row in rows[:1])
        assert rows == list(range(rows[0], rows[0] + len(rows))) if rows else True


def test_windows_are_cut_from_one_sequence():
    shares, sizes = [3, 1, 2], [10, None, 7]
    cut = []
    for window in (1, 7, 40, 840):
        schedule = _schedule(shares, sizes, window=window)
        cut.append([d for n in range(840 // window) for d in schedule.window_draws(n)])
    assert cut[0] == cut[1] == cut[2] == cut[3]


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
    copy = pickle.loads(pickle.dumps(used))
    assert len(pickle.dumps(used)) < 1000
    assert copy == used and copy.window_draws(4) == fresh[4]


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


@given(st.lists(st.tuples(st.integers(1, 2**40), st.integers(0, 2**64 - 1)), max_size=30))
def test_many_are_permuted_as_one(pairs):
    sizes, keys = (
        np.array([p[0] for p in pairs], np.int64),
        np.array([p[1] for p in pairs], np.uint64),
    )
    indices = sizes * 2 // 3
    found = permuted_all(indices, sizes, keys).tolist()
    assert found == [permuted(int(i), *pair) for i, pair in zip(indices, pairs, strict=True)]


def test_a_window_s_draws_are_those_of_its_tasks():
    schedule = _schedule([3, 1, 2, 0.5], [10, None, 7, 1], window=300, seed=5)
    counts: Counter[int] = Counter()
    for draw in schedule.window_draws(0) + schedule.window_draws(1):
        assert draw == schedule.draw(f"t{draw.task}", counts[draw.task], draw.task)
        counts[draw.task] += 1


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
