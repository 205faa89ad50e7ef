"""Labels that stand for no class, as rows of hidden test sets have them, are refused."""

from __future__ import annotations

import pytest

from flan_jax.mixtures.flan2021 import classification, commonsense, coreference, sentiment
from flan_jax.mixtures.flan2021.class_texts import class_text
from flan_jax.sources.base import SourceError

CLASSES = ["no", "yes"]


def test_classes_count_from_the_first():
    assert [class_text({"label": label}, CLASSES) for label in (0, 1)] == CLASSES
    assert [class_text({"label": label}, CLASSES, first=1) for label in (1, 2)] == CLASSES
    assert class_text({"kind": 1}, CLASSES, field="kind") == "yes"


@pytest.mark.parametrize(("label", "first"), [(-1, 0), (2, 0), (0, 1), (3, 1)])
def test_other_labels_are_refused(label, first):
    with pytest.raises(SourceError, match=rf"label {label} .*no, yes.*count from {first}"):
        class_text({"label": label}, CLASSES, first=first)


TWO = {"option1": "cup", "option2": "mug"}
UNLABELED = {
    "sst2": (sentiment._sst2, {"sentence": "fine"}),
    "imdb_reviews": (sentiment._imdb_reviews, {"text": "Fine."}),
    "yelp_polarity_reviews": (sentiment._yelp_polarity_reviews, {"text": "Fine."}),
    "ag_news_subset": (classification._ag_news_subset, {"title": "Oil", "description": "Up."}),
    "wsc": (
        coreference._wsc,
        {"text": "Ann left. She ran.", "span1_text": "Ann", "span2_text": "She", "span2_index": 2},
    ),
    "winogrande": (coreference._winogrande, {"sentence": "The cup, the mug: a _.", **TWO}),
    "copa": (
        commonsense._copa,
        {"premise": "It fell.", "question": "cause", "choice1": "Wind.", "choice2": "Sun."},
    ),
    "hellaswag": (
        commonsense._hellaswag,
        {"context": "He", "activity_label": "", "endings": ["runs.", "sits.", "eats.", "naps."]},
    ),
    "piqa": (commonsense._piqa, {"goal": "Dry it", "sol1": "Use a towel.", "sol2": "Use soup."}),
}


@pytest.mark.parametrize("name", UNLABELED)
def test_a_row_without_a_label_does_not_get_the_last_answer(name):
    to_fields, row = UNLABELED[name]
    assert to_fields({**row, "label": 0})["answer"]
    with pytest.raises(SourceError, match="label -1"):
        to_fields({**row, "label": -1})


def test_labels_under_another_name_and_counted_from_one():
    with pytest.raises(SourceError, match="label -1"):
        classification._trec({"text": "Who ?", "label-coarse": -1})
    with pytest.raises(SourceError, match="label 0"):
        commonsense._story_cloze({"context": "A. B.", "endings": ["C.", "D."], "label": 0})
