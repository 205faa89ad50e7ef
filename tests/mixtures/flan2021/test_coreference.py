"""Coreference tasks: the pronoun in question is marked, and the answer is who it refers to."""

from __future__ import annotations

import re

import pytest

import flan_jax.mixtures.flan2021.coreference  # noqa: F401 - registers the tasks
from flan_jax.prompts.template import FEW_SHOT, load_templates
from flan_jax.tasks import get_task

COUNCIL = "The city councilmen refused the demonstrators a permit because they feared violence."


def _fields(name: str, row: dict) -> dict:
    to_fields = get_task(name).to_fields
    assert to_fields is not None
    return dict(to_fields(row))


def _wsc(text: str, span1: str, span2: str, index: int, label: int) -> dict:
    return {
        "text": text,
        "span1_text": span1,
        "span1_index": 0,
        "span2_text": span2,
        "span2_index": index,
        "label": label,
        "idx": 1,
    }


MARK = "Mark told Pete many lies about himself, which Pete included in his book. He should have "


@pytest.mark.parametrize(
    ("row", "marked", "answer"),
    [
        (_wsc(MARK + "been more truthful.", "Mark", "He", 13, 1), "in his book. *He* should",
         "yes"),
        (_wsc(MARK + "been more skeptical.", "Mark", "He", 13, 0), "in his book. *He* should",
         "no"),
        # The second of two, by its index; "the" and "himself" are no occurrences of "he".
        (_wsc("Tom said he was ill, so the doctor himself came, but he slept.", "the doctor",
              "he", 11, 0), "came, but *he* slept.", "no"),
        (_wsc("Tom said he was ill, so the doctor himself came, but he slept.", "Tom",
              "he", 2, 1), "Tom said *he* was ill", "yes"),
        # The index is off by one word.
        (_wsc("Sam's drawing was hung above Tina's, and it looked good.", "Sam's drawing", "it",
              6, 1), "and *it* looked", "yes"),
        (_wsc("The birds sang. When they pass,\ntheyscold us.", "The birds", "theyscold", 6, 1),
         "pass, *they* scold us.", "yes"),
    ],
)  # fmt: skip
def test_wsc(row: dict, marked: str, answer: str):
    keep = get_task("wsc").source.keep  # type: ignore[attr-defined]
    assert keep(row)
    fields = _fields("wsc", row)
    assert marked in fields["text"]
    assert fields["text"].count("*") == 2
    assert (fields["candidate"], fields["answer"]) == (row["span1_text"], answer)
    assert fields["options"] == ["no", "yes"]


def test_wsc_leaves_out_rows_whose_pronoun_is_not_in_the_text():
    keep = get_task("wsc").source.keep  # type: ignore[attr-defined]
    assert not keep(_wsc("Mark told Pete the truth.", "Mark", "he", 3, 1))


def test_wsc273():
    start = COUNCIL.index("they")
    row = {
        "text": COUNCIL,
        "pronoun_start": start,
        "pronoun_end": start + 4,
        "pronoun_text": "they",
        "option1": "The city councilmen",
        "option1_normalized": "the city councilmen",
        "option2": "The demonstrators",
        "option2_normalized": "the demonstrators",
        "label": 0,
        "idx": 0,
    }
    fields = _fields("wsc273", row)
    assert fields["text"] == COUNCIL.replace("they", "*they*")
    assert fields["options"] == ["the city councilmen", "the demonstrators"]
    assert fields["answer"] == "the city councilmen"
    assert _fields("wsc273", {**row, "label": 1})["answer"] == "the demonstrators"


def test_wsc273_is_never_trained_on():
    task = get_task("wsc273")
    assert task.held_out
    assert task.source.splits() == ("test",)
    assert task.cluster == "coreference"


@pytest.mark.parametrize(("label", "answer"), [(0, "Ian"), (1, "Dennis")])
def test_winogrande(label: int, answer: str):
    sentence = "Ian volunteered to eat Dennis's menudo because _ despised eating intestine."
    row = {"sentence": sentence, "option1": "Ian", "option2": "Dennis", "label": label}
    fields = _fields("winogrande", row)
    assert fields["sentence"] == sentence
    assert fields["before"] == "Ian volunteered to eat Dennis's menudo because"
    assert fields["after"] == " despised eating intestine."
    assert (fields["answer"], fields["options"]) == (answer, ["Ian", "Dennis"])


def test_winogrande_possessive_blank():
    row = {
        "sentence": "Maria's coat was nicer than Ann's, so _'s coat was sold.",
        "option1": "Maria",
        "option2": "Ann",
        "label": 1,
    }
    assert _fields("winogrande", row)["after"] == "'s coat was sold."
    keep = get_task("winogrande").source.keep  # type: ignore[attr-defined]
    assert keep(row)
    assert not keep({**row, "sentence": "No blank here."})


def _definite(sentence: str, pronoun: str, candidates: list[str], label: int) -> dict:
    return {"sentence": sentence, "pronoun": pronoun, "candidates": candidates, "label": label}


@pytest.mark.parametrize(
    ("row", "marked", "answer"),
    [
        (_definite("The bee landed on the flower because it had pollen.", "it",
                   ["The bee", "the flower"], 1), "because *it* had", "the flower"),
        (_definite("The bee landed on the flower because it wanted pollen.", "it",
                   ["The bee", "the flower"], 0), "because *it* wanted", "the bee"),
        # A pronoun before the second name is another one.
        (_definite("She told Ann that Lisa would help when she arrived.", "she",
                   ["Ann", "Lisa"], 1), "when *she* arrived", "Lisa"),
        # Two after both names: the first.
        (_definite("Bob hit Joe because he was rude when he spoke.", "he", ["Bob", "Joe"], 1),
         "because *he* was rude when he", "Joe"),
        (_definite("Dogs chase cats, so they hide.", "they", ["The dogs", "cats"], 1),
         "so *they* hide", "cats"),
    ],
)  # fmt: skip
def test_definite_pronoun_resolution(row: dict, marked: str, answer: str):
    fields = _fields("definite_pronoun_resolution", row)
    assert marked in fields["text"]
    assert fields["text"].count("*") == 2
    assert fields["answer"] == answer
    assert fields["options"].index(answer) == row["label"]


def test_definite_pronoun_resolution_needs_its_pronoun():
    keep = get_task("definite_pronoun_resolution").source.keep  # type: ignore[attr-defined]
    assert keep(_definite("Bob hit Joe because he was rude.", "he", ["Bob", "Joe"], 1))
    assert not keep(_definite("Bob hit Joe.", "he", ["Bob", "Joe"], 1))


@pytest.mark.parametrize("name", ["wsc", "wsc273", "winogrande", "definite_pronoun_resolution"])
def test_every_prompt_shows_what_is_to_be_resolved(name: str):
    file = get_task(name).template_file
    fields = {
        "text": "Tom met Jim when *he* fell.", "pronoun": "he", "candidate": "Jim",
        "sentence": "Tom met Jim when _ fell.", "before": "Tom met Jim when", "after": " fell.",
        "answer": "Jim",
    }  # fmt: skip
    gap = r"Tom met Jim when (\*he\*|_+|\(gap\)|\[stain\]|\.\.\.\W+End of the text: \.\.\.|\.\.\.)"
    for template in (*load_templates(file), *load_templates(file, FEW_SHOT)):
        inputs, targets = template.render(fields)
        assert re.search(gap + " fell", inputs), (template.where, inputs)
        assert targets == "Jim"
