from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from importlib import resources

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.evaluation.benchmark_scores import (
    COUNTS,
    BenchmarkResult,
    benchmark_result,
    items_hash,
    normalize,
)
from flan_jax.evaluation.benchmarks import BenchmarkProtocol, get_protocol
from flan_jax.evaluation.planning import plan
from flan_jax.evaluation.predictions import requests_to_judge
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE
from tests.evaluation.suite_runs import SIZES, answers_of, colours, registered


@pytest.fixture(scope="module", autouse=True)
def protocols():
    with registered(
        colours(),
        colours("colours_micro", mean="micro"),
        colours("colours_extra", subtasks=("apples", "birds"), extra_subtasks=("clouds",),
                groups={}, notes=lambda subtask, split: [f"{subtask} of {split}"]),
        colours("colours_f1", metrics=("squad_f1", "exact_match")),
    ):  # fmt: skip
        yield


@pytest.fixture(scope="module")
def schema() -> dict:
    path = resources.files("flan_jax.evaluation") / "schemas" / "benchmark_result.json"
    return json.loads(path.read_text(encoding="utf-8"))


def result_of(name: str, vocabulary, skill: float = 0.6, **arguments) -> BenchmarkResult:
    protocol = BenchmarkProtocol(name)
    requests = plan(protocol, vocabulary, 130)
    outputs, ended = answers_of(requests, skill, "one")
    return benchmark_result(
        protocol, requests, outputs, ended=ended, resamples=400, **arguments
    )  # fmt: skip


def by_hand(vocabulary) -> dict[str, list[bool]]:
    """Right or wrong by subtask, without the library's scorers."""
    requests = plan(BenchmarkProtocol("colours_direct"), vocabulary, 130)
    outputs, _ = answers_of(requests, 0.6, "one")
    right: dict[str, list[bool]] = {}
    for request in requests:
        right.setdefault(request.task, []).append(outputs[request.id] == request.answer)
    return right


def test_means_and_groups(vocabulary):
    right = by_hand(vocabulary)
    shares = {name: 100 * float(np.mean(values)) for name, values in right.items()}
    result = result_of("colours_direct", vocabulary)
    assert result.as_dict()["subtasks"] == pytest.approx(shares)
    assert result.score == result.macro == pytest.approx(np.mean(list(shares.values())))
    pooled = 100 * float(np.mean([value for values in right.values() for value in values]))
    assert result.micro == pytest.approx(pooled)
    assert abs(result.macro - result.micro) > 0.5  # or the two are not told apart here
    micro = result_of("colours_micro", vocabulary)
    assert micro.score == micro.micro == pytest.approx(pooled)
    assert micro.macro == pytest.approx(result.macro)
    flying = result.groups["flying"]
    assert flying.subtasks == ("birds", "clouds") and flying.n == 37
    assert flying.score == pytest.approx((shares["birds"] + shares["clouds"]) / 2)


def test_intervals_hold_the_scores_and_are_of_the_right_size(vocabulary):
    result = result_of("colours_direct", vocabulary)
    for part in (result.overall, *result.subtasks.values(), *result.groups.values()):
        assert 0 <= part.low <= part.score <= part.high <= 100
    # Independent: the standard error of a mean of independent proportions.
    right = by_hand(vocabulary)
    variances = [np.mean(v) * (1 - np.mean(v)) / len(v) for v in right.values()]
    assert result.noise.standard_error == pytest.approx(
        100 * math.sqrt(sum(variances)) / 3, rel=0.1
    )
    half_width = (result.overall.high - result.overall.low) / 2
    assert half_width == pytest.approx(1.96 * result.noise.standard_error, rel=0.15)
    assert result.noise.unpaired == pytest.approx(
        1.96 * math.sqrt(2) * result.noise.standard_error, rel=1e-3
    )
    assert result.noise.paired == pytest.approx(1.96 * result.noise.standard_error, rel=1e-3)


def test_all_right_and_all_wrong_are_not_called_certain(vocabulary):
    for skill in (1.0, 0.0):
        result = result_of("colours_direct", vocabulary, skill)
        assert result.score == 100 * skill
        assert result.overall.high - result.overall.low > 3
        assert result.noise.standard_error > 1


def test_baselines(vocabulary):
    result = result_of("colours_direct", vocabulary)
    requests = plan(BenchmarkProtocol("colours_direct"), vocabulary, 130)
    for name, part in result.subtasks.items():
        answers = Counter(r.answer for r in requests if r.task == name)
        assert part.majority == pytest.approx(100 * max(answers.values()) / part.n)
        assert part.chance == 25
        assert part.normalized == pytest.approx((part.score - 25) / 0.75)
    normalized = [part.normalized for part in result.subtasks.values()]
    assert result.overall.normalized == pytest.approx(np.mean(normalized))


def test_counts_are_of_what_befell_the_items(vocabulary):
    protocol = BenchmarkProtocol("colours_direct")
    requests = plan(protocol, vocabulary, 130)
    outputs, ended = answers_of(requests, 0.6, "one")
    requests[0] = dataclasses.replace(
        requests[0], truncated=3, dropped_exemplars=2, unknown_tokens=1, representable=False
    )
    result = benchmark_result(protocol, requests, outputs, ended=ended, resamples=50)
    expected = {
        "unparsed": sum(not output for output in outputs.values()),
        "length_limited": sum(how == "length" for how in ended.values()),
        "truncated": sum(r.truncated > 0 for r in requests),
        "dropped_exemplars": sum(r.dropped_exemplars > 0 for r in requests),
        "unknown_tokens": 1,
        "unrepresentable": 1,
    }
    assert result.overall.counts == expected and set(expected) == set(COUNTS)
    assert all(expected.values())
    for what in COUNTS:
        assert sum(p.counts[what] for p in result.subtasks.values()) == expected[what]
    assert result.subtasks["apples"].ceiling == pytest.approx(100 * 11 / 12)
    assert result.overall.ceiling == pytest.approx(100 * (11 / 12 + 2) / 3)


def test_what_a_vocabulary_can_write_is_not_known_of_others_predictions():
    protocol = BenchmarkProtocol("colours_direct")
    requests = requests_to_judge(protocol)
    result = benchmark_result(protocol, requests, {r.id: r.answer for r in requests}, resamples=50)
    assert result.score == 100 and result.overall.ceiling is None
    assert result.protocol_hash is None


def test_extra_subtasks_are_shown_but_in_no_mean(vocabulary):
    protocol = BenchmarkProtocol("colours_extra", subtasks=("apples", "birds", "clouds"))
    requests = plan(protocol, vocabulary, 130)
    outputs = {r.id: r.answer if r.task == "clouds" else "" for r in requests}
    result = benchmark_result(protocol, requests, outputs, resamples=50)
    assert result.score == 0 and result.subtasks["clouds"].score == 100
    assert result.overall.n == SIZES["apples"] + SIZES["birds"]
    assert result.as_dict()["extra_subtasks"] == ["clouds"]
    assert result.notes == ["apples of test", "birds of test", "clouds of test"]


def test_further_metrics_are_averaged_as_the_score_is(vocabulary):
    result = result_of("colours_f1", vocabulary)
    assert list(result.overall.metrics) == ["squad_f1", "exact_match"]
    for metric in result.overall.metrics:
        values = [part.metrics[metric] for part in result.subtasks.values()]
        assert result.overall.metrics[metric] == pytest.approx(np.mean(values))
    assert result.score == result.overall.metrics["squad_f1"]


def test_exposure():
    protocol = BenchmarkProtocol("colours_direct")
    requests = requests_to_judge(protocol)
    outputs = {r.id: "" for r in requests}
    own = benchmark_result(protocol, requests, outputs, resamples=20).exposure
    assert own.label == "unknown" and "colours" in own.reason


def test_the_hash_is_of_items_and_not_of_their_order(vocabulary):
    requests = requests_to_judge(BenchmarkProtocol("colours_direct"))
    assert items_hash(requests) == items_hash(requests[::-1])
    planned = plan(BenchmarkProtocol("colours_direct"), vocabulary, 130)
    assert items_hash(planned) == items_hash(requests)  # whatever the prompts were
    other = [dataclasses.replace(requests[0], answer="(Z)"), *requests[1:]]
    assert items_hash(other) != items_hash(requests)
    assert items_hash(requests[1:]) != items_hash(requests)


@pytest.mark.parametrize("name", ["colours_direct", "colours_micro", "colours_f1"])
def test_results_are_as_the_schema_says(name: str, vocabulary, schema: dict):
    result = result_of(name, vocabulary, protocol_hash="0123456789abcdef", missing=2)
    document = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document | {"score": "50"}, schema)
    assert {key for key, value in schema["properties"].items()} == set(document)


def test_the_same_predictions_give_the_same_digits(vocabulary):
    first, second = (result_of("colours_direct", vocabulary).as_dict() for _ in range(2))
    assert json.dumps(first) == json.dumps(second)


@given(value=st.floats(0, 100), chance=st.floats(0, 99))
@settings(deadline=None)
def test_normalising_keeps_order_and_ends(value: float, chance: float):
    assert normalize(chance, chance) == 0
    assert normalize(100, chance) == pytest.approx(100)
    assert (normalize(value, chance) >= 0) == (value >= chance)


@pytest.mark.parametrize("split, expected", [("validation", 1.57), ("test", 0.51)])
def test_noise_floor_of_mmlu(split: str, expected: float, test_data, monkeypatch):
    """The worst-case standard errors follow from the sizes of 57 files."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(test_data))
    protocol = BenchmarkProtocol("mmlu_direct", split=split)
    requests = requests_to_judge(protocol)
    outputs = {r.id: "(A)" for r in requests}
    result = benchmark_result(protocol, requests, outputs, resamples=20)
    assert result.noise.at_half == pytest.approx(expected, abs=0.005)
    assert len(result.subtasks) == len(get_protocol("mmlu_direct").subtasks) == 57
    if split == "validation":
        assert result.overall.n == 1531 and result.score == pytest.approx(25.7, abs=0.05)
