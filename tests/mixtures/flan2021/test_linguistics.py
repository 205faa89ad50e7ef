"""Word senses and acceptability, of Flan 2021."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flan_jax.mixtures.flan2021 import linguistics
from flan_jax.sources.base import SourceError
from flan_jax.tasks import get_task

WIC = {
    "word": "spring",
    "sentence1": "The spring in the clock is broken. ",
    "sentence2": "We drank from a spring in the woods.",
    "start1": 4,
    "end1": 10,
    "start2": 16,
    "end2": 22,
    "idx": 2,
}
COLA = {"sentence": "They was late.\n", "idx": 9}
ROWS = {"wic": WIC, "cola": COLA}
CLASSES = {"wic": ["False", "True"], "cola": ["unacceptable", "acceptable"]}


def fields_of(task: str, label: int):
    to_fields = get_task(task).to_fields
    assert to_fields is not None
    return to_fields({**ROWS[task], "label": label})


def test_senses() -> None:
    assert fields_of("wic", 0) == {
        "word": "spring",
        "sentence1": "The spring in the clock is broken.",
        "sentence2": "We drank from a spring in the woods.",
        "answer": "different meanings",
        "options": ["different meanings", "the same meaning"],
    }
    assert fields_of("wic", 1)["answer"] == "the same meaning" == linguistics.SENSES[True]


def test_judgments() -> None:
    assert fields_of("cola", 0) == {
        "sentence": "They was late.",
        "answer": "unacceptable",
        "options": ["unacceptable", "acceptable"],
    }
    assert fields_of("cola", 1)["answer"] == "acceptable"


@pytest.mark.parametrize("task", ROWS)
def test_rows_without_a_class_are_refused(task: str) -> None:
    with pytest.raises(SourceError, match="label -1 is none of the 2 classes"):
        fields_of(task, -1)


@pytest.mark.parametrize("task", ROWS)
def test_rows_are_those_of_the_builder(task: str, tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder(get_task(task).source.builder, data_dir=str(tmp_path))
    assert {*ROWS[task], "label"} == set(builder.info.features)
    assert builder.info.features["label"].names == CLASSES[task]


def test_every_wic_prompt_names_the_word_and_both_sentences() -> None:
    fields = fields_of("wic", 1)
    for templates in get_task("wic").sections().values():
        for template in templates:
            inputs, target = template.render(fields)
            assert target == "the same meaning"
            for name in ("word", "sentence1", "sentence2"):
                assert fields[name] in inputs, template.where


def test_sentences_are_written_to_order() -> None:
    inverted = [t for ts in get_task("cola").sections().values() for t in ts if not t.asks_answer]
    assert len(inverted) >= 6
    for template in inverted:
        bad, target = template.render(fields_of("cola", 0))
        good, _ = template.render(fields_of("cola", 1))
        assert target == "They was late."
        assert target not in bad
        assert "unacceptable" in bad, template.where
        assert re.search(r"\bacceptable\b", good), template.where
        assert bad != good, template.where
