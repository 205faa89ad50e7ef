from __future__ import annotations

import random

import numpy as np
import pytest

from flan_jax.errors import UserError
from flan_jax.evaluation.scores import compare, score
from flan_jax.evaluation.statistics import wilson


def _quiz(make_request, task, right, count, **attributes):
    """Requests answered `yes`, and predictions of which the first `right` are right."""
    requests = [make_request(f"{task}/{i}", **attributes) for i in range(count)]
    return requests, {r.id: "yes" if i < right else "no" for i, r in enumerate(requests)}


def test_means_count_every_task_once(make_request):
    small, small_texts = _quiz(make_request, "small", 5, 10, cluster="one")
    large, large_texts = _quiz(make_request, "large", 90, 100, cluster="one")
    other, other_texts = _quiz(make_request, "other", 1, 4, cluster="two", held_out=True)
    scores = score([*small, *large, *other], small_texts | large_texts | other_texts)
    assert scores.tasks["small"].value == 0.5
    assert scores.clusters["one"].value == pytest.approx(0.7)
    assert scores.overall.value == pytest.approx((0.5 + 0.9 + 0.25) / 3)
    assert scores.held_in.value == pytest.approx(0.7)
    assert scores.held_out.value == 0.25
    assert (scores.overall.n, scores.overall.tasks) == (114, 3)
    assert scores.tasks["small"].interval == wilson(5, 10)
    assert scores.clusters["two"].interval == wilson(1, 4)
    low, high = scores.clusters["one"].interval
    assert low < 0.7 < high
    spread = np.sqrt(0.25 / 10 + 0.09 / 100) / 2
    assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.15)


def test_a_perfect_task_does_not_claim_certainty(make_request):
    first, first_texts = _quiz(make_request, "first", 20, 20)
    second, second_texts = _quiz(make_request, "second", 20, 20)
    overall = score([*first, *second], first_texts | second_texts).overall
    assert overall.value == overall.high == 1.0
    assert overall.low < 0.95


def test_order_of_requests_and_other_tasks_do_not_matter(run_of_micro):
    requests, _, after = run_of_micro()
    scores = score(requests, after)
    shuffled = random.Random(0).sample(requests, len(requests))
    assert score(shuffled, after).tasks == scores.tasks
    alone = [r for r in requests if r.task == "micro_addition"]
    assert score(alone, after).tasks["micro_addition"] == scores.tasks["micro_addition"]


def test_baselines(make_request):
    texts = ("left", "right", "middle")
    answers = ["left"] * 6 + ["right"] * 3 + ["middle"]
    requests = [
        make_request(f"t/{i}", answer=a, options=texts[: 2 + i % 2] if a != "middle" else texts,
                     option_texts=texts[: 2 + i % 2] if a != "middle" else texts)
        for i, a in enumerate(answers)
    ]  # fmt: skip
    result = score(requests, {r.id: "right" for r in requests}).tasks["t"]
    assert result.value == 0.3
    assert result.majority == result.baseline == 0.6
    sizes = [len(r.option_texts) for r in requests]
    assert result.chance == pytest.approx(np.mean([1 / size for size in sizes]))
    assert result.edge == pytest.approx(-0.3)
    assert result.edge_low < -0.3 < result.edge_high
    open_requests = [make_request(f"t/{i}", answer=a) for i, a in enumerate(answers)]
    assert score(open_requests, {r.id: "x" for r in requests}).tasks["t"].chance is None


def test_always_giving_the_majority_answer_has_no_edge(make_request):
    requests = [make_request(f"t/{i}", answer=a) for i, a in enumerate("aaabbcdefg")]
    result = score(requests, {r.id: "a" for r in requests}).tasks["t"]
    assert (result.edge, result.edge_low, result.edge_high) == (0.0, 0.0, 0.0)


def test_unparsed_counts_as_wrong(make_request):
    requests = [
        make_request(f"t/{i}", answer="(A)", options=("(A)", "(B)"), option_texts=("x", "y"),
                     answer_text="x")
        for i in range(4)
    ]  # fmt: skip
    texts = ["(A)", "y", "neither", ""]
    result = score(requests, {r.id: t for r, t in zip(requests, texts, strict=True)}).tasks["t"]
    assert (result.value, result.unparsed) == (0.25, 2)


def test_corpus_metric_and_further_metrics(make_request):
    pytest.importorskip("sacrebleu")
    answers = ["the cat sat on the mat today", "dogs bark loudly at night in town"]
    requests = [
        make_request(f"t/{i}", answer=a, metrics=("bleu", "squad_f1", "exact_match"))
        for i, a in enumerate(answers)
    ]
    scores = score(requests, {"t/0": answers[0], "t/1": "dogs bark at night"})
    result = scores.tasks["t"]
    assert result.metric == "bleu" and 0 < result.low <= result.value <= result.high <= 1
    assert set(result.metrics) == {"bleu", "squad_f1", "exact_match"}
    assert result.metrics["exact_match"] == 0.5
    assert scores.items["t/0"].value is None
    assert compare(scores, scores).tasks["t"].gained is None


def test_missing_predictions_and_no_requests_are_told(make_request):
    requests, texts = _quiz(make_request, "t", 1, 3)
    del texts["t/1"]
    with pytest.raises(UserError, match="t/1"):
        score(requests, texts)
    with pytest.raises(UserError, match="no requests"):
        score([], {})


def test_comparison_is_paired(make_request):
    requests, before_texts = _quiz(make_request, "t", 50, 100)
    after_texts = before_texts | {f"t/{i}": "yes" for i in range(50, 60)} | {"t/0": "no"}
    before, after = score(requests, before_texts), score(requests, after_texts)
    difference = compare(before, after).tasks["t"]
    assert difference.value == pytest.approx(0.09)
    assert (difference.gained, difference.lost) == (10, 1)
    assert difference.clear and difference.low > 0
    # Unpaired, nine points between two hundreds are nothing.
    assert before.tasks["t"].high > after.tasks["t"].low
    expected = np.sqrt((0.11 - 0.09**2) / 100)
    assert (difference.high - difference.low) / 2 == pytest.approx(1.96 * expected, rel=0.15)
    back = compare(after, before).tasks["t"]
    assert (back.value, back.gained, back.lost) == (-difference.value, 1, 10)


def test_only_like_is_compared_with_like(make_request):
    requests, texts = _quiz(make_request, "t", 5, 10)
    scores = score(requests, texts)
    with pytest.raises(UserError, match="same items"):
        compare(scores, score(requests[:9], texts))
    with pytest.raises(UserError, match="resampled differently"):
        compare(scores, score(requests, texts, seed=1))


def test_comparison_covers_means_and_clusters(run_of_micro):
    requests, before, after = run_of_micro()
    first, second = score(requests, before), score(requests, after)
    comparison = compare(first, second)
    assert set(comparison.summary) == {"held-in", "held-out", "overall"}
    for name, difference in comparison.clusters.items():
        change = second.clusters[name].value - first.clusters[name].value
        assert difference.value == pytest.approx(change)
        assert difference.low <= difference.value <= difference.high
    total = sum(d.gained - d.lost for d in comparison.tasks.values())
    overall = comparison.summary["overall"]
    assert overall.gained - overall.lost == total
