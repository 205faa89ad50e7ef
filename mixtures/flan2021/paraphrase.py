"""Paraphrase: whether, or how nearly, two texts say the same."""

from __future__ import annotations

import re

from flan_jax.mixtures.flan2021.class_texts import class_text
from flan_jax.mixtures.flan2021.registry import register
from flan_jax.mixtures.flan2021.treebank import untokenize
from flan_jax.prompts.options import MarkerKind, OptionStyles
from flan_jax.sources.base import Row, SourceError

# In the order of the builders' labels: what is no paraphrase (or duplicate) comes first.
SAME = ("no", "yes")
# STS-B's scale of similarity, whole numbers only.
SCORES = ("0", "1", "2", "3", "4", "5")
# Markers that count would stand beside the scores as a second, different number, and dashes would
# read as minus signs.
SCORE_STYLES = OptionStyles(
    kinds=tuple(MarkerKind(bullet) for bullet in ("*", "**", "*)", "(*)", "[*]"))
)
# MRPC's quotation marks have spaces on both sides, whether they open or close.
_SPACED_QUOTES = re.compile(r'" ([^"]+?) "')


def _paws_wiki(row: Row) -> Row:
    return {
        "sentence1": untokenize(row["sentence1"]),
        "sentence2": untokenize(row["sentence2"]),
        "answer": class_text(row, SAME),
        "options": list(SAME),
    }


def _glue_mrpc(row: Row) -> Row:
    return {
        "sentence1": _printed(row["sentence1"]),
        "sentence2": _printed(row["sentence2"]),
        "answer": class_text(row, SAME),
        "options": list(SAME),
    }


def _printed(text: str) -> str:
    """MRPC's tokens as text; quotation marks that come in pairs close up to what they quote."""
    if text.count('"') % 2 == 0:
        text = _SPACED_QUOTES.sub(r'"\1"', text)
    return untokenize(text)


def _glue_qqp(row: Row) -> Row:
    return {
        "question1": row["question1"].strip(),
        "question2": row["question2"].strip(),
        "answer": class_text(row, SAME),
        "options": list(SAME),
    }


def _has_both_questions(row: Row) -> bool:
    """Whether neither question is empty, as a few of Quora's are."""
    return bool(row["question1"].strip() and row["question2"].strip())


def _stsb(row: Row) -> Row:
    """The score is rounded to a whole number, as in Flan 2022; halves go to the even one."""
    if not 0 <= row["label"] <= 5:
        raise SourceError(
            f"similarity {row['label']!r} is not between 0 and 5: the row has no score; read a "
            "split whose scores are public"
        )
    return {
        "sentence1": row["sentence1"].strip(),
        "sentence2": row["sentence2"].strip(),
        "answer": SCORES[round(row["label"])],
        "options": list(SCORES),
    }


register(
    "paws_wiki",
    to_fields=_paws_wiki,
    has_options=True,
    licence="free for any purpose",
    description="PAWS-Wiki: whether two sentences of nearly the same words mean the same",
)
register(
    "glue_mrpc",
    to_fields=_glue_mrpc,
    has_options=True,
    licence="not stated",
    description="MRPC: whether two sentences from news stories say the same",
)
register(
    "glue_qqp",
    to_fields=_glue_qqp,
    has_options=True,
    keep=_has_both_questions,
    licence="Quora's terms of service, non-commercial",
    description="Quora Question Pairs: whether two questions ask the same",
)
register(
    "stsb",
    to_fields=_stsb,
    has_options=True,
    option_styles=SCORE_STYLES,
    licence="by source, as the benchmark's page lists them",
    description="STS-B: how similar two sentences are in meaning, from 0 to 5",
)
