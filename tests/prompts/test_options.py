"""Blocks of options: markers, labels, headings."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.draws import Draws
from flan_jax.prompts.options import (
    ENDINGS,
    HEADINGS,
    MARKER_KINDS,
    PLAIN_KINDS,
    PLAIN_STYLES,
    drawn_block,
    no_block,
    plain_block,
)

options_lists = st.lists(st.text(min_size=1), min_size=1, max_size=60, unique=True)


@pytest.mark.parametrize(
    "kind, index, mark",
    [
        (0, 0, "(A)"), (0, 25, "(Z)"), (0, 26, "(AA)"), (0, 51, "(AZ)"), (0, 52, "(BA)"),
        (0, 701, "(ZZ)"), (0, 702, "(AAA)"), (4, 26, "(aa)"), (6, 9, "10."), (7, 0, "(1)"),
        (8, 0, "i."), (8, 3, "iv."), (8, 8, "ix."), (8, 13, "xiv."), (8, 38, "xxxix."), (9, 5, "-"),
    ],
)  # fmt: skip
def test_markers_by_hand(kind, index, mark):
    assert PLAIN_KINDS[kind].mark(index) == mark


@pytest.mark.parametrize("kind", MARKER_KINDS, ids=lambda kind: kind.mark(0))
def test_identifying_markers_tell_many_options_apart(kind):
    marks = {kind.mark(i) for i in range(800)}
    assert len(marks) == (800 if kind.identifying else 1)


@given(options_lists, st.integers())
def test_labels_are_distinct_and_shown(options, seed):
    block = drawn_block(options, Draws(seed))
    assert len(block.labels) == len(options) == len(set(block.labels))
    assert all(label in block.text for label in block.labels)


@given(options_lists, st.integers())
def test_every_option_is_shown_after_its_marker_in_order(options, seed):
    text = drawn_block(options, Draws(seed)).text
    heading, _, rest = text.removeprefix("\n").partition("\n")
    assert text.startswith("\n") and heading in HEADINGS
    for option in options:
        mark, space, rest = rest.partition(" ")
        assert space and re.fullmatch(r"[(\[]?#?\w+[.)\]:,/]*|[-*+=.:()\[\]]+", mark)
        assert rest.startswith(option)
        rest = rest[len(option) :]
        rest = rest.removeprefix(rest[:1] if rest[:2] in (";\n", ",\n") else "").removeprefix("\n")
    assert rest == ""


def test_a_marker_answers_only_if_it_tells_something():
    kinds = set()
    for seed in range(2000):
        block = drawn_block(["red", "blue"], Draws(seed))
        first = block.text.split("\n")[2].split(" ")[0]
        kinds.add(first)
        identifying = any(c.isalnum() for c in first)
        assert identifying or block.labels == ("red", "blue")
        assert (first in (block.labels[0] + tail for tail in ("", *".:/"))) == identifying
        # One option alone is answered by its text.
        assert drawn_block(["red"], Draws(seed)).labels == ("red",)
    assert kinds == {kind.mark(0) for kind in MARKER_KINDS}


def test_all_headings_occur():
    found = {drawn_block(["a", "b"], Draws(seed)).text.split("\n")[1] for seed in range(400)}
    assert found == set(HEADINGS)


def test_the_plain_block_is_fixed():
    block = plain_block(["a", "b"])
    assert block.text == "\nOptions:\n- a\n- b"
    assert block.labels == ("a", "b")


def test_no_block_shows_nothing_and_answers_by_text():
    assert no_block(["a", "b"]).text == ""
    assert no_block(["a", "b"]).labels == ("a", "b")


def test_flan_s_variety_is_matched():
    """Flan 2022 has 16 headings, 63 kinds of marker (40 identifying) and 3 endings."""
    assert len(set(HEADINGS)) >= 16
    assert len(set(MARKER_KINDS)) >= 63
    assert sum(kind.identifying for kind in MARKER_KINDS) >= 40
    assert len({kind.mark(27) for kind in MARKER_KINDS}) == len(MARKER_KINDS)
    assert len(ENDINGS) == 3


def test_styles_bound_what_is_drawn():
    blocks = [drawn_block(["a", "b"], Draws(seed), PLAIN_STYLES) for seed in range(300)]
    marks = {block.text.split("\n")[2].split(" ")[0] for block in blocks}
    assert marks == {kind.mark(0) for kind in PLAIN_KINDS}


@given(options_lists, st.integers())
def test_endings_never_follow_an_option_s_own_punctuation(options, seed):
    options = [f"{option}." for option in options]
    lines = drawn_block(options, Draws(seed)).text
    assert all(f"{option};" not in lines and f"{option},\n" not in lines for option in options)
