"""Commonsense: causes and effects, what happens next, and how things are done."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flan_jax.mixtures.flan2021.class_texts import class_text
from flan_jax.mixtures.flan2021.registry import register
from flan_jax.sources.base import Row

# Marks that HellaSwag's texts from wikiHow were left with, sometimes spaced out.
_WIKIHOW_MARK = re.compile(r"\[\s*(?:header|title|step|substeps)\s*\]")
_SENTENCE_ENDS = (".", "!", "?", ":", ";", ",", '"', "'", ")")


def _copa(row: Row) -> Row:
    options = [row["choice1"].strip(), row["choice2"].strip()]
    return {
        "premise": row["premise"].strip(),
        "question": row["question"],
        "answer": class_text(row, options),
        "options": options,
    }


def _hellaswag(row: Row) -> Row:
    options = [_without_marks(ending) for ending in row["endings"]]
    return {
        "context": _without_marks(row["context"]),
        "activity": row["activity_label"].strip(),
        "answer": class_text(row, options),
        "options": options,
    }


def _without_marks(text: str) -> str:
    """Text whose wikiHow marks are gone; a part that a mark ended ends as a sentence does."""
    parts = [" ".join(part.split()) for part in _WIKIHOW_MARK.split(text)]
    parts = [part for part in parts if part]
    ended = [part if part.endswith(_SENTENCE_ENDS) else f"{part}." for part in parts[:-1]]
    return " ".join([*ended, *parts[-1:]])


def _hellaswag_is_whole(row: Row) -> bool:
    endings = [_without_marks(ending) for ending in row["endings"]]
    return bool(_without_marks(row["context"])) and _has_one_answer(endings, row["label"])


def _has_one_answer(options: Sequence[str], label: int) -> bool:
    """Whether `label` points to one of the options, none is empty, and no other says the same."""
    return 0 <= label < len(options) and all(options) and options.count(options[label]) == 1


def _story_cloze(row: Row) -> Row:
    options = [ending.strip() for ending in row["endings"]]
    return {
        "context": " ".join(row["context"].split()),
        "answer": class_text(row, options, first=1),
        "options": options,
    }


def _has_ending(row: Row) -> bool:
    return row["label"] in (1, 2)


def _piqa(row: Row) -> Row:
    options = _solutions(row)
    return {
        "goal": " ".join(row["goal"].split()),
        "answer": class_text(row, options),
        "options": options,
    }


def _solutions(row: Row) -> list[str]:
    return [" ".join(row[name].split()) for name in ("sol1", "sol2")]


def _piqa_is_whole(row: Row) -> bool:
    return bool(row["goal"].strip()) and _has_one_answer(_solutions(row), row["label"])


register(
    "copa",
    to_fields=_copa,
    has_options=True,
    licence="BSD-2-Clause",
    description="COPA: the more plausible cause or effect of an event, of two",
)
register(
    "hellaswag",
    to_fields=_hellaswag,
    has_options=True,
    keep=_hellaswag_is_whole,
    licence="MIT",
    description="HellaSwag: how a description of an everyday activity goes on, of four ways",
)
register(
    "story_cloze",
    to_fields=_story_cloze,
    has_options=True,
    keep=_has_ending,
    licence="not stated",
    description="Story Cloze: the right ending of a story of four sentences, of two",
)
register(
    "piqa",
    to_fields=_piqa,
    has_options=True,
    keep=_piqa_is_whole,
    licence="AFL-3.0",
    description="PIQA: the sensible way to reach a physical goal, of two",
)
