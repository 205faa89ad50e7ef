"""Treebank tokens become text as it is printed."""

from __future__ import annotations

import pytest

from flan_jax.mixtures.flan2021.treebank import untokenize


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("it 's a charming and often affecting journey . ", "it's a charming and often "
         "affecting journey."),
        ("the film ca n't decide , or is n't -lrb- yet -rrb- able to .",
         "the film can't decide, or isn't (yet) able to."),
        ("Who wrote `` The Shadow of Man '' , and when ?",
         'Who wrote "The Shadow of Man", and when?'),
        ("a ` bad ' movie", "a 'bad' movie"),
        ("the actors ' faces ... and more !", "the actors' faces... and more!"),
        ("What costs $ 5 , or 5 % ?", "What costs $5, or 5%?"),
        ("What is the full form of .com ?", "What is the full form of .com?"),
        ("a self-glorified Martin Lawrence lovefest", "a self-glorified Martin Lawrence lovefest"),
        ("How many '60s bands ?", "How many '60s bands?"),
    ],
)  # fmt: skip
def test_untokenize(tokens: str, text: str):
    assert untokenize(tokens) == text


def test_what_is_printed_already_stays():
    text = "It's \"fine\" (really), isn't it? $5 says so."
    assert untokenize(text) == text
