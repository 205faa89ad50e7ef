"""Topics of news stories, and kinds of questions."""

from __future__ import annotations

import html
import re

from flan_jax.mixtures.flan2021.class_texts import class_text
from flan_jax.mixtures.flan2021.registry import register
from flan_jax.mixtures.flan2021.treebank import untokenize
from flan_jax.sources.base import Row

# TREC's coarse classes, in the order of the builder's labels.
QUESTION_TYPES = ["description", "entity", "abbreviation", "human", "numeric", "location"]
# AG's classes, in the order of the builder's labels; its last one is called Sci/Tech.
TOPICS = ["World", "Sports", "Business", "Science/Tech"]

# AG's text has lost the ampersands of its entities and has spaces in their place.
_SUFFIX = re.compile(r"\s*#0?39;(?=(?:s|t|d|m|re|ve|ll)?(?:\W|$))", re.IGNORECASE)
_CODE = re.compile(r"#(\d{2,5});")
_AMPERSAND = re.compile(r"\s*\bamp;(?=\S)|\bamp;")
_QUOTE = re.compile(r"(\s*)\bquot;(\s*)")
_TAG = re.compile(r"<[^<>]*>")


def _trec(row: Row) -> Row:
    return {
        "question": untokenize(row["text"]),
        "answer": class_text(row, QUESTION_TYPES, field="label-coarse"),
        "options": QUESTION_TYPES,
    }


def _ag_news_subset(row: Row) -> Row:
    return {
        "title": _mended(row["title"]),
        "text": _mended(row["description"]),
        "answer": class_text(row, TOPICS),
        "options": TOPICS,
    }


def _mended(text: str) -> str:
    """News text with AG's broken entities, tags, and backslashes (for line breaks) undone."""
    text = _TAG.sub("", html.unescape(text)).replace("\\", " ")
    text = _SUFFIX.sub("'", text)
    text = _CODE.sub(lambda code: chr(int(code[1])), text)
    text = _AMPERSAND.sub("&", text)
    quotes = 0

    def quote(found: re.Match[str]) -> str:
        nonlocal quotes
        quotes += 1
        return f'{found[1]}"' if quotes % 2 else f'"{found[2]}'

    return " ".join(_QUOTE.sub(quote, text).split())


def _has_story(row: Row) -> bool:
    return bool(row["title"].strip() and row["description"].strip())


register(
    "trec",
    to_fields=_trec,
    has_options=True,
    licence="not stated",
    description="TREC: what kind of thing a question asks for, of six kinds",
)
register(
    "ag_news_subset",
    to_fields=_ag_news_subset,
    has_options=True,
    keep=_has_story,
    licence="non-commercial use, as the AG corpus page states",
    description="AG News: the section that a news story belongs to, of four",
)
