"""Linguistic judgments: the senses of words, and which sentences are English."""

from __future__ import annotations

from flan_jax.mixtures.flan2021.class_texts import class_text
from flan_jax.mixtures.flan2021.registry import register
from flan_jax.sources.base import Row

# In the order of the builders' labels.
SENSES = ("different meanings", "the same meaning")
JUDGMENTS = ("unacceptable", "acceptable")


def _wic(row: Row) -> Row:
    return {
        "word": row["word"].strip(),
        "sentence1": row["sentence1"].strip(),
        "sentence2": row["sentence2"].strip(),
        "answer": class_text(row, SENSES),
        "options": list(SENSES),
    }


def _cola(row: Row) -> Row:
    return {
        "sentence": row["sentence"].strip(),
        "answer": class_text(row, JUDGMENTS),
        "options": list(JUDGMENTS),
    }


register(
    "wic",
    to_fields=_wic,
    has_options=True,
    licence="CC-BY-NC-4.0",
    description="Words in Context: whether a word has the same meaning in two sentences",
)
register(
    "cola",
    to_fields=_cola,
    has_options=True,
    licence="not stated",
    description="CoLA: whether a sentence is acceptable English",
)
