"""Muffin tasks that ask for a translation. Names and splits are Flan's.

Each dataset pairs English with one other language. Which of the two is translated is drawn anew for
every example and epoch, so a model learns both directions from the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flan_jax.draws import Draws
from flan_jax.mixtures.flan2021.question_text import collapse
from flan_jax.mixtures.flan2021.registry import register
from flan_jax.sources.base import Row

METRICS = ("bleu",)
LANGUAGES = {
    "cs": "Czech",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "ro": "Romanian",
    "ru": "Russian",
    "tr": "Turkish",
}


def has_pair(code: str) -> Callable[[Row], bool]:
    """Whether a row has a text both in English and in the language `code`."""
    return lambda row: bool(row["en"].strip() and row[code].strip())


def into_english(code: str) -> Callable[[Row], Row]:
    """Fields of a pair of English and the language `code`, to be translated into English."""

    def to_fields(row: Row) -> Row:
        return {
            "lang1": LANGUAGES[code],
            "lang2": LANGUAGES["en"],
            "sent1": collapse(row[code]),
            "answer": collapse(row["en"]),
        }

    return to_fields


def either_direction(fields: Row, draws: Draws) -> Row:
    """`fields` as they are or, as likely, in the other direction."""
    if draws.chance(0.5):
        return fields
    return {
        **fields,
        "lang1": fields["lang2"],
        "lang2": fields["lang1"],
        "sent1": fields["answer"],
        "answer": fields["sent1"],
    }


def _register(
    name: str, code: str, description: str, *, licence: str = "not stated", **options: Any
) -> None:
    register(
        name,
        to_fields=into_english(code),
        draw_fields=either_direction,
        metrics=METRICS,
        languages=("en", code),
        licence=licence,
        description=description,
        **options,
    )


_register(
    "para_crawl_enes",
    "es",
    "ParaCrawl: English and Spanish web pages",
    templates="para_crawl",
    keep=has_pair("es"),
    licence="CC0-1.0",
)
# TFDS leaves out pairs of WMT with an empty side, so tens of millions of rows need no filter here.
_register("wmt14_enfr", "fr", "WMT 2014: English and French")
_MANUAL = {
    "cs": (
        "download czeng16pre.deduped-ignoring-sections.txt.gz from "
        "http://ufal.mff.cuni.cz/czeng/czeng16pre (registration required) and put it into TFDS's "
        "folder for manual downloads"
    ),
    "ru": (
        "download 1mcorpus.zip from https://translate.yandex.ru/corpus?lang=en and put it into "
        "TFDS's folder for manual downloads"
    ),
}
for _code in ("de", "tr", "cs", "fi", "ro", "ru"):
    _register(
        f"wmt16_translate_{_code}en",
        _code,
        f"WMT 2016: English and {LANGUAGES[_code]}",
        templates="wmt16_translate",
        manual=_MANUAL.get(_code, ""),
    )
