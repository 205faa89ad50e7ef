"""Natural language inference of Flan 2021: answers by label, and what prompts ask."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flan_jax.mixtures.flan2021 import entailment
from flan_jax.prompts.template import Template
from flan_jax.sources.base import SourceError
from flan_jax.tasks import get_task

UNSURE, IMPOSSIBLE = "it is not possible to tell", "It's impossible to say"
# What each class of the builder is answered by, in the order of the labels.
ANSWERS = {
    "rte": {"entailment": "yes", "not_entailment": "no"},
    "cb": {"entailment": "Yes", "contradiction": "No", "neutral": IMPOSSIBLE},
    "wnli": {"not_entailment": "no", "entailment": "yes"},
    "qnli": {"entailment": "yes", "not_entailment": "no"},
    "snli": {"entailment": "yes", "neutral": UNSURE, "contradiction": "no"},
    "mnli_matched": {"entailment": "yes", "neutral": UNSURE, "contradiction": "no"},
    "mnli_mismatched": {"entailment": "yes", "neutral": UNSURE, "contradiction": "no"},
    "anli_r1": {"e": "Yes", "n": IMPOSSIBLE, "c": "No"},
    "anli_r2": {"e": "Yes", "n": IMPOSSIBLE, "c": "No"},
    "anli_r3": {"e": "Yes", "n": IMPOSSIBLE, "c": "No"},
}
THREE_WAY = [name for name, answers in ANSWERS.items() if len(answers) == 3]
TWO_WAY = ["rte", "wnli"]

PAIR = {
    "premise": " The ferry was late again. ",
    "hypothesis": "The ferry was on time.\n",
    "idx": 7,
}
ROWS = {
    "rte": PAIR,
    "cb": {
        "premise": "A: Is Sam in? B: I don't think that he has come home yet.",
        "hypothesis": "Sam has come home",
        "idx": 3,
    },
    "wnli": {
        "sentence1": "The cup fell off the shelf because it was narrow.",
        "sentence2": "The shelf was narrow.",
        "idx": 0,
    },
    "qnli": {
        "question": "When was the canal dug?",
        "sentence": "The canal, dug in 1825, joins two lakes.",
        "idx": 1,
    },
    "snli": PAIR,
    "mnli": PAIR,
    "anli": {
        "uid": "r-1",
        "context": "Ida Holm (1901 - 1988) was a Danish painter.\n",
        "hypothesis": "Ida Holm lived to be ninety.",
    },
}


def row_of(task: str, label: int) -> dict[str, object]:
    return {**ROWS[task.split("_")[0]], "label": label}


def fields_of(task: str, label: int):
    to_fields = get_task(task).to_fields
    assert to_fields is not None
    return to_fields(row_of(task, label))


def direct(task: str) -> list[Template]:
    return [t for ts in get_task(task).sections().values() for t in ts if t.asks_answer]


def wording(template: Template) -> str:
    """All the words of a template's own that a reader sees."""
    layout = template.layout
    before = layout.before_target if layout else ""
    return re.sub(r"\{\{.*?\}\}", " ", f"{template.instruction} {template.inputs} {before}")


@pytest.mark.parametrize("task", ANSWERS)
def test_every_class_has_its_answer(task: str) -> None:
    answers = list(ANSWERS[task].values())
    for label, answer in enumerate(answers):
        fields = fields_of(task, label)
        assert fields["answer"] == answer
        assert fields["options"] == answers


@pytest.mark.parametrize("task", ANSWERS)
def test_classes_are_those_of_the_builder_in_its_order(task: str, tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder(get_task(task).source.builder, data_dir=str(tmp_path))
    assert builder.info.features["label"].names == list(ANSWERS[task])
    assert set(row_of(task, 0)) - {"uid", "idx"} <= set(builder.info.features)


def test_texts_are_stripped_and_kept_under_their_names() -> None:
    assert fields_of("rte", 1) == {
        "premise": "The ferry was late again.",
        "hypothesis": "The ferry was on time.",
        "answer": "no",
        "options": ["yes", "no"],
    }
    assert fields_of("anli_r2", 2)["context"] == "Ida Holm (1901 - 1988) was a Danish painter."
    clause = {**ROWS["cb"], "hypothesis": "Sam has come home. ", "label": 0}
    to_fields = get_task("cb").to_fields
    assert to_fields is not None and to_fields(clause)["hypothesis"] == "Sam has come home"
    assert fields_of("qnli", 0)["sentence"] == "The canal, dug in 1825, joins two lakes."
    assert fields_of("wnli", 1)["sentence2"] == "The shelf was narrow."


@pytest.mark.parametrize("label", [-1, 3])
def test_rows_without_a_class_are_refused(label: int) -> None:
    with pytest.raises(SourceError, match=f"label {label} is none of the 3 classes"):
        fields_of("mnli_matched", label)


def test_snli_leaves_out_what_annotators_disagreed_on() -> None:
    keep = get_task("snli").source.keep
    assert keep({**PAIR, "label": 0})
    assert keep({**PAIR, "label": 2})
    assert not keep({**PAIR, "label": -1})
    assert not keep({**PAIR, "hypothesis": " ", "label": 1})


def test_mnli_trains_on_the_same_rows_and_tests_on_its_own() -> None:
    matched, mismatched = get_task("mnli_matched"), get_task("mnli_mismatched")
    assert matched.source.read["train"] == mismatched.source.read["train"]
    assert matched.source.read["test"] == "validation_matched"
    assert mismatched.source.read["test"] == "validation_mismatched"
    assert matched.template_file == mismatched.template_file


@pytest.mark.parametrize("task", THREE_WAY)
def test_three_way_prompts_ask_whether_it_is_true(task: str) -> None:
    # "No" is a right answer to "is it true?" only for what is false, but to "does it follow?" also
    # for what is left open.
    asks_truth = re.compile(
        r"\b(?:true|right|correct|committed|a fact|the case|i[st] i[ts] so|holds?|confirm)\b|\bSo,",
        re.IGNORECASE,
    )
    asks_what_follows = re.compile(
        r"\b(entailed|entails?|implies|imply|conclude|does (it|the \w+) follow)\b", re.IGNORECASE
    )
    for template in direct(task):
        assert asks_truth.search(wording(template)), template.where
        assert not asks_what_follows.search(wording(template)), template.where


@pytest.mark.parametrize("task", TWO_WAY)
def test_two_way_prompts_do_not_speak_of_falsehood(task: str) -> None:
    for template in direct(task):
        assert not re.search(r"\bfalse|contradict|deni", wording(template)), template.where


def test_several_anli_prompts_say_what_no_means() -> None:
    saying = [t for t in direct("anli_r1") if re.search(r"\bNo\b", wording(t))]
    assert sum("false" in wording(t) or "contradicts" in wording(t) for t in saying) >= 4


@pytest.mark.parametrize("task", ["rte", "cb", "qnli", "snli", "mnli_matched", "anli_r3"])
def test_inverted_prompts_name_the_answer(task: str) -> None:
    inverted = [t for ts in get_task(task).sections().values() for t in ts if not t.asks_answer]
    assert len(inverted) >= 2
    for template in inverted:
        prompts = set()
        for label in range(len(ANSWERS[task])):
            fields = fields_of(task, label)
            inputs, target = template.render(fields)
            assert target in (fields.get("hypothesis"), fields.get("question")), template.where
            assert target not in inputs, template.where
            prompts.add(inputs)
        assert len(prompts) == len(ANSWERS[task]), template.where


def test_answers_are_declared_once_for_each_way() -> None:
    assert set(entailment.FOLLOWS) == set(entailment.FOLLOWS_WNLI)
    assert set(entailment.TRUE_ANLI) == set(entailment.TRUE_CB)
