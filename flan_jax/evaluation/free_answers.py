"""Scorers of answers in free words: any text at all, and a name with or without an article."""

from __future__ import annotations

from flan_jax.evaluation.extraction import Found, collapse, extract_phrase
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.scorers import Scorer, judged_by, register_scorer

# What stands for the right answer where every text will do and people judge it.
ANY_TEXT = "(any text)"
_ARTICLES = ("the", "a", "an")


def find_any(request: Request, prediction: str) -> Found:
    """Whether there is an answer at all; how good it is, is not for a program to say."""
    del request
    text = collapse(prediction)
    return Found(text, bool(text), bool(text))


def without_article(text: str) -> str:
    """`text` in lower case, without a leading English article and a final full stop."""
    words = collapse(text).rstrip(".").casefold().split()
    return " ".join(words[1:] if words[:1] and words[0] in _ARTICLES else words)


def find_name(request: Request, prediction: str) -> Found:
    """The name in an output: all of it, or what follows "answer is"; articles and case are ignored.

    Exact: a longer phrase that holds the name is wrong. It is parsed if it is one of the options,
    or if there are none.
    """
    text = without_article(extract_phrase(prediction)[0])
    known = [without_article(option) for option in request.options]
    right = text in (without_article(reference) for reference in request.references)
    return Found(text, bool(text) and (not known or text in known), right)


register_scorer(Scorer("answered", **judged_by(find_any)))
register_scorer(Scorer("name", **judged_by(find_name)))
