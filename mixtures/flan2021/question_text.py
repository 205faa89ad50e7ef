"""Clean-up of questions, titles and answer lists that the question-answering tasks share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

_SPACES = re.compile(r"\s+")
_BEFORE_PUNCTUATION = re.compile(r"\s+([.,;:?!])")


def collapse(text: str) -> str:
    """`text` on one line, with single spaces."""
    return _SPACES.sub(" ", text).strip()


def as_question(text: str) -> str:
    """A search query as a question: it begins with a capital and ends in a question mark."""
    text = collapse(text).rstrip("?").rstrip()
    return f"{text[:1].upper()}{text[1:]}?"


def untokenized(text: str) -> str:
    """`text` on one line, without the spaces that a tokenizer put before punctuation."""
    return _BEFORE_PUNCTUATION.sub(r"\1", collapse(text))


def plain_title(title: str) -> str:
    """A Wikipedia page's name as people write it: ``Beyonc%C3%A9`` and ``New_York`` decoded."""
    return collapse(unquote(title).replace("_", " "))


def unique(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts in their order, on one line each, without empty and repeated ones."""
    return tuple(dict.fromkeys(filter(None, map(collapse, texts))))


def is_clear(options: Sequence[str], position: int) -> bool:
    """Whether `position` is one of the options, all are texts, and no other says the same."""
    return 0 <= position < len(options) and all(options) and options.count(options[position]) == 1
