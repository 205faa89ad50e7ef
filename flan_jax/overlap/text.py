"""Texts as the overlap check compares them: words in lower case, without punctuation.

Brown et al. (2020, appendix C) compare 13-grams of lower-cased words and ignore punctuation. What
they leave open is settled here: Unicode's compatibility forms are made equal (NFKC), apostrophes
vanish (`don't` is `dont`), every other mark of punctuation, symbol or control character separates
words, and in scripts written without spaces each character is a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NGRAM = 13  # Brown et al. (2020), appendix C
# An item shorter than NGRAM counts as found where all its words stand in a row, if it has at least
# this many (the least n of Brown et al.); a shorter one only where it is a whole field of a row.
SHORTEST = 8
# Runs that more of a benchmark's texts have in common are its boilerplate.
COMMON = 10

_APOSTROPHES = {ord(mark): None for mark in "'’‘ʼ`´"}
# Thai, Lao, Myanmar, Khmer, Japanese syllables, Chinese characters; with the marks that belong to
# a character.
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002fa1f][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd"
    "\u102b-\u103e\u17b6-\u17d3\u3099\u309a]*"
)


class _Separators(dict[int, str | None]):
    """What each character becomes: letters, marks and digits stay, the rest is a space."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kept = unicodedata.category(character)[0] in "LMN"
        self[code] = character if kept else " "
        return self[code] or ""


_TABLE = _Separators(_APOSTROPHES)


def words(text: str) -> list[str]:
    """The words of `text` as they are compared."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold().translate(_TABLE)
    if not text.isascii():
        text = _SPACELESS.sub(r" \g<0> ", text)
    return text.split()


def texts_in(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(name of the field, text) of every text in nested lists and mappings."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from texts_in(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for inner in value:
            yield from texts_in(inner, name)
