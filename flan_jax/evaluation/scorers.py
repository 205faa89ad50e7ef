"""Metrics by name: what each item contributes, and how contributions make a score.

A metric is a row of statistics per item and a function from their sums to scores. So a mean over
items and a corpus metric such as BLEU are resampled by the same bootstrap. Scores lie in [0, 1].
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np

from flan_jax.errors import UserError
from flan_jax.evaluation.answers import find_number, find_option, find_phrase
from flan_jax.evaluation.extraction import Found, collapse, extract_phrase, find_answer
from flan_jax.evaluation.requests import Request
from flan_jax.suggestions import did_you_mean


@dataclass(frozen=True)
class Judgement:
    """One item under one metric.

    Attributes:
      statistics: the item's contribution, of the metric's width.
      parsed: whether an answer was found in the output.
    """

    statistics: tuple[float, ...]
    parsed: bool


def _mean(sums: np.ndarray, count: int) -> np.ndarray:
    return sums[..., 0] / count


@dataclass(frozen=True)
class Scorer:
    """A metric.

    Attributes:
      name: as tasks name it in `metrics`.
      judge: the contribution of an item.
      finish: scores [...] from sums of statistics [..., width] over `count` items.
      binary: items are right or wrong, and the score is the share of right ones.
      per_item: the first statistic is the item's own score.
      find: the answer in an output, for result files and for voting among several outputs.
    """

    name: str
    judge: Callable[[Request, str], Judgement]
    finish: Callable[[np.ndarray, int], np.ndarray] = _mean
    binary: bool = False
    per_item: bool = True
    find: Callable[[Request, str], Found] = find_answer


_SCORERS: dict[str, Scorer] = {}


def register_scorer(scorer: Scorer) -> Scorer:
    """Adds a metric. Raises UserError if its name is taken by another."""
    if _SCORERS.get(scorer.name, scorer) != scorer:
        raise UserError(f"metric {scorer.name!r} is registered already")
    _SCORERS[scorer.name] = scorer
    return scorer


def get_scorer(name: str) -> Scorer:
    """The metric called `name`. Raises UserError with a suggestion."""
    if name not in _SCORERS:
        known = ", ".join(sorted(_SCORERS))
        raise UserError(f"no metric is called {name!r} ({known}){did_you_mean(name, _SCORERS)}")
    return _SCORERS[name]


def all_scorers() -> tuple[Scorer, ...]:
    """All metrics, by name."""
    return tuple(_SCORERS[name] for name in sorted(_SCORERS))


def _exact_match(request: Request, prediction: str) -> Judgement:
    found = find_answer(request, prediction)
    return Judgement((float(found.correct),), found.parsed)


def judged_by(find: Callable[[Request, str], Found]) -> dict[str, Any]:
    """The attributes of a metric that counts what `find` calls correct."""

    def judge(request: Request, prediction: str) -> Judgement:
        found = find(request, prediction)
        return Judgement((float(found.correct),), found.parsed)

    return {"judge": judge, "find": find, "binary": True}


# ---------------------------------------------------------------------------------------- numbers

_NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?|[-−]?\.\d+")


def last_number(text: str) -> Decimal | None:
    """The last number in `text`, thousands separated by commas or not."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    try:
        return Decimal(found[-1].replace(",", "").replace("−", "-"))
    except InvalidOperation:
        return None


def _number(request: Request, prediction: str) -> Judgement:
    value = last_number(extract_phrase(prediction)[0])
    gold = [last_number(reference) for reference in request.references]
    return Judgement((float(value is not None and value in gold),), value is not None)


# ------------------------------------------------------------------------------------------ SQuAD

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_squad(text: str) -> str:
    """Lower case without ASCII punctuation and English articles (Rajpurkar et al., 2016)."""
    return collapse(_ARTICLES.sub(" ", text.lower().translate(_DROP_PUNCTUATION)))


def token_f1(prediction: str, reference: str) -> float:
    """F1 of the words that normalised `prediction` and `reference` share, counted with repeats."""
    left, right = normalize_squad(prediction).split(), normalize_squad(reference).split()
    if not left or not right:
        return float(left == right)
    shared = sum((Counter(left) & Counter(right)).values())
    return 2 * shared / (len(left) + len(right))


def _answer_text(request: Request, prediction: str) -> tuple[str, bool]:
    """(the answer in the output, whether there is one) for metrics of text."""
    found = find_answer(request, prediction)
    return (found.text or collapse(prediction)), found.parsed


def _best_of(
    measure: Callable[[str, str], float],
) -> Callable[[Request, str], Judgement]:
    """Judges an output by the reference that suits it best."""

    def judge(request: Request, prediction: str) -> Judgement:
        text, parsed = _answer_text(request, prediction)
        return Judgement((max(measure(text, r) for r in request.references),), parsed)

    return judge


def _squad_exact(prediction: str, reference: str) -> float:
    return float(normalize_squad(prediction) == normalize_squad(reference))


def _find_squad(request: Request, prediction: str) -> Found:
    text, parsed = _answer_text(request, prediction)
    return Found(text, parsed, any(_squad_exact(text, r) for r in request.references))


# ------------------------------------------------------------------------------------------ ROUGE


def _import_extra(name: str, package: str) -> Any:
    try:
        return __import__(name, fromlist=["_"])
    except ModuleNotFoundError as error:
        raise UserError(
            f"this metric needs the package {package!r}, which is not installed: "
            f"pip install {package}"
        ) from error


@functools.cache
def _rouge_scorer(kind: str) -> Any:
    module = _import_extra("rouge_score.rouge_scorer", "rouge-score")
    return module.RougeScorer([kind], use_stemmer=True)


def _rouge(kind: str) -> Callable[[str, str], float]:
    def measure(prediction: str, reference: str) -> float:
        return _rouge_scorer(kind).score(reference, prediction)[kind].fmeasure

    return measure


# ------------------------------------------------------------------------------------------- BLEU

_ORDERS = 4


@functools.cache
def _sacrebleu() -> Any:
    # effective_order touches only sentence scores, which are not used; without it they warn.
    return _import_extra("sacrebleu.metrics", "sacrebleu").BLEU(effective_order=True)


def _bleu(request: Request, prediction: str) -> Judgement:
    text, parsed = _answer_text(request, prediction)
    score = _sacrebleu().sentence_score(text, list(request.references))
    return Judgement((*score.counts, *score.totals, score.sys_len, score.ref_len), parsed)


def corpus_bleu(sums: np.ndarray, count: int) -> np.ndarray:
    """BLEU in [0, 1] from sums [..., 10] of matches, n-grams, output and reference length.

    Exponential smoothing, as sacrebleu's default: the k-th order without a match counts as
    1 / 2^k matches.
    """
    del count
    matches, totals = sums[..., :_ORDERS], sums[..., _ORDERS : 2 * _ORDERS]
    output, reference = sums[..., -2], sums[..., -1]
    missing = (matches == 0) & (totals > 0)
    smoothed = np.where(missing, 0.5 ** np.cumsum(missing, axis=-1), matches)
    defined = (totals > 0).all(axis=-1) & (matches > 0).any(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_log = np.log(smoothed / totals).mean(axis=-1)
        brevity = np.where(output < reference, np.exp(1 - reference / output), 1.0)
        return np.where(defined, brevity * np.exp(mean_log), 0.0)


def _register(names: Sequence[str], **attributes: Any) -> None:
    for name in names:
        register_scorer(Scorer(name, **attributes))


_register(["exact_match"], judge=_exact_match, binary=True)
_register(["phrase_match"], **judged_by(find_phrase))
_register(["option_match"], **judged_by(find_option))
_register(["final_number"], **judged_by(find_number))
_register(["number"], judge=_number, binary=True)
_register(["squad_em"], judge=_best_of(_squad_exact), binary=True, find=_find_squad)
_register(["squad", "squad_f1"], judge=_best_of(token_f1))
_register(["rouge1"], judge=_best_of(_rouge("rouge1")))
_register(["rouge2"], judge=_best_of(_rouge("rouge2")))
_register(["rouge", "rougeL"], judge=_best_of(_rouge("rougeL")))
_register(["bleu"], judge=_bleu, finish=corpus_bleu, per_item=False)
