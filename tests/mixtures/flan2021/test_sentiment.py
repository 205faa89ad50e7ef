"""Sentiment tasks: rows in the builders' shape become clean text and the right label."""

from __future__ import annotations

import pytest

import flan_jax.mixtures.flan2021.sentiment  # noqa: F401 - registers the tasks
from flan_jax.prompts.template import FEW_SHOT, Template, fields_of, load_templates
from flan_jax.tasks import get_task

NAMES = ("sst2", "imdb_reviews", "yelp_polarity_reviews", "sentiment140")


def _fields(name: str, row: dict) -> dict:
    to_fields = get_task(name).to_fields
    assert to_fields is not None
    return dict(to_fields(row))


def _all_templates(name: str) -> list[Template]:
    file = get_task(name).template_file
    return [*load_templates(file), *load_templates(file, FEW_SHOT)]


@pytest.mark.parametrize(
    ("sentence", "label", "text", "answer"),
    [
        ("that loves its characters and communicates something rather beautiful ", 1,
         "that loves its characters and communicates something rather beautiful", "positive"),
        ("it 's slow -- very , very slow . ", 0, "it's slow -- very, very slow.", "negative"),
    ],
)  # fmt: skip
def test_sst2(sentence: str, label: int, text: str, answer: str):
    fields = _fields("sst2", {"idx": 3, "label": label, "sentence": sentence})
    assert (fields["sentence"], fields["answer"]) == (text, answer)
    assert fields["options"] == ["negative", "positive"]


def test_imdb_breaks_are_line_breaks():
    row = {
        "text": "A quiet film.<br /><br />It grows on you. <br>See it!<BR/>",
        "label": 1,
    }
    fields = _fields("imdb_reviews", row)
    assert fields["text"] == "A quiet film.\nIt grows on you.\nSee it!"
    assert fields["answer"] == "positive"
    assert _fields("imdb_reviews", {**row, "label": 0})["answer"] == "negative"


def test_yelp_escapes_are_undone():
    # As the builder reads the CSV file: doubled quotes and backslashes stand in the text.
    row = {
        "text": r'Dr. Goldberg said \""no\"" twice.\n\nThe staff was ""nice"" \n though.',
        "label": 0,
    }
    fields = _fields("yelp_polarity_reviews", row)
    assert fields["text"] == 'Dr. Goldberg said "no" twice.\nThe staff was "nice"\nthough.'
    assert fields["answer"] == "negative"
    assert _fields("yelp_polarity_reviews", {**row, "label": 1})["answer"] == "positive"


def test_sentiment140_scores_and_entities():
    row = {
        "polarity": 4,
        "date": "Mon May 11 03:17:40 UTC 2009",
        "query": "NO_QUERY",
        "user": "tpryan",
        "text": "@stellargirl I loooove my Kindle &amp; it&quot;s  cool ",
    }
    fields = _fields("sentiment140", row)
    assert fields["text"] == '@stellargirl I loooove my Kindle & it"s cool'
    assert fields["answer"] == "positive"
    assert _fields("sentiment140", {**row, "polarity": 0})["answer"] == "negative"


@pytest.mark.parametrize(("polarity", "kept"), [(0, True), (2, False), (4, True)])
def test_sentiment140_leaves_out_neutral_rows(polarity: int, kept: bool):
    keep = get_task("sentiment140").source.keep  # type: ignore[attr-defined]
    assert keep({"polarity": polarity, "text": "reading my kindle2"}) is kept


def test_rows_without_text_are_left_out():
    assert not get_task("sentiment140").source.keep({"polarity": 4, "text": "  "})  # type: ignore[attr-defined]
    keep = get_task("yelp_polarity_reviews").source.keep  # type: ignore[attr-defined]
    assert not keep({"label": 1, "text": " "})
    assert keep({"label": 1, "text": "Good."})


@pytest.mark.parametrize("name", NAMES)
def test_inverted_templates_name_the_sentiment(name: str):
    inverted = [template for template in _all_templates(name) if not template.asks_answer]
    assert len(inverted) >= 4
    for template in inverted:
        assert "answer" in fields_of(template.inputs), template.where


@pytest.mark.parametrize("name", NAMES)
def test_templates_that_ask_for_the_label_show_the_text(name: str):
    text = {"sst2": "sentence"}.get(name, "text")
    for template in _all_templates(name):
        if template.asks_answer:
            assert text in template.fields, template.where
