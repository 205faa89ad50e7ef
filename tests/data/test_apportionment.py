"""The apportionment: at every step every task is within one draw of its share, from any start."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flan_jax.data.apportionment import Apportionment, integer_shares
from flan_jax.draws import stable_hash

# From equal to skewed over twelve orders of magnitude, with many ties.
_WEIGHTS = st.one_of(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60),
    st.lists(st.sampled_from([1.0, 2.0, 3.0, 1000.0, 1e-3]), min_size=1, max_size=60),
    st.lists(st.integers(1, 9).map(lambda n: Fraction(1, n)), min_size=1, max_size=60),
    st.tuples(st.lists(st.floats(0.4, 1), min_size=1, max_size=2), st.integers(1, 58)).map(
        lambda heavy_light: heavy_light[0] + [0.01 / heavy_light[1]] * heavy_light[1]
    ),
)


def _worst(tasks, shares) -> Fraction:
    """The largest deviation of any task after any step, exact.

    A task deviates most just before or just after one of its own turns, or at the end.
    """
    counts = [0] * len(shares)
    worst = Fraction(0)
    for step, task in enumerate(tasks):
        share = shares[task]
        worst = max(worst, abs(counts[task] - step * share))
        counts[task] += 1
        worst = max(worst, abs(counts[task] - (step + 1) * share))
    end = len(tasks)
    return max([worst, *(abs(c - end * s) for c, s in zip(counts, shares, strict=True))])


@settings(max_examples=60, deadline=None)
@given(_WEIGHTS, st.integers(0, 2**32), st.integers(9, 300), st.booleans())
def test_after_every_step_every_task_is_within_one_draw_of_its_share(weights, seed, block, shuffle):
    sequence = Apportionment(weights, seed, shuffle=shuffle, block=block)
    turns = sequence.turns(0, 600)
    assert _worst(turns.tasks, sequence.shares) <= 1 - Fraction(1, 2 * len(weights))
    # The same against the weights as given, free of the rounding to 2**-62.
    total = sum(map(Fraction, weights))
    given_shares = [Fraction(weight) / total for weight in weights]
    assert _worst(turns.tasks, given_shares) < 1


@settings(max_examples=40, deadline=None)
@given(_WEIGHTS, st.integers(0, 2**32), st.integers(0, 2**14))
@example([3.0, 1.0, 0.01, 7.3], 0, 2**40)
@example([1 / n for n in range(1, 60)], 1, 2**40 + 1)
def test_the_bound_holds_far_out_without_what_came_before(weights, seed, number):
    sequence = Apportionment(weights, seed, block=128)
    start = number * 128
    bound = 1 - Fraction(1, 2 * len(weights))
    turns = sequence.turns(start, start + 400)
    for step, (task, count) in enumerate(zip(*(a.tolist() for a in turns), strict=True), start):
        share = sequence.shares[task]
        assert abs(count - step * share) <= bound
        assert abs(count + 1 - (step + 1) * share) <= bound
    counts = sequence.counts_at(start)
    assert counts.sum() == start
    shares = [share for share in sequence.shares if share]
    assert all(abs(c - start * s) <= bound for c, s in zip(counts, shares, strict=True))


@settings(max_examples=30, deadline=None)
@given(_WEIGHTS, st.integers(0, 2**32), st.integers(20, 700))
def test_a_task_s_draws_are_numbered_without_gap_or_repeat(weights, seed, block):
    turns = Apportionment(weights, seed, block=block).turns(0, 1500)
    seen: dict[int, int] = {}
    for task, count in zip(turns.tasks.tolist(), turns.counts.tolist(), strict=True):
        assert count == seen.get(task, 0)
        seen[task] = count + 1


def _replayed(sequence: Apportionment, seed: int, steps: int) -> list[list[int]]:
    """Counts after every step of earliest deadline first, replayed in fractions from the start."""
    shares, delta = sequence.shares, Fraction(1, 2 * len(sequence.shares))
    counts = [0] * len(shares)
    history = [list(counts)]
    for step in range(1, steps + 1):
        released = [i for i, s in enumerate(shares) if step * s >= counts[i] + delta]
        task = min(
            released,
            key=lambda i: (
                (counts[i] + 1 - delta) // shares[i] + 1,
                stable_hash(seed, "tie", i, counts[i] + 1),
            ),
        )
        counts[task] += 1
        history.append(list(counts))
    return history


@settings(max_examples=20, deadline=None)
@given(_WEIGHTS, st.integers(0, 2**32))
def test_counts_at_any_step_are_those_of_a_replay(weights, seed):
    sequence = Apportionment(weights, seed)
    history = _replayed(sequence, seed, 700)
    for step in [0, 1, 2, 3, 5, 8, 64, 128, *range(190, 200), 333, 511, 512, 600, 699, 700]:
        assert sequence.counts_at(step).tolist() == history[step], step


def test_counts_of_very_rare_tasks_are_those_of_a_replay():
    # Draws that wait for thousands of steps: what is decided lies far behind.
    for seed, (heavy, light) in enumerate([(1, 40), (3, 40), (12, 25), (0, 30)]):
        rates = np.random.default_rng(seed).uniform(1, 2, heavy).tolist()
        rates += np.exp(np.random.default_rng(seed).uniform(-9, -6, light)).tolist()
        sequence = Apportionment(rates, seed)
        history = _replayed(sequence, seed, 2500)
        for step in range(0, 2501, 97):
            assert sequence.counts_at(step).tolist() == history[step], step


@settings(max_examples=20, deadline=None)
@given(_WEIGHTS, st.integers(40, 900), st.lists(st.integers(0, 3000), min_size=1, max_size=20))
def test_any_part_can_be_asked_for_in_any_order(weights, block, starts):
    whole = Apportionment(weights, 3, block=block).turns(0, 3200)
    sequence = Apportionment(weights, 3, block=block)
    for start in starts:
        part = sequence.turns(start, start + 150)
        assert part.tasks.tolist() == whole.tasks[start : start + 150].tolist()
        assert part.counts.tolist() == whole.counts[start : start + 150].tolist()


def test_pickled_in_threads_and_in_a_fresh_process_it_is_the_same():
    weights = [5, 1, 0.3, 2.5, 1e-3]
    sequence = Apportionment(weights, 9, block=500)
    expected = sequence.turns(0, 4000).tasks.tolist()
    copy = pickle.loads(pickle.dumps(sequence))
    assert len(pickle.dumps(sequence)) < 2000  # the cache stays behind
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda i: copy.turns(i * 50, i * 50 + 50).tasks.tolist(), range(80)))
    assert list(itertools.chain.from_iterable(parts)) == expected
    code = (
        "from flan_jax.data.apportionment import Apportionment;"
        f"print(Apportionment({weights}, 9, block=500).turns(0, 4000).tasks.tolist())"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == str(expected)


def test_the_sequence_is_pinned():
    # It must not change with the version of numpy or of this code: runs are resumed by it.
    turns = Apportionment([5, 3, 1, 1], 0).turns(0, 30)
    assert "".join(map(str, turns.tasks.tolist())) == "100203100110301002101003021001"


def test_seeds_and_rounds_differ():
    weights = [1.0] * 20
    one, two = (Apportionment(weights, seed).turns(0, 400).tasks for seed in (1, 2))
    assert (one == two).mean() < 0.2
    # Equal tasks come once each in every 20 steps, in another order every time.
    rounds = one.reshape(20, 20)
    assert all(sorted(part) == list(range(20)) for part in rounds.tolist())
    assert len({tuple(part) for part in rounds.tolist()}) == 20
    followers = {(a, b) for a, b in itertools.pairwise(one.tolist())}
    assert len(followers) > 180  # of 380 pairs of different tasks


def test_no_period_is_visible():
    # Turns at independent uniform times within intervals of 1 / share leave gaps between them
    # whose deviation is sqrt(1/6) = 0.41 of their mean; a regular order, next to none.
    rates = np.exp(np.random.default_rng(0).uniform(0, 4, 300)).tolist()
    variation = {}
    for shuffle in (True, False):
        tasks = Apportionment(rates, 0, shuffle=shuffle, block=1 << 14).turns(0, 1 << 16).tasks
        gaps = [np.diff(np.flatnonzero(tasks == task)) for task in range(300)]
        variation[shuffle] = np.median([gap.std() / gap.mean() for gap in gaps])
    assert 0.3 < variation[True] < 0.45
    assert variation[False] < 0.1


def test_the_ends_of_blocks_hardly_show():
    # Earliest deadline first keeps rare tasks back until a block's end: without remedy their part
    # of the steps would be a tenth off on either side of it.
    rates = np.exp(np.random.default_rng(1).uniform(0, 5, 500))
    rates /= rates.sum()
    rare = np.argsort(rates)[:350]
    block = 1 << 16
    tasks = Apportionment(rates.tolist(), 0, block=block).turns(block, 3 * block).tasks
    parts = np.isin(tasks, rare).reshape(2, 16, -1).mean(axis=(0, 2))
    assert np.abs(parts / rates[rare].sum() - 1).max() < 0.05


def test_a_rare_task_may_have_its_first_turn_at_any_time():
    # Its draw must come within some 1,000 steps, and may come at any of them.
    rates = [*np.random.default_rng(0).uniform(1, 2, 60).tolist(), 0.09]
    interval = sum(rates) / 0.09
    first = []
    for seed in range(60):
        tasks = Apportionment(rates, seed, block=4096).turns(0, 2000).tasks
        first.append(np.flatnonzero(tasks == 60)[0] / interval)
    assert max(first) < 1
    assert 0.1 < np.quantile(first, 0.1) < np.quantile(first, 0.5) < 0.6
    assert np.quantile(first, 0.9) - np.quantile(first, 0.1) > 0.3


def test_a_share_of_nothing_never_has_a_turn():
    sequence = Apportionment([1.0, 0.0, 2.0, 1e-30], 0)
    assert set(sequence.turns(0, 999).tasks.tolist()) == {0, 2}
    assert sequence.shares[1] == sequence.shares[3] == 0


def test_one_task_has_every_turn():
    turns = Apportionment([0.7]).turns(70_000, 70_005)
    assert turns.tasks.tolist() == [0] * 5
    assert turns.counts.tolist() == [70_000, 70_001, 70_002, 70_003, 70_004]
    assert [len(part) for part in Apportionment([1, 2]).turns(7, 7)] == [0, 0]


@given(_WEIGHTS)
def test_integer_shares_sum_to_the_unit_and_are_the_nearest(weights):
    shares = integer_shares(weights)
    assert sum(shares) == 2**62
    total = sum(map(Fraction, weights))
    assert all(
        abs(Fraction(share, 2**62) - Fraction(weight) / total) < Fraction(1, 2**62)
        for share, weight in zip(shares, weights, strict=True)
    )


@pytest.mark.parametrize("weights", [[], [0.0], [1, -1], [1, float("nan")], [float("inf")]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="weights must"):
        Apportionment(weights)


def test_a_block_must_hold_a_step():
    with pytest.raises(ValueError, match="block must be at least 1, found 0"):
        Apportionment([1], block=0)
