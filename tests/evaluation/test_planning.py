"""Plans of several protocols at once: labels, refusals, and all that is missing in one message."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.evaluation import benchmarks
from flan_jax.evaluation.benchmark_requests import plan_benchmark
from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    BenchmarkProtocol,
    ProtocolDefinition,
    register_protocol,
)
from flan_jax.evaluation.planning import Plan, labelled, plan, plan_all
from flan_jax.evaluation.protocol import EvalProtocol, ProtocolError
from flan_jax.evaluation.requests import summarize
from flan_jax.mixtures import micro  # noqa: F401  registers the tasks

VOCABULARY = ByteVocabulary(125)
OPTIONS = ("(A)", "(B)")


def read(subtask: str, split: str) -> list[BenchmarkItem]:
    return [
        BenchmarkItem(i, f"{subtask} {split} {'long ' * i}?", OPTIONS[i % 2], options=OPTIONS)
        for i in range(6)
    ]


@pytest.fixture(autouse=True)
def definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two protocols of a made-up benchmark: one generates, one ranks."""
    benchmarks.known_protocols()
    monkeypatch.setattr(benchmarks, "_DEFINITIONS", dict(benchmarks._DEFINITIONS))
    fields = {
        "benchmark": "made_up",
        "subtasks": ("one", "two"),
        "read": read,
        "ask": lambda item: f"Q: {item.question} A:",
        "exemplars": lambda subtask, item, seed: [f"Q: {i}? A: (A)" for i in range(3)],
        "splits": ("test", "validation"),
    }
    register_protocol(ProtocolDefinition("made_up_direct", **fields))
    register_protocol(
        ProtocolDefinition(
            "made_up_ranked",
            ranking="sum",
            continuations=lambda item: [f" {option}" for option in item.options],
            **fields,
        )
    )


def test_either_kind_of_protocol_is_planned():
    tasks = EvalProtocol("zero", "micro_odd_one_out", "zs_opt", num_examples=3)
    benchmark = BenchmarkProtocol("made_up_direct", num_examples=2)
    plans = plan_all([tasks, benchmark], VOCABULARY, 256)
    assert [each.protocol for each in plans] == [tasks, benchmark]
    assert [len(each.requests) for each in plans] == [3, 4]
    assert plans[1].requests == plan(benchmark, VOCABULARY, 256)
    assert plans[1].requests == plan_benchmark(benchmark, VOCABULARY, 256)
    assert {request.task for request in plans[1].requests} == {"one", "two"}


def test_labels_follow_what_a_model_was_trained_on():
    protocol = EvalProtocol("zero", "micro_odd_one_out", "zs_opt", num_examples=2)
    unknown = plan_all([protocol], VOCABULARY, 256)[0]
    assert {request.held_out for request in unknown.requests} == {None}
    seen = labelled(unknown, "micro")
    assert {request.held_out for request in seen.requests} == {False}
    assert seen.requests == plan(protocol, VOCABULARY, 256, trained="micro")
    bbh = BenchmarkProtocol("bbh_direct")
    request = dataclasses.replace(unknown.requests[0], task="navigate")
    assert labelled(Plan(bbh, [request]), "micro").requests[0].held_out is True


def test_all_that_is_missing_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    protocols = [
        BenchmarkProtocol(name)
        for name in ("mmlu_direct", "mmlu_cot", "made_up_direct", "bbh_cot", "tydiqa", "mgsm_cot")
    ]
    with pytest.raises(UserError) as told:
        plan_all(protocols, VOCABULARY, 256)
    lines = str(told.value).splitlines()
    assert lines[0] == "not all protocols can be asked:"
    assert lines[1].startswith("- mmlu_direct, mmlu_cot: mmlu/")
    for name in ("bbh_cot: bbh/", "tydiqa: ", "mgsm_cot: mgsm/"):
        assert sum(line.startswith(f"- {name}") for line in lines) == 1
    assert "made_up" not in str(told.value)
    assert str(tmp_path) in str(told.value)


def test_questions_that_do_not_fit_are_counted_or_refused():
    protocol = BenchmarkProtocol("made_up_direct")
    length = 31
    (asked,) = plan_all([protocol], VOCABULARY, length)
    cut = [request for request in asked.requests if request.truncated]
    assert {request.id.partition("/")[2] for request in cut} == {"3", "4", "5"}
    assert all(request.dropped_exemplars == 3 for request in cut)
    assert all(request.length == length for request in cut)
    assert summarize(asked.requests, length).truncated == len(cut)
    with pytest.raises(ProtocolError) as told:
        plan_all([protocol], VOCABULARY, length, strict_length=True)
    assert "made_up_direct: 6 of 12 questions are longer than INPUTS_LENGTH 31" in str(told.value)
    assert "two/5 by" in str(told.value) or "one/5 by" in str(told.value)
    assert plan_all([protocol], VOCABULARY, 256, strict_length=True)


def test_ranked_texts_belong_to_the_request_and_its_digest():
    generated = plan(BenchmarkProtocol("made_up_direct"), VOCABULARY, 256)
    ranked = plan(BenchmarkProtocol("made_up_ranked"), VOCABULARY, 256)
    assert {request.continuations for request in generated} == {()}
    assert {request.continuations for request in ranked} == {(" (A)", " (B)")}
    assert [r.tokens for r in generated] == [r.tokens for r in ranked]
    assert not {r.digest for r in generated} & {r.digest for r in ranked}


def test_what_cannot_be_ranked_is_refused():
    register_protocol(
        dataclasses.replace(
            benchmarks.get_protocol("made_up_ranked"),
            variant="lm_eval",
            continuations=lambda item: ["only one"],
        )
    )
    protocol = BenchmarkProtocol("made_up_ranked", "lm_eval")
    with pytest.raises(ProtocolError, match="item 0 has 2 options and 1 continuations"):
        plan(protocol, VOCABULARY, 256)


def test_unknown_pieces_of_a_prompt_are_counted():
    class FewLetters(ByteVocabulary):
        def encode(self, text: str) -> list[int]:
            return [self.unk_id if letter == "Q" else 5 for letter in text]

    requests = plan(BenchmarkProtocol("made_up_direct"), FewLetters(125), 256)
    assert {request.unknown_tokens for request in requests} == {4}
    assert summarize(requests, 256).unknown == len(requests)
    assert "12 prompts have pieces that are unknown" in str(summarize(requests, 256))


def test_names_tell_splits_apart_and_stores_are_shared_by_settings():
    one = BenchmarkProtocol("made_up_direct")
    other = BenchmarkProtocol("made_up_direct", split="validation")
    assert (one.name, other.name) == ("made_up_direct", "made_up_direct_validation")
    few = BenchmarkProtocol("made_up_direct", num_examples=2, shots=1)
    assert one.store_name == few.store_name != other.store_name


def test_more_items_are_the_fewer_and_new_ones():
    asked = [
        {
            r.digest
            for r in plan(BenchmarkProtocol("made_up_direct", num_examples=n), VOCABULARY, 99)
        }
        for n in (1, 3, 5, None)
    ]
    assert [len(each) for each in asked] == [2, 6, 10, 12]
    assert asked[0] < asked[1] < asked[2] < asked[3]
