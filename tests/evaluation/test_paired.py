from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.errors import UserError
from flan_jax.evaluation.paired import compare_items, values_of
from flan_jax.evaluation.scores import compare, score


def test_agrees_with_the_comparison_of_scores(run_of_micro):
    requests, before, after = run_of_micro(items=40)
    old, new = score(requests, before), score(requests, after)
    theirs = compare(old, new)
    ours = compare_items(values_of(old), values_of(new))
    assert ours.overall.value == pytest.approx(100 * theirs.summary["overall"].value)
    assert ours.overall.low == pytest.approx(100 * theirs.summary["overall"].low, abs=0.4)
    assert ours.overall.high == pytest.approx(100 * theirs.summary["overall"].high, abs=0.4)
    for name, difference in theirs.tasks.items():
        found = ours.subtasks[name]
        assert (found.gained, found.lost) == (difference.gained, difference.lost)
        assert found.value == pytest.approx(100 * difference.value)


ITEMS = st.dictionaries(
    st.builds("{}/{}".format, st.sampled_from("abc"), st.integers(0, 30)),
    st.tuples(st.booleans(), st.booleans()),
    min_size=1,
)


@given(items=ITEMS, mean=st.sampled_from(["macro", "micro"]))
@settings(deadline=None, max_examples=40)
def test_properties(items, mean):
    before = {name: float(pair[0]) for name, pair in items.items()}
    after = {name: float(pair[1]) for name, pair in items.items()}
    found = compare_items(before, after, mean, resamples=50)
    back = compare_items(after, before, mean, resamples=50)
    assert found.overall.value == pytest.approx(-back.overall.value)
    assert found.overall.low == pytest.approx(-back.overall.high)
    assert (found.overall.gained, found.overall.lost) == (back.overall.lost, back.overall.gained)
    assert found.overall.n == len(items) == sum(part.n for part in found.subtasks.values())
    if mean == "micro":
        expected = 100 * (np.mean(list(after.values())) - np.mean(list(before.values())))
        assert found.overall.value == pytest.approx(expected)
    same = compare_items(before, before, mean, resamples=50).overall
    assert (same.value, same.low, same.high, same.clear) == (0, 0, 0, False)


def test_order_of_items_does_not_matter():
    before = {f"a/{i}": float(i % 2) for i in range(20)}
    after = {f"a/{i}": float(i % 3 == 0) for i in range(20)}
    turned = compare_items(dict(reversed(before.items())), dict(reversed(after.items())))
    assert turned == compare_items(before, after)


@pytest.mark.parametrize(
    "before, after, message",
    [
        ({"a/0": 1.0}, {"a/1": 1.0}, "2 of 2 items have one score only .*a/0"),
        ({}, {}, "no items"),
    ],
)
def test_refusals(before, after, message: str):
    with pytest.raises(UserError, match=message):
        compare_items(before, after)


def test_a_corpus_metric_has_no_items(make_request):
    requests = [make_request(f"task/{i}", metrics=("bleu",)) for i in range(3)]
    scores = score(requests, {r.id: "yes" for r in requests}, resamples=20)
    with pytest.raises(UserError, match="bleu is no mean"):
        values_of(scores)
