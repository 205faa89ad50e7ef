"""Paraphrase tasks of Flan 2021."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flan_jax.draws import Draws
from flan_jax.mixtures.flan2021 import paraphrase
from flan_jax.prompts.options import drawn_block
from flan_jax.sources.base import SourceError
from flan_jax.tasks import get_task

CLASSES = {
    "paws_wiki": ["different_meaning", "paraphrase"],
    "glue_mrpc": ["not_equivalent", "equivalent"],
    "glue_qqp": ["not_duplicate", "duplicate"],
}
PAWS = {
    "sentence1": "The `` Aurora '' sailed from Bergen to Hull , then to Oslo .",
    "sentence2": "The `` Aurora '' sailed from Hull to Bergen , then to Oslo .",
}
MRPC = {
    "sentence1": 'He called the plan " a mistake " , which the mayor did n\'t deny .',
    "sentence2": "The mayor 's plan costs $ 2 million , he said .",
    "idx": 4,
}
QQP = {"question1": "How do I fix a tap? ", "question2": "How can I mend a tap?", "idx": 5}
STSB = {"sentence1": "A man is singing.", "sentence2": " A man sings a song.", "idx": 6}
ROWS = {"paws_wiki": PAWS, "glue_mrpc": MRPC, "glue_qqp": QQP, "stsb": STSB}


def fields_of(task: str, label: float):
    to_fields = get_task(task).to_fields
    assert to_fields is not None
    return to_fields({**ROWS[task], "label": label})


@pytest.mark.parametrize("task", CLASSES)
def test_the_second_class_is_the_paraphrase(task: str) -> None:
    assert fields_of(task, 0)["answer"] == "no"
    assert fields_of(task, 1)["answer"] == "yes"
    assert fields_of(task, 1)["options"] == ["no", "yes"]


@pytest.mark.parametrize("task", CLASSES)
def test_rows_without_a_class_are_refused(task: str) -> None:
    with pytest.raises(SourceError, match="label -1 is none of the 2 classes"):
        fields_of(task, -1)


@pytest.mark.parametrize("task", ROWS)
def test_rows_are_those_of_the_builder(task: str, tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder(get_task(task).source.builder, data_dir=str(tmp_path))
    features = builder.info.features
    assert {*ROWS[task], "label"} == set(features)
    if task in CLASSES:
        assert features["label"].names == CLASSES[task]
    else:
        assert features["label"].dtype == "float32"


def test_tokens_become_text() -> None:
    paws = fields_of("paws_wiki", 0)
    assert paws["sentence1"] == 'The "Aurora" sailed from Bergen to Hull, then to Oslo.'
    mrpc = fields_of("glue_mrpc", 0)
    assert mrpc["sentence1"] == 'He called the plan "a mistake", which the mayor didn\'t deny.'
    assert mrpc["sentence2"] == "The mayor's plan costs $2 million, he said."
    assert fields_of("glue_qqp", 1)["question1"] == "How do I fix a tap?"


def test_unpaired_quotation_marks_stay_as_they_are() -> None:
    row = {**MRPC, "sentence1": 'It will rain , " he said .', "label": 1}
    assert paraphrase._glue_mrpc(row)["sentence1"] == 'It will rain, " he said.'


def test_questions_that_are_empty_are_left_out() -> None:
    keep = get_task("glue_qqp").source.keep
    assert keep({**QQP, "label": 0})
    assert not keep({**QQP, "question2": " ", "label": 0})


@pytest.mark.parametrize(
    "score, answer",
    [(0.0, "0"), (0.4, "0"), (0.5, "0"), (1.5, "2"), (2.5, "2"), (2.6, "3"), (4.75, "5"), (5, "5")],
)
def test_scores_are_rounded(score: float, answer: str) -> None:
    fields = fields_of("stsb", score)
    assert fields["answer"] == answer
    assert fields["options"] == ["0", "1", "2", "3", "4", "5"]
    assert fields["sentence2"] == "A man sings a song."


@pytest.mark.parametrize("score", [-1.0, 5.5, float("nan")])
def test_scores_off_the_scale_are_refused(score: float) -> None:
    with pytest.raises(SourceError, match="is not between 0 and 5"):
        fields_of("stsb", score)


def test_scores_are_answered_by_themselves() -> None:
    for draw in range(50):
        block = drawn_block(paraphrase.SCORES, Draws(draw, "scores"), paraphrase.SCORE_STYLES)
        assert block.labels == paraphrase.SCORES
        assert not re.search(r"- ?\d", block.text)


def test_scale_has_both_its_ends_in_every_prompt() -> None:
    for templates in get_task("stsb").sections().values():
        for template in templates:
            layout = template.layout
            seen = f"{template.instruction} {template.inputs} {layout and layout.before_target}"
            assert "0" in seen, template.where
            assert "5" in seen, template.where


def test_similar_sentences_are_written_for_a_score() -> None:
    fields = fields_of("stsb", 4.0)
    inverted = [t for ts in get_task("stsb").sections().values() for t in ts if not t.asks_answer]
    assert len(inverted) >= 6
    for template in inverted:
        inputs, target = template.render(fields)
        assert target == "A man sings a song."
        assert "4" in inputs, template.where
        assert "A man is singing." in inputs, template.where
