"""Text-formatting tasks of Muffin: what is taken from a text, and what is kept."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.mixtures.flan2021 import text_formatting
from flan_jax.mixtures.flan2021.registry import facts
from flan_jax.tasks import get_task

ROW = {
    "en": "Don't miss  out: the Hotel Sol, in Aarhus, is well-known - book by 3.5 km away!",
    "da": "",
}
TEXT = "Don't miss out: the Hotel Sol, in Aarhus, is well-known - book by 3.5 km away!"


def test_true_case():
    assert text_formatting.true_case(ROW) == {"lower": TEXT.lower(), "answer": TEXT}


def test_fix_punct():
    assert text_formatting.fix_punct(ROW) == {
        "no_punct": "Dont miss out the Hotel Sol in Aarhus is well known book by 3.5 km away",
        "answer": TEXT,
    }


def test_word_segment():
    assert text_formatting.word_segment(ROW) == {
        "no_space": TEXT.replace(" ", ""),
        "answer": TEXT,
    }


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("1,000 people, 12:30", "1,000 people 12:30"),
        ("100% of R&D", "100% of R&D"),
        ("“Ça va?” – Évidemment…", "Ça va Évidemment"),
        ("Price: $5.", "Price $5"),
        ("(2004-05-01)", "2004-05-01"),
        ("...", ""),
    ],
)
def test_punctuation_that_is_taken_away(text, bare):
    assert text_formatting.without_punctuation(text) == bare


@given(st.text())
def test_taking_punctuation_away_keeps_letters_and_digits_and_is_done_once(text):
    bare = text_formatting.without_punctuation(text)
    assert [c for c in bare if c.isalnum()] == [c for c in text if c.isalnum()]
    assert not set(bare) & set("!?;()\"'")


@pytest.mark.parametrize(
    ("name", "text", "kept"),
    [
        ("true_case", "all small here", False),
        ("true_case", "One capital", True),
        ("fix_punct", "No marks here", False),
        ("fix_punct", "A mark here.", True),
        ("fix_punct", "...", False),
        ("word_segment", "Contact", False),
        ("word_segment", "Contact us", True),
        ("word_segment", " ", False),
    ],
)
def test_rows_with_nothing_to_do_are_left_out(name, text, kept):
    assert get_task(name).source.keep({"en": text, "da": ""}) is kept


@pytest.mark.parametrize("name", ["true_case", "fix_punct", "word_segment"])
def test_inputs_do_not_show_what_is_to_be_restored(name):
    task = get_task(name)
    fields = task.to_fields(ROW)
    for template in (t for section in task.sections().values() for t in section):
        inputs, targets = template.render(fields)
        assert targets and targets not in inputs


def test_tasks_read_disjoint_windows():
    windows = []
    for name in ("true_case", "fix_punct", "word_segment"):
        for split in ("train", "validation"):
            start, stop = facts()[name][split].removeprefix("train[").removesuffix("]").split(":")
            windows.append((int(start or 0), int(stop)))
    for (_, stop), (start, _) in itertools.pairwise(sorted(windows)):
        assert stop <= start
