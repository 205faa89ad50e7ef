"""Conversations as text."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.draws import Draws
from flan_jax.prompts.dialog import (
    ENDINGS,
    HEADINGS,
    MARKERS,
    PLAIN,
    DialogStyle,
    drawn_dialog,
    drawn_style,
)

TURNS = ("Is it far?", "Two miles.", "Thanks!")
# Not in T5's vocabulary.
UNKNOWN_TO_T5 = set("{}<>~^`|\\")


def test_as_many_shapes_as_in_flan():
    assert len(HEADINGS) == len(set(HEADINGS)) and sum(map(bool, HEADINGS)) >= 13
    assert len(MARKERS) == len(set(MARKERS)) >= 49
    assert len(set(ENDINGS)) == len(ENDINGS) == 3
    assert all(ending.startswith("\n") for ending in ENDINGS)
    texts = [*HEADINGS, *(mark for pair in MARKERS for mark in pair)]
    assert not UNKNOWN_TO_T5 & set("".join(texts))
    assert all(text == text.strip() for text in texts)
    assert all(asks and answers and asks != answers for asks, answers in MARKERS)


def test_a_style_puts_marks_before_turns_and_a_heading_above():
    style = DialogStyle("Chat:", ("Q:", "A:"), "\n--\n")
    assert style.render(TURNS) == "Chat:\nQ: Is it far?\n--\nA: Two miles.\n--\nQ: Thanks!"
    assert style.render(TURNS[1:], first=1) == "Chat:\nA: Two miles.\n--\nQ: Thanks!"
    assert PLAIN.render(TURNS) == "A: Is it far?\nB: Two miles.\nA: Thanks!"
    assert DialogStyle("", ("-", "+"), "\n").render(["Hm."]) == "- Hm."


def test_no_turns_are_an_error():
    with pytest.raises(ValueError, match="at least one turn"):
        PLAIN.render([])


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(0, 1))
def test_all_turns_are_there_in_order_each_by_its_speaker(seed, count, first):
    turns = [f"turn {i} of many" for i in range(count)]
    text = drawn_dialog(turns, Draws(seed), first=first)
    assert text == drawn_dialog(turns, Draws(seed), first=first)
    style = drawn_style(Draws(seed))
    rest = text.removeprefix(f"{style.heading}\n")
    found = rest.split(style.ending)
    assert len(found) == count
    for i, (said, turn) in enumerate(zip(found, turns, strict=True)):
        assert said == f"{style.markers[(first + i) % 2]} {turn}"


def test_every_shape_is_drawn_about_as_often():
    styles = [drawn_style(Draws(0, "style", i)) for i in range(5_000)]
    for drawn, listed in (
        (Counter(s.heading for s in styles), HEADINGS),
        (Counter(s.markers for s in styles), MARKERS),
        (Counter(s.ending for s in styles), ENDINGS),
    ):
        assert set(drawn) == set(listed)
        expected = len(styles) / len(listed)
        assert max(drawn.values()) < expected + 5 * expected**0.5
        assert min(drawn.values()) > expected - 5 * expected**0.5
