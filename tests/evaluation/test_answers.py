"""Finders of answers, by properties and by what is known to go wrong."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.evaluation.answers import (
    ANSWER_PHRASES,
    find_number,
    find_option,
    find_phrase,
    number_text,
    numbers,
)
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.scorers import get_scorer
from tests.evaluation.conftest import make_request

LABELS = ("(A)", "(B)", "(C)", "(D)")
TEXTS = ("a cat", "no dog", "B. Franklin", "12.5")
# Digits of scripts that MGSM's languages use.
SCRIPTS = {"bn": "০১২৩৪৫৬৭৮৯", "te": "౦౧౨౩౪౫౬౭౮౯", "th": "๐๑๒๓๔๕๖๗๘๙", "ja": "０１２３４５６７８９"}

small = st.integers(-(10**12), 10**12)
# What may stand around an answer and names none itself.
prose = st.text(alphabet="efghij klmno, \n", max_size=40)


def option_request(answer: str = "(B)") -> Request:
    return make_request(
        answer=answer,
        options=LABELS,
        option_texts=TEXTS,
        answer_text=TEXTS[LABELS.index(answer)],
    )


def number_request(answer: str) -> Request:
    return make_request(answer=answer)


# ------------------------------------------------------------------------------------------ options


@given(
    st.sampled_from(LABELS),
    st.sampled_from(LABELS),
    st.sampled_from(["{}", "({})", "{}.", "({}).", "{})", "[{}]", " {} ", "**{}**", "{}:"]),
    st.sampled_from(["", "the answer is ", "So the answer is ", "Final answer: "]),
    prose,
)
def test_a_letter_is_itself_in_any_brackets(gold, said, brackets, phrase, before):
    letter = said.strip("()")
    output = (before + " " + phrase if phrase else "") + brackets.format(letter)
    found = find_option(option_request(gold), output)
    assert found == (said, True, said == gold)


@given(st.sampled_from(range(4)), st.sampled_from(["", ".", " "]), st.booleans())
def test_a_text_names_its_option(index, end, marked):
    text = (f"{LABELS[index]} " if marked else "") + TEXTS[index].upper() + end
    found = find_option(option_request(), text)
    assert found == (LABELS[index], True, index == 1)


@given(prose)
def test_prose_names_no_option(text):
    assert find_option(option_request(), text) == ("", False, False)


@pytest.mark.parametrize(
    "output",
    [
        "",
        "I think A or B",
        "The answer is E.",
        "(A) no dog",
        "It is a",
        "a",
        "ABCD",
        "()",
        "answer is",
    ],
)
def test_what_names_no_option_is_not_parsed(output: str):
    assert find_option(option_request(), output) == ("", False, False)


def test_words_are_options_in_any_case():
    request = make_request(answer="yes", options=("yes", "no"), option_texts=("yes", "no"))
    assert find_option(request, "Yes.") == ("yes", True, True)
    assert find_option(request, "So the answer is NO") == ("no", True, False)
    assert not find_option(request, "not really").parsed


def test_options_with_one_text_are_both_right():
    request = make_request(
        answer="(C)", options=("(A)", "(C)"), option_texts=("same", "same"), answer_text="same"
    )
    assert find_option(request, "same").correct and not find_option(request, "A").correct


# ------------------------------------------------------------------------------------------ numbers


def written(value: int, style: str) -> str:
    if style == "indian" and abs(value) >= 1000:
        head, tail = divmod(abs(value), 1000)
        groups = []
        while head:
            head, group = divmod(head, 100)
            groups.insert(0, f"{group:02d}" if head else str(group))
        return ("-" if value < 0 else "") + ",".join([*groups, f"{tail:03d}"])
    if style in (",", "\u202f", "\u00a0", "，"):
        return f"{value:,}".replace(",", style)
    return str(value)


@given(
    small,
    st.sampled_from(["", ",", "\u202f", "\u00a0", "，", "indian"]),
    st.sampled_from([None, *SCRIPTS]),
    st.sampled_from(["{}", "{}.", "{}.00", "{}個。", "€{}", " {}%", "({})"]),
)
def test_a_number_is_read_in_any_writing(value, style, script, around):
    text = around.format(written(value, style))
    if around.startswith("€"):
        text = f"{'-' if value < 0 else ''}€{written(abs(value), style)}"
    if script:
        text = text.translate({ord(str(i)): d for i, d in enumerate(SCRIPTS[script])})
    assert numbers(text) == [Decimal(value)]
    assert find_number(number_request(str(value)), text) == (str(value), True, True)


@given(st.sampled_from(sorted(ANSWER_PHRASES)), st.data(), small, small, st.booleans())
def test_the_number_after_the_phrase_counts(language, data, value, other, upper):
    phrase = data.draw(st.sampled_from(ANSWER_PHRASES[language]))
    output = f"{other} + 1 = {other}. {phrase.upper() if upper else phrase} {value}."
    found = find_number(number_request(str(value)), output)
    assert found == (str(value), True, True)


@given(st.lists(small, min_size=1, max_size=5))
def test_without_a_phrase_the_last_number_counts(values):
    output = " and ".join(str(value) for value in values)
    assert find_number(number_request("7"), output).text == str(values[-1])


@given(st.text(max_size=60))
def test_any_text_can_be_read(text):
    for find in (find_number, find_option, find_phrase):
        found = find(option_request(), text)
        assert found.parsed or not found.correct
        assert find_number(number_request("7"), text).parsed is bool(numbers(text))


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("20-12=8", "8"),
        ("20 - 12", "12"),
        ("es sind -3", "-3"),
        ("also −3", "-3"),
        ("答えは-11です。", "-11"),
        ("1,2", "2"),
        ("die Antwort lautet 5 + 6 = 11", "11"),
        ("The answer is 7. The answer is not known", "7"),
        ("దశలవారీగా సమాధానం: 5 + 6 = 11. సమాధానం 12.చాక్లెట్", "12"),
        ("#### 2,125", "2125"),
        ("v1.2.3", "3"),
        (".5", "0.5"),
        ("0.50", "0.5"),
        ("-0", "0"),
        ("1000000", "1000000"),
        ("1,0000", "0"),
    ],
)
def test_numbers_that_are_easily_misread(output: str, text: str):
    assert find_number(number_request("1"), output).text == text


def test_a_gold_answer_may_have_commas():
    request = number_request("2,125")
    assert find_number(request, "It is 2125").correct
    assert find_number(request, "It is 2,125.00.").correct
    assert not find_number(request, "It is 2").correct


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9
    )
)
def test_a_number_has_one_text(value):
    assert Decimal(number_text(value)) == value
    assert number_text(value) == number_text(value * Decimal("1.000"))


# ------------------------------------------------------------------------------------------- phrase


def test_case_counts_after_the_phrase():
    request = make_request(answer="True")
    assert find_phrase(request, "not False. So the answer is True.") == ("True", True, True)
    assert not find_phrase(request, "So the answer is true.").correct
    assert find_phrase(request, "") == ("", False, False)


def test_an_option_may_be_named_otherwise_than_by_its_marker():
    request = option_request()
    for output in ("(B)", "B", "B.", "no dog", "the answer is No dog.", "(B) no dog"):
        assert find_phrase(request, output).correct
    for output in ("(A)", "a cat", "(A) no dog", "no dog at all"):
        assert not find_phrase(request, output).correct


@pytest.mark.parametrize("name", ["phrase_match", "option_match", "final_number", "squad_em"])
def test_judging_and_finding_agree(name: str):
    scorer = get_scorer(name)
    request = make_request(answer="12")
    for output in ("12", "12.", "13", "", "the answer is 12"):
        judged = scorer.judge(request, output)
        found = scorer.find(request, output)
        assert judged.statistics == (float(found.correct),) and judged.parsed == found.parsed
