"""Finding the answer in what a model wrote.

How to look follows from the prompt's own target: where that is the answer alone, the whole output
counts; where the answer ends a worked solution, it is looked for there. Whitespace never counts,
because SentencePiece collapses it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from flan_jax.evaluation.requests import Request

# The rule by which the published BBH outputs reproduce the published scores (the FLAN repository's
# postprocessor for BBH): text after the last of these, one after the other.
_FIRST_PHRASE = "answer is"
_LATER_PHRASES = ("final answer", "Final answer", "answer:", "Answer:")
_END_MARKS = ".,?"
_EDGE_MARKS = ".,?:"
_MARKER_MARKS = "()[]. "


class Place(Enum):
    """Where in a target its answer is."""

    WHOLE = "whole"
    PHRASE = "phrase"
    END = "end"
    START = "start"
    WITHIN = "within"


class Found(NamedTuple):
    """An answer found in an output.

    Attributes:
      text: the answer; empty if there is none.
      parsed: whether the output has the form of an answer at all.
      correct: whether it is the right one.
    """

    text: str
    parsed: bool
    correct: bool


def collapse(text: str) -> str:
    """`text` stripped, with every run of whitespace as one space."""
    return " ".join(text.split())


def extract_phrase(text: str) -> tuple[str, bool]:
    """(what follows the last "answer is" or the like, whether there was such a phrase).

    One trailing full stop, comma or question mark is dropped, and one such mark (or a colon) at
    either end of the answer. Without a phrase, the whole text is treated so.
    """
    text = collapse(text)
    if text[-1:] in tuple(_END_MARKS):
        text = text[:-1].rstrip()
    found = False
    for phrase in (_FIRST_PHRASE, *_LATER_PHRASES):
        _, hit, after = text.rpartition(phrase)
        if hit:
            text, found = after.strip(), True
    if text[:1] in tuple(_EDGE_MARKS):
        text = text[1:]
    if text[-1:] in tuple(_EDGE_MARKS):
        text = text[:-1]
    return text.strip(), found


def place_of(target: str, answer: str) -> Place:
    """Where `answer` is in `target`."""
    target, answer = collapse(target), collapse(answer)
    if target == answer:
        return Place.WHOLE
    text, found = extract_phrase(target)
    if found and _same(text, answer):
        return Place.PHRASE
    if _ends_with(target, answer):
        return Place.END
    if _starts_with(target, answer):
        return Place.START
    return Place.WITHIN


def find_answer(request: Request, prediction: str) -> Found:
    """The answer that `prediction` gives to `request`, judged by exact match (case counts).

    With options, the answer may be the option's marker or its text. An output without a
    recognisable answer is wrong and not `parsed`: an empty one, one that names no option, one that
    never comes to "the answer is" where the target does.
    """
    text = collapse(prediction)
    if not text:
        return Found("", False, False)
    place = place_of(request.target, request.answer)
    if place is Place.WITHIN:
        return Found(text, True, text == collapse(request.target))
    if place in (Place.END, Place.START):
        return _find_at(place, request, text)
    named = True
    if place is Place.PHRASE:
        text, named = extract_phrase(text)
    if request.options:
        option = match_option(request, text)
        return Found(text, option is not None, option == request.answer_text)
    correct = any(_same(text, r) if place is Place.PHRASE else text == collapse(r)
                  for r in request.references)  # fmt: skip
    return Found(text if named or correct else "", bool(text) and (named or correct), correct)


def extracted_answer(request: Request, prediction: str) -> str:
    """The answer in `prediction` as text, empty where none is found."""
    return find_answer(request, prediction).text


def match_option(request: Request, text: str) -> str | None:
    """The text of the option that `text` names, or None.

    Tried in this order: what the prompt asks for (a marker or the option's text), the option's
    text, both one after the other, the bare letter or number of a marker.
    """
    labels = [collapse(label) for label in request.options]
    texts = [collapse(option) for option in request.option_texts]
    marked = [label != option for label, option in zip(labels, texts, strict=True)]
    ways = [
        labels,
        texts,
        [f"{label} {option}" for label, option in zip(labels, texts, strict=True)],
        [label.strip(_MARKER_MARKS) if m else "" for label, m in zip(labels, marked, strict=True)],
    ]
    for way in ways:
        if text and text in way:
            return request.option_texts[way.index(text)]
    return None


def _find_at(place: Place, request: Request, text: str) -> Found:
    """The answer at the end or the start of a solution that has no phrase to go by."""
    test = _ends_with if place is Place.END else _starts_with
    if not request.options:
        for reference in request.references:
            if test(text, collapse(reference)):
                return Found(reference, True, True)
        return Found(text, True, False)
    hits = [
        (len(name), option)
        for names in (request.options, request.option_texts)
        for name, option in zip(names, request.option_texts, strict=True)
        if test(text, collapse(name))
    ]
    if not hits:
        return Found("", False, False)
    # The longest: "not red" names more than the "red" at its end.
    _, option = max(hits)
    return Found(option, True, option == request.answer_text)


def _same(text: str, answer: str) -> bool:
    """Whether an extracted `text` is `answer`, which may end in a mark that extraction drops."""
    answer = collapse(answer)
    return text == answer or text == answer.rstrip(_END_MARKS).rstrip()


def _ends_with(text: str, answer: str) -> bool:
    text, answer = text.rstrip(_END_MARKS), answer.rstrip(_END_MARKS)
    return bool(answer) and (text == answer or text.endswith(" " + answer))


def _starts_with(text: str, answer: str) -> bool:
    if not answer or not text.startswith(answer):
        return False
    rest = text[len(answer) :]
    return not rest or not rest[0].isalnum()
