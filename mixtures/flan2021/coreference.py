"""Coreference: who or what a pronoun, or a blank in its place, stands for.

The pronoun in question is marked in the text with asterisks, since a text may hold it twice.
"""

from __future__ import annotations

import re

from flan_jax.mixtures.flan2021.class_texts import class_text
from flan_jax.mixtures.flan2021.registry import register
from flan_jax.sources.base import Row

# SuperGLUE's text of one WSC row lacks this space.
_GLUED, _PARTED = "theyscold", "they scold"
_DETERMINERS = {"The", "A", "An", "His", "Her", "My", "Their", "Our", "Its"}
_WORD = re.compile(r"\S+")
_BLANK = "_"

Span = tuple[int, int]


def _occurrences(text: str, words: str) -> list[Span]:
    """Where `words` stand in `text`, as whole words in any case."""
    pattern = rf"(?<!\w){re.escape(words)}(?!\w)"
    return [found.span() for found in re.finditer(pattern, text, re.IGNORECASE)]


def _mark(text: str, span: Span) -> str:
    start, end = span
    return f"{text[:start]}*{text[start:end]}*{text[end:]}"


def _spaced(text: str) -> str:
    return " ".join(text.replace(_GLUED, _PARTED).split())


def _wsc_pronoun(row: Row) -> tuple[str, str, list[Span]]:
    """(text, pronoun, where it stands, nearest to where the row says first)."""
    text, pronoun = _spaced(row["text"]), row["span2_text"].strip()
    if pronoun == _GLUED:
        pronoun = _PARTED.split()[0]
    starts = [word.start() for word in _WORD.finditer(text)]
    index = row["span2_index"]
    near = starts[index] if index < len(starts) else len(text)
    spans = _occurrences(text, pronoun)
    return text, pronoun, sorted(spans, key=lambda span: abs(span[0] - near))


def _wsc(row: Row) -> Row:
    text, pronoun, spans = _wsc_pronoun(row)
    return {
        "text": _mark(text, spans[0]),
        "pronoun": pronoun,
        "candidate": _spaced(row["span1_text"]),
        "answer": class_text(row, ("no", "yes")),
        "options": ["no", "yes"],
    }


def _has_wsc_pronoun(row: Row) -> bool:
    return bool(_wsc_pronoun(row)[2])


def _wsc273(row: Row) -> Row:
    options = [row["option1_normalized"].strip(), row["option2_normalized"].strip()]
    return {
        "text": _mark(row["text"], (row["pronoun_start"], row["pronoun_end"])),
        "pronoun": row["pronoun_text"],
        "answer": class_text(row, options),
        "options": options,
    }


def _winogrande(row: Row) -> Row:
    before, after = _spaced(row["sentence"]).split(_BLANK, 1)
    options = [row["option1"].strip(), row["option2"].strip()]
    return {
        "before": before.strip(),
        "after": after,
        "sentence": before + _BLANK + after,
        "answer": class_text(row, options),
        "options": options,
    }


def _has_blank(row: Row) -> bool:
    return row["sentence"].count(_BLANK) == 1


def _definite_pronoun_resolution(row: Row) -> Row:
    text = _spaced(row["sentence"])
    options = [_in_mid_sentence(candidate.strip()) for candidate in row["candidates"]]
    return {
        "text": _mark(text, _pronoun_after(text, row["pronoun"].strip(), options)),
        "pronoun": row["pronoun"].strip(),
        "answer": class_text(row, options),
        "options": options,
    }


def _in_mid_sentence(name: str) -> str:
    """`name` as written inside a sentence, so that its case does not tell where it stood."""
    first, _, rest = name.partition(" ")
    return f"{first.lower()} {rest}" if rest and first in _DETERMINERS else name


def _pronoun_after(text: str, pronoun: str, candidates: list[str]) -> Span:
    """The first `pronoun` after both candidates were named, else the last one.

    The rows do not say which one is meant; in these sentences a clause that names both candidates
    comes before the clause with the pronoun.
    """
    named = [_occurrences(text, candidate)[:1] for candidate in candidates]
    begin = max((spans[0][1] for spans in named if spans), default=0)
    spans = _occurrences(text, pronoun)
    return next((span for span in spans if span[0] >= begin), spans[-1])


def _has_pronoun(row: Row) -> bool:
    return bool(_occurrences(_spaced(row["sentence"]), row["pronoun"].strip()))


register(
    "wsc",
    to_fields=_wsc,
    has_options=True,
    keep=_has_wsc_pronoun,
    licence="CC-BY-4.0",
    description="WSC of SuperGLUE: whether a pronoun refers to a given name",
)
register(
    "wsc273",
    to_fields=_wsc273,
    has_options=True,
    cluster="coreference",
    held_out=True,  # test rows only, and those of a benchmark
    licence="CC-BY-4.0",
    description="WSC273: which of two a pronoun refers to; for evaluation only",
)
register(
    "winogrande",
    to_fields=_winogrande,
    has_options=True,
    keep=_has_blank,
    licence="CC-BY",
    description="WinoGrande: which of two names fills the blank in a sentence",
)
register(
    "definite_pronoun_resolution",
    to_fields=_definite_pronoun_resolution,
    has_options=True,
    keep=_has_pronoun,
    licence="not stated",
    description="Definite pronoun resolution: which of two a pronoun refers to",
)
