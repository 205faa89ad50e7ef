"""How much work there is, and how long it will take."""

from __future__ import annotations

import pytest

from flan_jax.evaluation.budget import Clock, Cost, budget, duration


def test_the_work_of_a_plan_is_its_padded_tokens(make_request):
    requests = [make_request(f"t/{i}", tokens=(5,) * length) for i, length in
                enumerate([10, 20, 33, 64, 100])]  # fmt: skip
    found = budget(requests, 2, 128, Cost(decoded=10, paths=3))
    assert found.batches == {(2, 32): 1, (2, 64): 1, (2, 128): 1}
    assert found.tokens == 2 * (32 + 64 + 128) + 3 * 2 * 3 * 10


def test_time_left_follows_the_pace_of_compiled_shapes():
    cost = Cost(decoded=4, paths=1)
    shapes = [(1, 16), (1, 16), (1, 16), (1, 6)]
    clock = Clock(cost, shapes)
    clock.count((1, 16), 100.0)  # compiles
    assert clock.seconds_left() is None
    clock.count((1, 16), 2.0)
    assert clock.seconds_left() == pytest.approx(2.0 + 1.0)
    clock.count((1, 16), 4.0)
    assert clock.seconds_left() == pytest.approx(1.5)
    clock.count((1, 6), 50.0)
    assert clock.seconds_left() == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (89, "89 s"), (100, "2 min"), (5000, "83 min"), (6000, "1.7 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
