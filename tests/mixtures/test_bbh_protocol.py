"""BIG-Bench Hard: the authors' prompts, their published outputs and scores, harnesses' variants."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from flan_jax.evaluation.benchmarks import BenchmarkProtocol, get_protocol
from flan_jax.evaluation.predictions import requests_to_judge
from flan_jax.evaluation.scorers import get_scorer
from flan_jax.evaluation.voting import cut
from flan_jax.mixtures.benchmarks.protocols import bbh
from flan_jax.sources.base import SourceMissingError
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE

ITEMS = 6511
# Of the first prompt of each file, put together from the task files of lm-eval 0.4.13.
LM_EVAL_DIGEST = "ca79145c7b4acb65823e45effceced0caee28c7b7ebb4be6a2dbdd1ea061a202"


@pytest.fixture(autouse=True)
def data(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(test_data))
    return test_data / "bbh"


def test_scores_of_published_outputs_are_the_published_ones(data: Path):
    packed = (data / "codex-outputs" / "code-davinci-002-direct.json.gz").read_bytes()
    published = json.loads(gzip.decompress(packed))["tasks"]
    find = get_scorer(get_protocol("bbh_direct").metrics[0]).find
    right: dict[str, list[bool]] = {}
    outputs = {name: iter(task["predictions"]) for name, task in published.items()}
    for request in requests_to_judge(BenchmarkProtocol("bbh_direct")):
        found = find(request, next(outputs[request.task]))
        right.setdefault(request.task, []).append(found.correct)
    ours = {name: 100 * sum(task) / len(task) for name, task in right.items()}
    assert ours == pytest.approx({n: t["accuracy"] for n, t in published.items()}, abs=1e-9)
    assert len(ours) == 27
    assert sum(ours.values()) / 27 == pytest.approx(52.7597, abs=5e-5)
    assert all(next(rest, None) is None for rest in outputs.values())


def _prompts(name: str, variant: str = "paper") -> dict[str, list[tuple[str, str]]]:
    definition = get_protocol(name, variant)
    return {
        subtask: [(i.question, definition.prompt(subtask, i)) for i in definition.read(subtask, "")]
        for subtask in definition.subtasks
    }


def test_direct_prompts_are_the_authors(data: Path):
    count = 0
    for subtask, prompts in _prompts("bbh_direct").items():
        with (data / "direct-prompts" / f"{subtask}.txt").open(encoding="utf-8", newline="") as f:
            start = f.read()
        for question, prompt in prompts:
            assert prompt == f"{start}\n\nQ: {question}\nA:"
            count += 1
    assert count == ITEMS


def test_cot_prompts_are_the_authors(data: Path):
    count = 0
    for subtask, prompts in _prompts("bbh_cot").items():
        with (data / "cot-prompts" / f"{subtask}.txt").open(encoding="utf-8", newline="") as file:
            start = file.read().partition("-----\n")[2]
        for question, prompt in prompts:
            assert prompt == f"{start}\n\nQ: {question}\nA: Let's think step by step."
            assert "canary" not in prompt
            count += 1
    assert count == ITEMS


def test_prompts_of_lm_eval_are_those_of_its_own_task_files():
    digest = hashlib.sha256()
    for prompts in _prompts("bbh_cot", "lm_eval").values():
        digest.update(prompts[0][1].encode())
    assert digest.hexdigest() == LM_EVAL_DIGEST


def test_zero_shot_has_the_question_and_the_phrase_alone():
    ((question, prompt),) = _prompts("bbh_zero_shot_cot")["navigate"][:1]
    assert prompt == f"Q: {question}\nA: Let's think step-by-step."


def test_instruct_eval_spends_three_items_on_exemplars():
    items = get_protocol("bbh_direct").read("snarks", "test")
    prompts = _prompts("bbh_direct", "instruct_eval")["snarks"]
    assert len(prompts) == len(items) - 3 == 175
    shots = [f"{item.question}\nAnswer: {item.answer}" for item in items[:3]]
    assert prompts[0][1] == "\n\n".join([*shots, f"{items[3].question}\nAnswer:"])


def test_groups_are_the_two_halves():
    definition = get_protocol("bbh_cot")
    nlp, algorithmic = definition.groups["bbh-nlp"], definition.groups["bbh-alg"]
    assert (len(nlp), len(algorithmic)) == (12, 15)
    assert sorted(nlp + algorithmic) == sorted(definition.subtasks)


def test_targets_that_are_texts_stay_so():
    items = bbh.read("movie_recommendation", "test")
    assert items[163].answer == "Monsters, Inc" and "(" in items[162].answer
    assert [i.index for i in bbh.read("ruin_names", "test") if not i.answer.startswith("(")] == [
        99,
        144,
    ]


@pytest.mark.parametrize(
    ("output", "lm_eval"),
    [
        ("We see. So the answer is {}.", True),
        ("We see. So the answer is {}", False),  # the expression takes the last character
        ("We see. The answer is {}.", False),
        ("the answer is {}. So the answer is (Z).", False),
    ],
)
def test_how_lm_eval_reads_an_answer(output: str, lm_eval: bool):
    find = get_scorer("bbh_regex").find
    protocol = BenchmarkProtocol("bbh_cot", "lm_eval", subtasks=["hyperbaton"], num_examples=3)
    for request in requests_to_judge(protocol):
        assert find(request, output.format(request.answer)).correct is lm_eval


@pytest.mark.parametrize(
    ("form", "micro"), [("So the answer is {}.", 99.892), ("So the answer is {}", 0)]
)
def test_perfect_answers_under_lm_eval(form: str, micro: float):
    # Its stop string "Q" cuts the answer (Q), and its expression takes the last character.
    definition = get_protocol("bbh_cot", "lm_eval")
    find = get_scorer(definition.metrics[0]).find
    right: dict[str, list[bool]] = {}
    for request in requests_to_judge(BenchmarkProtocol("bbh_cot", "lm_eval")):
        output, _ = cut(form.format(request.answer), definition.stop)
        right.setdefault(request.task, []).append(find(request, output).correct)
    assert 100 * sum(map(sum, right.values())) / ITEMS == pytest.approx(micro, abs=5e-4)
    cut_short = {task: sum(hits) / len(hits) for task, hits in right.items() if not all(hits)}
    if micro:
        assert cut_short == {"reasoning_about_colored_objects": 0.972}


def test_instruct_eval_takes_a_beginning_for_a_hit():
    find = get_scorer("starts_with").find
    protocol = BenchmarkProtocol("bbh_direct", "instruct_eval", subtasks=["object_counting"])
    request = next(r for r in requests_to_judge(protocol) if r.answer == "1" or len(r.answer) == 1)
    assert find(request, f"{request.answer}2").correct
    assert not find(request, f"It is {request.answer}").correct


def test_it_is_told_how_to_make_the_direct_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    item = bbh.read("snarks", "test")[0]
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    with pytest.raises(SourceMissingError, match="outputs of code-davinci-002"):
        get_protocol("bbh_direct").prompt("snarks", item)
    with pytest.raises(SourceMissingError, match=r"cot-prompts/snarks.txt"):
        get_protocol("bbh_cot").prompt("snarks", item)
