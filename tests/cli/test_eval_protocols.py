"""`flan-jax eval protocols` and `flan-jax eval why`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flan_jax.cli.main import main
from flan_jax.evaluation.benchmarks import get_protocol, known_protocols
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE


@pytest.fixture
def data(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(test_data))
    return test_data


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["eval", *arguments]) == 0
    return capsys.readouterr().out


def why(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    return json.loads(run(capsys, "why", *arguments, "--format", "json"))


def test_all_protocols_are_listed(capsys):
    rows = [line.split("\t") for line in run(capsys, "protocols").splitlines()]
    known = {(name, variant) for name, vs in known_protocols().items() for variant in vs}
    assert {(row[0], row[1]) for row in rows} == known
    (mmlu,) = [row for row in rows if row[:2] == ["mmlu_direct", "paper"]]
    assert mmlu[2:5] == ["57", "validation", "option_match"]


def test_listing_needs_no_data(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "/absent")
    assert "bbh_cot" in run(capsys, "protocols")
    assert "Suzgun" not in run(capsys, "protocols", "bbh_cot")


def test_one_protocol_shows_its_decisions(capsys):
    text = run(capsys, "protocols", "bbh_cot")
    assert "bbh_cot (paper)" in text and "bbh_cot (lm_eval)" in text
    for choice in get_protocol("bbh_cot", "lm_eval").choices:
        assert choice.value in text and choice.source in text
    (shown,) = json.loads(
        run(capsys, "protocols", "bbh_cot", "--variant", "lm_eval", "--format", "json")
    )
    assert shown["stop"] == ["</s>", "Q", "\n\n"] and shown["mean"] == "micro"
    assert len(shown["groups"]["bbh-nlp"]) == 12


def test_a_variant_that_sees_no_answer_is_told(capsys, data: Path):
    # Item 3 of hyperbaton is (B).
    found = why(
        capsys, "bbh_cot", "--item", "hyperbaton/3",
        "--prediction", "So the answer is (B)", "--prediction", "So the answer is (B).",
    )  # fmt: skip
    verdicts = {
        variant: [next(iter(r["found"].values()))["correct"] for r in side["readings"]]
        for variant, side in found["variants"].items()
    }
    assert verdicts == {"paper": [True, True], "lm_eval": [False, True]}
    assert not found["same_prompt"]
    assert found["settings"]["mean"] == ["macro", "micro"]
    assert set(found["choices"]) >= {"answer", "mean", "stop"}
    assert "lm-evaluation-harness" in found["choices"]["answer"]["lm_eval"]["source"]


def test_a_stop_string_cuts_an_answer(capsys, data: Path):
    items = get_protocol("bbh_cot").read("reasoning_about_colored_objects", "test")
    index = next(item.index for item in items if item.answer == "(Q)")
    item = f"reasoning_about_colored_objects/{index}"
    text = run(capsys, "why", "bbh_cot", "--item", item, "--prediction", "So the answer is (Q).")
    assert "lm_eval: cut by a stop string to 'So the answer is ('" in text
    assert "paper, phrase_match: '(Q)', right" in text
    assert "lm_eval, bbh_regex: '', wrong" in text


def test_the_text_shows_the_difference_of_prompts(capsys, data: Path):
    text = run(capsys, "why", "bbh_cot", "--item", "hyperbaton/3")
    assert "--- paper\n+++ lm_eval\n" in text and "\n+\n" in text
    whole = run(capsys, "why", "bbh_cot", "--item", "hyperbaton/3", "--whole")
    assert whole.count("Let's think step by step.") == 8


def test_ranked_options_read_no_text(capsys, data: Path):
    arguments = ("why", "mmlu", "--item", "anatomy/3", "--prediction", "(C)")
    text = run(capsys, *arguments)
    assert "item anatomy/3 of validation" in text
    assert "ranked: ' A', ' B', ' C', ' D'" in text and "no text is read" in text
    split = run(capsys, *arguments, "--split", "test", "--variants", "paper", "instruct_eval")
    assert "item anatomy/3 of test" in split and "instruct_eval, starts_with" in split


def test_an_item_may_be_an_exemplar_elsewhere(capsys, data: Path):
    text = run(capsys, "why", "bbh_direct", "--item", "snarks/1", "--prediction", "(A)")
    assert "(not asked: the item is an exemplar there)" in text
    assert "paper, phrase_match: '(A)', right" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["why", "bbh_cots", "--item", "snarks/1"], "did you mean 'bbh_cot'"),
        (["why", "bbh_cot", "--item", "snark/1"], "did you mean 'snarks'"),
        (["why", "bbh_cot", "--item", "snarks"], "expected SUBTASK/INDEX"),
        (["why", "bbh_cot", "--item", "snarks/x"], "expected SUBTASK/INDEX"),
        (["why", "bbh_cot", "--item", "snarks/178"], "test of snarks has no item 178"),
        (["why", "bbh_zero_shot_cot", "--item", "snarks/1"], "one variant only: paper"),
        (["why", "mmlu", "--item", "anatomy/1", "--split", "dev"], "no split 'dev'"),
        (
            ["why", "bbh_cot", "--item", "snarks/1", "--variants", "paper", "lm_evals"],
            "did you mean 'lm_eval'",
        ),
        (["protocols", "mmmlu"], "did you mean 'mmlu'"),
        (["protocols", "mmlu", "--variant", "papers"], "did you mean 'paper'"),
        (["protocols", "--variant", "paper"], "--variant needs the name"),
        (["protocol"], "did you mean 'protocols'"),
    ],
)
def test_mistakes_are_told(capsys, data: Path, arguments: list[str], message: str):
    assert main(["eval", *arguments]) != 0
    assert message in capsys.readouterr().err
