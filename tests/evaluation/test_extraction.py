from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.evaluation.extraction import (
    Place,
    collapse,
    extract_phrase,
    find_answer,
    match_option,
    place_of,
)

# Texts that hold no phrase themselves and no marks that extraction trims.
WORDS = st.text("abcdefgh0123456789-+", min_size=1, max_size=8)
ANSWERS = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
REASONS = st.lists(WORDS, max_size=12).map(" ".join)
SPACES = st.text(" \n\t", max_size=3)


@given(reason=REASONS, answer=ANSWERS, before=SPACES, after=SPACES, stop=st.sampled_from(["", "."]))
def test_answer_is_found_after_the_phrase(reason, answer, before, after, stop):
    text = f"{before}{reason}. So the answer is {before}{answer}{stop}{after}"
    assert extract_phrase(text) == (answer, True)


@given(first=ANSWERS, second=ANSWERS, reason=REASONS)
def test_the_last_phrase_counts(first, second, reason):
    text = f"The answer is {first}. But {reason} no, the answer is {second}."
    assert extract_phrase(text) == (second, True)


@given(text=st.text(max_size=60))
def test_extraction_is_total_and_leaves_no_outer_space(text):
    answer, found = extract_phrase(text)
    assert answer == answer.strip()
    assert found == any(p in collapse(text) for p in ("answer is", "final answer", "Final answer",
                                                      "answer:", "Answer:"))  # fmt: skip


@given(text=st.text(" \n\tabc", max_size=40))
def test_collapsing_is_idempotent_and_keeps_the_words(text):
    assert collapse(collapse(text)) == collapse(text)
    assert collapse(text).split() == text.split()


@given(reason=REASONS.filter(bool), answer=ANSWERS)
def test_a_target_is_a_right_answer_to_itself(reason, answer, make_request):
    for target in (
        answer,
        f"{reason}. The answer is {answer}.",
        f"{reason} therefore {answer}.",
        f"{answer}, because {reason}",
        f"({reason}) {answer}: {reason}",
    ):
        request = make_request(answer=answer, target=target)
        found = find_answer(request, f" {target}\n")
        assert found.correct and found.parsed, target
        wrong = make_request(answer=answer + "x", target=target.replace(answer, answer + "x"))
        if wrong.target != target:
            assert not find_answer(wrong, "zzz").correct


@pytest.mark.parametrize(
    "target, place",
    [
        ("42", Place.WHOLE),
        ("6 * 7. The answer is 42.", Place.PHRASE),
        ("6 * 7 = 42", Place.END),
        ("6 * 7 = 42.", Place.END),
        ("42, since 6 * 7 is that", Place.START),
        ("I hold 42 to be right", Place.WITHIN),
        ("the sum 142", Place.WITHIN),
    ],
)
def test_place_of_the_answer(target, place):
    assert place_of(target, "42") == place


def _judge(make_request, prediction, **attributes):
    found = find_answer(make_request(**attributes), prediction)
    return found.correct, found.parsed


def test_open_answers(make_request):
    assert _judge(make_request, " yes\n") == (True, True)
    assert _judge(make_request, "Yes") == (False, True)
    assert _judge(make_request, "yes.") == (False, True)
    assert _judge(make_request, "") == (False, False)
    assert _judge(make_request, "two  words", answer="two words") == (True, True)


def test_worked_answers(make_request):
    def cot(prediction, answer="7"):
        target = f"3 + 4. So the answer is {answer}."
        return _judge(make_request, prediction, answer=answer, target=target)

    assert cot("whatever, the answer is 7.") == (True, True)
    assert cot("whatever, the answer is 8.") == (False, True)
    assert cot("it is 7, I think") == (False, False)
    assert cot("7") == (True, True)
    assert cot("the answer is") == (False, False)
    assert cot("at last the answer is 5 p.m.", "5 p.m.") == (True, True)


def _options(make_request, labels, texts, right):
    return make_request(
        answer=labels[right], options=labels, option_texts=texts, answer_text=texts[right]
    )


def test_options_by_marker_or_text(make_request):
    request = _options(make_request, ("(A)", "(B)"), ("red fox", "blue jay"), 1)
    for right in ("(B)", "blue jay", "(B) blue jay", "B", "blue  jay"):
        assert find_answer(request, right)[1:] == (True, True), right
    for wrong in ("(A)", "red fox", "A"):
        assert find_answer(request, wrong)[1:] == (True, False), wrong
    for unparsed in ("b", "(C)", "blue", "(A) or (B)", "(A) blue jay"):
        assert find_answer(request, unparsed)[1:] == (False, False), unparsed


def test_texts_go_before_bare_markers(make_request):
    request = _options(make_request, ("1.", "2.", "3."), ("3", "1", "2"), 0)
    assert match_option(request, "1.") == "3"
    assert match_option(request, "1") == "1"
    assert find_answer(request, "3").correct


def test_dashes_are_no_answer(make_request):
    request = _options(make_request, ("cat", "dog"), ("cat", "dog"), 0)
    assert find_answer(request, "-")[1:] == (False, False)


def test_option_at_the_end_of_a_solution_is_the_longest(make_request):
    request = make_request(
        answer="red", target="It is painted red", options=("red", "not red"),
        option_texts=("red", "not red"), answer_text="red",
    )  # fmt: skip
    assert find_answer(request, "It is red").correct
    assert find_answer(request, "It is not red") == ("not red", True, False)
    assert find_answer(request, "It is green") == ("", False, False)


def test_published_bbh_outputs_give_the_published_scores(test_data):
    with gzip.open(test_data / "bbh/codex-outputs/code-davinci-002-direct.json.gz") as file:
        published = json.load(file)["tasks"]
    assert len(published) == 27
    for name, outputs in published.items():
        examples = json.loads((test_data / f"bbh/bbh/{name}.json").read_text())["examples"]
        pairs = zip(examples, outputs["predictions"], strict=True)
        hits = [extract_phrase(text)[0] == item["target"].strip() for item, text in pairs]
        assert 100 * sum(hits) / len(hits) == pytest.approx(outputs["accuracy"], abs=0.051), name
