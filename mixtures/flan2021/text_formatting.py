"""Muffin tasks that ask for a text as it was written: its capitals, punctuation or spaces.

All three are made of the English side of ParaCrawl's English-Danish pairs and read disjoint windows
of its rows, as in Flan. Names and splits are Flan's.
"""

from __future__ import annotations

import re
import unicodedata

from flan_jax.mixtures.flan2021.question_text import collapse
from flan_jax.mixtures.flan2021.registry import register
from flan_jax.sources.base import Row

# BLEU as sacrebleu has it counts case, and punctuation marks are tokens of their own.
METRICS = ("exact_match", "bleu")
# Signs of Unicode's punctuation categories that say something no reader could restore.
_SIGNS = frozenset("#%&*/@\\_‰†‡•§¶")
# Marks inside numbers: 1,000; 3.5; 12:30; 2004-05-01.
_IN_NUMBER = re.compile(r"(?<=\d)[.,:\-](?=\d)")


def without_punctuation(text: str) -> str:
    """`text` without its punctuation marks.

    Hyphens and dashes become blanks, other marks vanish. Marks inside numbers and signs such as
    "%" or "&" are kept: what they stood for could not be restored from the words.
    """
    kept = {match.start() for match in _IN_NUMBER.finditer(text)}
    letters = []
    for position, letter in enumerate(text):
        category = unicodedata.category(letter)
        if not category.startswith("P") or letter in _SIGNS or position in kept:
            letters.append(letter)
        elif category == "Pd":
            letters.append(" ")
    return collapse("".join(letters))


def has_capitals(row: Row) -> bool:
    """Whether lower case changes the text."""
    return row["en"].lower() != row["en"]


def true_case(row: Row) -> Row:
    """A text in lower case, and as it was written."""
    text = collapse(row["en"])
    return {"lower": text.lower(), "answer": text}


def has_punctuation(row: Row) -> bool:
    """Whether the text has words, and punctuation marks to be restored."""
    text = collapse(row["en"])
    bare = without_punctuation(text)
    return bool(bare) and bare != text


def fix_punct(row: Row) -> Row:
    """A text without its punctuation, and as it was written."""
    text = collapse(row["en"])
    return {"no_punct": without_punctuation(text), "answer": text}


def has_spaces(row: Row) -> bool:
    """Whether the text has more than one word."""
    return len(row["en"].split()) > 1


def word_segment(row: Row) -> Row:
    """A text without its spaces, and as it was written."""
    text = collapse(row["en"])
    return {"no_space": text.replace(" ", ""), "answer": text}


register(
    "true_case",
    to_fields=true_case,
    keep=has_capitals,
    metrics=METRICS,
    licence="CC0-1.0",
    description="True casing: capital letters restored",
)
register(
    "fix_punct",
    to_fields=fix_punct,
    keep=has_punctuation,
    metrics=METRICS,
    licence="CC0-1.0",
    description="Punctuation restored",
)
register(
    "word_segment",
    to_fields=word_segment,
    keep=has_spaces,
    metrics=METRICS,
    licence="CC0-1.0",
    description="Spaces between words restored",
)
