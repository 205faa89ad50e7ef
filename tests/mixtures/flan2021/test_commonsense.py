"""Commonsense tasks: rows in the builders' shape become clean text and the right choice."""

from __future__ import annotations

import pytest

import flan_jax.mixtures.flan2021.commonsense  # noqa: F401 - registers the tasks
from flan_jax.prompts.template import FEW_SHOT, fields_of, load_templates
from flan_jax.tasks import get_task


def _fields(name: str, row: dict) -> dict:
    to_fields = get_task(name).to_fields
    assert to_fields is not None
    return dict(to_fields(row))


def _keep(name: str, row: dict) -> bool:
    return get_task(name).source.keep(row)  # type: ignore[attr-defined]


SHADOW = {
    "premise": "My body cast a shadow over the grass.",
    "choice1": "The sun was rising.",
    "choice2": "The grass was cut.",
    "question": "cause",
    "label": 0,
    "idx": 0,
}


def test_copa():
    fields = _fields("copa", SHADOW)
    assert fields["options"] == ["The sun was rising.", "The grass was cut."]
    assert (fields["answer"], fields["question"]) == ("The sun was rising.", "cause")
    assert _fields("copa", {**SHADOW, "label": 1})["answer"] == "The grass was cut."


def test_copa_asks_for_a_cause_in_other_words_than_for_an_effect():
    file = get_task("copa").template_file
    cause = _fields("copa", SHADOW)
    effect = {**cause, "question": "effect"}
    templates = (*load_templates(file), *load_templates(file, FEW_SHOT))
    for template in templates:
        assert template.render(cause)[0] != template.render(effect)[0], template.where
    inverted = [template for template in templates if not template.asks_answer]
    assert len(inverted) >= 4
    # Given the cause, an effect is asked for.
    for template in inverted:
        given_cause, given_effect = template.render(cause)[0], template.render(effect)[0]
        asked = given_cause.split("sun was rising.")[-1] + given_cause.split("The sun")[0]
        assert any(word in asked for word in ("effect", "because of this", "come of it")), asked
        asked = given_effect.split("sun was rising.")[-1] + given_effect.split("The sun")[0]
        assert any(word in asked for word in ("cause", "reason")), asked


def _hellaswag(context: str, endings: list[str], label: int, activity: str = "") -> dict:
    return {
        "context": context,
        "endings": endings,
        "activity_label": activity,
        "label": label,
        "split_type": "indomain",
        "source_id": "activitynet~v_1",
    }


def test_hellaswag_of_videos():
    endings = ["rinses the bucket.", "gets the dog wet, then it runs away again.", "cries.", "x"]
    row = _hellaswag("The dog is trying to avoid a bath.  She", endings, 1, "Washing a dog")
    fields = _fields("hellaswag", row)
    assert fields["context"] == "The dog is trying to avoid a bath. She"
    assert (fields["activity"], fields["options"]) == ("Washing a dog", endings)
    assert fields["answer"] == "gets the dog wet, then it runs away again."


def test_hellaswag_of_instructions_loses_its_marks():
    row = _hellaswag(
        "[header] How to tell a tale [title] Start well. [step] Think of a beginning",
        [
            "[title] Write it down [step] Take a pen. [substeps] A pencil will do.",
            "[ title ] Sleep.",
            "a",
            "b",
        ],
        0,
        "Youth",
    )
    fields = _fields("hellaswag", row)
    assert fields["context"] == "How to tell a tale. Start well. Think of a beginning"
    assert fields["answer"] == "Write it down. Take a pen. A pencil will do."
    assert fields["options"] == [fields["answer"], "Sleep.", "a", "b"]


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        (_hellaswag("She", ["a", "b", "c", "d"], 3), True),
        (_hellaswag("She", ["a", "b", "c", "d"], -1), False),  # unlabelled
        (_hellaswag("She", ["a", "b", "[step]", "d"], 0), False),
        (_hellaswag("She", ["a", "b", "a", "d"], 0), False),  # two right answers
        (_hellaswag("She", ["a", "b", "a", "d"], 1), True),
        (_hellaswag(" ", ["a", "b", "c", "d"], 0), False),
    ],
)
def test_hellaswag_keeps_rows_with_one_answer(row: dict, kept: bool):
    assert _keep("hellaswag", row) is kept


@pytest.mark.parametrize("activity", ["Washing a dog", ""])
def test_hellaswag_reads_well_without_a_subject(activity: str):
    file = get_task("hellaswag").template_file
    fields = _fields("hellaswag", _hellaswag("She", ["a", "b", "c", "d"], 0, activity))
    shown = 0
    for template in (*load_templates(file), *load_templates(file, FEW_SHOT)):
        inputs, _ = template.render(fields)
        assert "She" in inputs
        if "activity" in fields_of(template.inputs):
            shown += 1
            assert ("Washing a dog" in inputs) == bool(activity)
            assert activity or not any(word in inputs for word in ("ubject", ": .", "  "))
    assert shown >= 3


@pytest.mark.parametrize(
    ("label", "answer"), [(1, "He is happy now."), (2, "He joined a gang.")]
)  # fmt: skip
def test_story_cloze_counts_endings_from_one(label: int, answer: str):
    row = {
        "context": "Rick grew up poor. He was shot. He healed.  He turned over a new leaf.",
        "endings": ["He is happy now.", "He joined a gang."],
        "label": label,
    }
    assert _keep("story_cloze", row)
    fields = _fields("story_cloze", row)
    assert fields["context"].endswith("He healed. He turned over a new leaf.")
    assert (fields["answer"], fields["options"]) == (answer, row["endings"])
    assert not _keep("story_cloze", {**row, "label": -1})


PIQA = {
    "id": "",
    "goal": "When boiling butter, when it's ready, you can",
    "sol1": "Pour it onto a plate",
    "sol2": "Pour it into  a jar ",
    "label": 1,
}


def test_piqa():
    fields = _fields("piqa", PIQA)
    assert fields["goal"] == PIQA["goal"]
    assert fields["options"] == ["Pour it onto a plate", "Pour it into a jar"]
    assert fields["answer"] == "Pour it into a jar"
    assert _fields("piqa", {**PIQA, "label": 0})["answer"] == "Pour it onto a plate"


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, True),
        ({"goal": " "}, False),
        ({"sol1": ""}, False),
        ({"sol1": "Pour it into a jar"}, False),
    ],
)
def test_piqa_keeps_rows_with_one_answer(changes: dict, kept: bool):
    assert _keep("piqa", {**PIQA, **changes}) is kept
