from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.evaluation.statistics import (
    Interval,
    bootstrap,
    bootstrap_sums,
    mean_of_intervals,
    noise_floor,
    paired_bootstrap,
    percentile_interval,
    unpaired_bootstrap,
    wilson,
    z_of,
)


def _mean(sums, count):
    return sums[..., 0] / count


@given(count=st.integers(1, 3000), data=st.data())
def test_wilson_solves_its_quadratic(count, data):
    """The ends are where |p̂ - p| = z sqrt(p (1 - p) / n), which defines the interval."""
    successes = data.draw(st.integers(0, count))
    share = successes / count
    z = 1.959963984540054
    for end in wilson(successes, count):
        assert abs(share - end) == pytest.approx(z * math.sqrt(end * (1 - end) / count), abs=1e-9)


def test_wilson_by_the_textbook_and_at_its_ends():
    # 0 of 10: upper end z² / (n + z²).
    assert wilson(0, 10) == pytest.approx((0.0, 3.8414588 / 13.8414588))
    assert wilson(10, 10).high == 1.0
    with pytest.raises(ValueError):
        wilson(3, 2)


def test_wilson_covers():
    """Of many samples about 95% of the intervals hold the truth, also at a small share."""
    generator = np.random.default_rng(0)
    for truth, count in ((0.5, 60), (0.1, 120), (0.02, 200)):
        hits = generator.binomial(count, truth, 3000)
        inside = [low <= truth <= high for low, high in (wilson(k, count) for k in hits)]
        assert 0.925 <= np.mean(inside) <= 0.98


def test_bootstrap_covers():
    generator = np.random.default_rng(1)
    inside = []
    for trial in range(400):
        items = (generator.random(150) < 0.3).astype(float)[:, None]
        low, high = percentile_interval(bootstrap(items, _mean, trial, 500))
        inside.append(low <= 0.3 <= high)
    assert 0.91 <= np.mean(inside) <= 0.98


def test_bootstrap_has_the_standard_error_of_the_mean():
    items = np.random.default_rng(2).normal(3.0, 2.0, 400)[:, None]
    samples = bootstrap(items, _mean, 0, 4000)
    assert samples.mean() == pytest.approx(items.mean(), abs=0.01)
    assert samples.std() == pytest.approx(items.std() / math.sqrt(400), rel=0.05)


def test_paired_differences_are_tighter_where_the_runs_agree():
    generator = np.random.default_rng(3)
    before = (generator.random(300) < 0.5).astype(float)
    after = before.copy()
    after[:15] = 1.0
    paired = paired_bootstrap(before, after, 0)
    unpaired = unpaired_bootstrap(before, after, 0)
    assert paired.mean() == pytest.approx((after - before).mean(), abs=2e-3)
    assert paired.std() < 0.5 * unpaired.std()
    expected = math.sqrt((before.var() + after.var()) / 300)
    assert unpaired.std() == pytest.approx(expected, rel=0.06)
    assert paired.std() == pytest.approx((after - before).std() / math.sqrt(300), rel=0.06)


def test_draws_depend_on_seed_and_size_alone_so_that_pairs_pair():
    left = np.arange(40.0)[:, None]
    right = np.hstack([left * 2, left**0])
    one, two = bootstrap_sums(left, 9, 100), bootstrap_sums(right, 9, 100)
    np.testing.assert_array_equal(one[:, 0] * 2, two[:, 0])
    np.testing.assert_array_equal(two[:, 1], np.full(100, 40.0))
    assert not np.array_equal(one, bootstrap_sums(left, 10, 100))


def test_draws_do_not_depend_on_how_memory_is_portioned(monkeypatch):
    items = np.random.default_rng(4).random((30, 2))
    whole = bootstrap_sums(items, 1, 200)
    monkeypatch.setattr("flan_jax.evaluation.statistics._CHUNK", 500)
    np.testing.assert_array_equal(bootstrap_sums(items, 1, 200), whole)


def test_mean_of_intervals_by_hand():
    mean, interval = mean_of_intervals([0.0, 0.5], [Interval(0.0, 0.3), Interval(0.1, 0.9)])
    assert mean == 0.25
    assert interval == pytest.approx((0.25 - 0.4 / 2, 0.25 + 0.5 / 2))


def test_nothing_to_resample_is_an_error():
    with pytest.raises(ValueError, match="no items"):
        bootstrap_sums(np.zeros((0, 1)), 0)
    with pytest.raises(ValueError, match="one shape"):
        paired_bootstrap(np.zeros(3), np.zeros(4), 0)


@given(
    counts=st.lists(st.integers(1, 200), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
def test_weights_of_intervals(counts, seed):
    """Equal weights are no weights; a lone estimate keeps its interval; weights move the mean."""
    generator = np.random.default_rng(seed)
    hits = [int(generator.integers(0, count + 1)) for count in counts]
    values = [hit / count for hit, count in zip(hits, counts, strict=True)]
    intervals = [wilson(hit, count) for hit, count in zip(hits, counts, strict=True)]
    plain = mean_of_intervals(values, intervals)
    equal = mean_of_intervals(values, intervals, [1 / len(counts)] * len(counts))
    assert equal[0] == pytest.approx(plain[0])
    assert equal[1] == pytest.approx(plain[1])
    one = [1.0] + [0.0] * (len(counts) - 1)
    value, interval = mean_of_intervals(values, intervals, one)
    assert value == values[0]
    assert interval == pytest.approx(intervals[0])


def test_noise_floor_is_where_a_difference_becomes_clear():
    """Two systems apart by the floor leave zero out of their interval about half of the time."""
    generator = np.random.default_rng(8)
    share, count, trials = 0.5, 400, 2000
    error = math.sqrt(share * (1 - share) / count)
    floor = noise_floor(error, [count], [1.0])
    assert floor.at_half == pytest.approx(error)
    low, high = share - floor.unpaired / 2, share + floor.unpaired / 2
    first = generator.binomial(count, low, trials) / count
    second = generator.binomial(count, high, trials) / count
    spread = np.sqrt((first * (1 - first) + second * (1 - second)) / count)
    clear = second - first > z_of() * spread
    assert clear.mean() == pytest.approx(0.5, abs=0.05)
    # The same items, answers that correlate by one half: a normal approximation of both.
    cut = NormalDist().inv_cdf(share + floor.paired / 2)
    shared = generator.normal(size=(trials, count))
    noise = generator.normal(size=(2, trials, count))
    # A correlation of normals of 0.707 makes one of signs of 2 asin(0.707) / pi = 0.5.
    latent = math.sqrt(0.7071) * shared + math.sqrt(1 - 0.7071) * noise
    worse, better = latent[0] < -cut, latent[1] < cut
    change = better.astype(float) - worse
    told = change.mean(axis=1) > z_of() * change.std(axis=1) / math.sqrt(count)
    assert told.mean() == pytest.approx(0.5, abs=0.06)
