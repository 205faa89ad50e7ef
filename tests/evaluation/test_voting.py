"""Which output is judged: stop strings, majority votes, ranked options."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.evaluation.ranking import best_option, continuation_shape, continuation_tokens
from flan_jax.evaluation.store import Generation
from flan_jax.evaluation.voting import cut, settle, vote
from tests.evaluation.conftest import ByteVocabulary, make_request

LETTERS = {
    "answer": "(B)",
    "target": "So the answer is (B).",
    "options": ("(A)", "(B)", "(C)"),
    "option_texts": ("red", "green", "blue"),
    "answer_text": "green",
}


def says(answer: str) -> str:
    return f"Thinking. The answer is {answer}."


def test_the_majority_counts_and_the_first_output_with_it_is_judged():
    request = make_request(**LETTERS)
    outputs = [says("(A)"), says("(B)"), says("(B)"), says("(C)")]
    assert vote(request, outputs) == (1, {"(B)": 2, "(A)": 1, "(C)": 1})


def test_an_option_by_any_name_is_one_answer():
    request = make_request(**LETTERS)
    outputs = [says("(A)"), says("B"), says("(B)"), says("green")]
    assert vote(request, outputs) == (1, {"(B)": 3, "(A)": 1})


def test_unparsed_outputs_never_vote():
    request = make_request(**LETTERS)
    outputs = ["hm", "hm", "hm", "", says("(C)")]
    assert vote(request, outputs) == (4, {"(C)": 1})
    assert vote(request, ["hm", ""]) == (0, {})


def test_of_equals_the_first_one_wins():
    request = make_request(**LETTERS)
    outputs = [says("(C)"), says("(A)"), says("(A)"), says("(C)")]
    assert vote(request, outputs)[0] == 0


@given(st.lists(st.sampled_from(["(A)", "(B)", "(C)", None]), min_size=1, max_size=12))
def test_the_winner_has_the_most_votes_and_came_first(answers):
    request = make_request(**LETTERS)
    outputs = ["nothing" if answer is None else says(answer) for answer in answers]
    winner, votes = vote(request, outputs)
    counted = [answer for answer in answers if answer is not None]
    assert votes == {answer: counted.count(answer) for answer in counted}
    if counted:
        most = max(counted.count(answer) for answer in counted)
        first = next(a for a in answers if a is not None and counted.count(a) == most)
        assert winner == answers.index(first)
        shuffled = [*outputs, says(first)]
        random.Random(1).shuffle(shuffled)
        assert answers.count(first) == most
        assert max(vote(request, shuffled)[1].values()) == most + 1


@pytest.mark.parametrize(
    ("output", "stop", "expected"),
    [
        ("a\n\nb", ("\n\n",), ("a", True)),
        ("a Q b", ("</s>", "Q", "a "), ("", True)),  # the first place, not the first text
        ("a b", ("Q",), ("a b", False)),
        ("a b", (), ("a b", False)),
        ("a b", ("",), ("a b", False)),
    ],
)
def test_stop_strings_cut(output, stop, expected):
    assert cut(output, stop) == expected


def test_a_stopped_output_is_judged_without_what_follows():
    request = make_request()
    settled = settle(request, [Generation("yes\nQ: more", "length")], stop=("\n",))
    assert (settled.output, settled.ended, settled.found.correct) == ("yes", "stop", True)
    assert settle(request, [Generation("yes", "length")]).ended == "length"


def test_paths_are_accounted_for():
    request = make_request(**LETTERS)
    generations = [
        Generation(says("(A)"), "eos", -2.0),
        Generation("hm", "length", -9.0),
        Generation(says("(B)"), "eos", -3.0),
        Generation(says("B"), "eos", -4.0),
    ]
    settled = settle(request, generations)
    assert settled.output == says("(B)")
    assert settled.found.correct
    assert settled.votes == {"(B)": 2, "(A)": 1}
    assert [path.parsed for path in settled.paths] == [True, False, True, True]
    assert [path.ended for path in settled.paths] == ["eos", "length", "eos", "eos"]
    assert [path.logprob for path in settled.paths] == [-2.0, -9.0, -3.0, -4.0]


def test_the_likeliest_option_is_the_answer():
    texts = (" red", " green paint", " blue")
    request = make_request(**LETTERS, continuations=texts)
    ranked = Generation("", "ranked", scores=(-4.0, -5.0, -4.00004), tokens=(1, 4, 2))
    assert best_option(request, ranked, "sum") == "(A)"
    assert best_option(request, ranked, "per_token") == "(B)"
    assert best_option(request, ranked, "per_character") == "(B)"
    settled = settle(request, [ranked], ranking="per_token")
    assert (settled.output, settled.ended, settled.found.correct) == ("(B)", "ranked", True)
    assert settled.option_scores == {"(A)": -4.0, "(B)": -5.0, "(C)": -4.0}


def test_continuations_are_padded_to_one_shape():
    vocabulary = ByteVocabulary()
    requests = [
        make_request("t/0", continuations=("a", "bcd")),
        make_request("t/1", continuations=("ef", "g", "hijkl")),
    ]
    shape = continuation_shape(requests, vocabulary)
    assert shape == (3, 8)
    tokens = continuation_tokens(requests, vocabulary, 4, shape)
    assert tokens.shape == (4, 3, 8)
    assert vocabulary.decode(tokens[1, 2].tolist()) == "hijkl"
    assert (tokens > 0).sum(axis=2).tolist() == [[1, 3, 0], [2, 1, 5], [1, 3, 0], [1, 3, 0]]
