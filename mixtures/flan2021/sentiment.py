"""Sentiment of reviews and posts: positive or negative."""

from __future__ import annotations

import html
import re

from flan_jax.mixtures.flan2021.class_texts import class_text
from flan_jax.mixtures.flan2021.registry import register
from flan_jax.mixtures.flan2021.treebank import untokenize
from flan_jax.sources.base import Row

SENTIMENTS = ["negative", "positive"]
# Sentiment140 scores from 0 to 4; 2, neutral, is found among its test rows only.
_SCORES = {0: "negative", 4: "positive"}
_HTML_BREAKS = re.compile(r"(?:\s*<br\s*/?>)+\s*", re.IGNORECASE)
_YELP_QUOTES = re.compile(r'\\?""|\\"')
_BREAKS = re.compile(r"\s*\n\s*")


def _sst2(row: Row) -> Row:
    return {
        "sentence": untokenize(row["sentence"]),
        "answer": class_text(row, SENTIMENTS),
        "options": SENTIMENTS,
    }


def _imdb_reviews(row: Row) -> Row:
    return _review(row, _HTML_BREAKS.sub("\n", row["text"]))


def _yelp_polarity_reviews(row: Row) -> Row:
    # The builder takes lines of a CSV file as they are, escapes and doubled quotes included.
    text = _YELP_QUOTES.sub('"', row["text"]).replace("\\r", "").replace("\\n", "\n")
    return _review(row, _BREAKS.sub("\n", text))


def _review(row: Row, text: str) -> Row:
    return {
        "text": text.strip(),
        "answer": class_text(row, SENTIMENTS),
        "options": SENTIMENTS,
    }


def _sentiment140(row: Row) -> Row:
    return {
        "text": " ".join(html.unescape(row["text"]).split()),
        "answer": _SCORES[row["polarity"]],
        "options": SENTIMENTS,
    }


def _has_text(row: Row) -> bool:
    return bool(row["text"].strip())


def _has_sentiment(row: Row) -> bool:
    return row["polarity"] in _SCORES and _has_text(row)


register(
    "sst2",
    to_fields=_sst2,
    has_options=True,
    licence="not stated",
    description="SST-2: sentences and phrases from movie reviews, positive or negative",
)
register(
    "imdb_reviews",
    to_fields=_imdb_reviews,
    has_options=True,
    licence="not stated",
    description="IMDB: whole movie reviews, positive or negative",
)
register(
    "yelp_polarity_reviews",
    to_fields=_yelp_polarity_reviews,
    has_options=True,
    keep=_has_text,
    licence="Yelp dataset terms of use",
    description="Yelp polarity: reviews of businesses, positive or negative",
)
register(
    "sentiment140",
    to_fields=_sentiment140,
    has_options=True,
    keep=_has_sentiment,
    licence="not stated",
    description="Sentiment140: tweets, positive or negative; neutral test rows are left out",
)
