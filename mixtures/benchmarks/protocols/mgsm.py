"""MGSM (Shi et al., 2022): 250 grade-school problems in ten languages, and in English beside them.

Exemplars are the published ones, in the language of the question. Their words for "Question:" and
"Step-by-step answer:" are taken from them, because the questions come without.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flan_jax.evaluation.answers import numbers
from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    Choice,
    ProtocolDefinition,
    register_protocol,
)
from flan_jax.mixtures.benchmarks.protocols.files import each, json_file, tsv_rows
from flan_jax.sources import folder
from flan_jax.sources.base import SourceError

LANGUAGES = ("bn", "de", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")
ENGLISH = "en"
_EXEMPLARS = "mgsm/exemplars.json"
_START = re.compile(r"(?P<word>[^:：]+[:：]\s*)(?P<text>.+)", re.DOTALL)
# The noun of each language's answer phrase, for prompts without reasoning.
_ANSWER = {
    "bn": "উত্তর: ",
    "de": "Antwort: ",
    "en": "Answer: ",
    "es": "Respuesta: ",
    "fr": "Réponse : ",
    "ja": "答え：",
    "ru": "Ответ: ",
    "sw": "Jibu: ",
    "te": "సమాధానం: ",
    "th": "คำตอบ: ",
    "zh": "答案：",
}


class Exemplars(NamedTuple):
    """The exemplars of a language, and the words they begin with.

    Attributes:
      question_word, answer_word: such as "Frage: "; with the white space after it, if any.
      questions, answers: without these words.
      finals: the numbers that the answers come to.
    """

    question_word: str
    answer_word: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    finals: tuple[str, ...]


def exemplars_of(language: str) -> Exemplars:
    """The exemplars of a language. Raises SourceError: the file is missing or malformed."""
    content, path = json_file(_EXEMPLARS), folder.locate(_EXEMPLARS)
    try:
        pairs = content["MGSM_EXEMPLARS"][language]
        found = [
            (_START.fullmatch(pair["q"]), _START.fullmatch(pair["a"]))
            for _, pair in sorted(pairs.items(), key=lambda entry: int(entry[0]))
        ]
        finals = tuple(str(number) for number in content["EXEMPLAR_NUMBER_ANSWERS"])
        words = {(q["word"], a["word"]) for q, a in found if q and a}
        ((question_word, answer_word),) = words
        questions = tuple(q["text"] for q, _ in found if q)
        answers = tuple(a["text"] for _, a in found if a)
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"{path}: MGSM_EXEMPLARS of {language!r} should be pairs of q and a that all begin "
            f"with the same word and a colon: {type(error).__name__}: {error}"
        ) from error
    if not len(questions) == len(answers) == len(finals):
        raise SourceError(f"{path}: {len(questions)} exemplars of {language!r}, {len(finals)} ends")
    return Exemplars(question_word, answer_word, questions, answers, finals)


def read(language: str, split: str) -> list[BenchmarkItem]:
    """The questions of a language. Raises SourceError: the file is missing or malformed."""
    del split  # there is one
    file = f"mgsm/mgsm_{language}.tsv"
    rows = tsv_rows(file, ("question", "answer"))
    return each(folder.locate(file), rows, functools.partial(_item, language))


def _item(language: str, index: int, row: Mapping[str, Any]) -> BenchmarkItem:
    if not numbers(row["answer"]):
        raise ValueError(f"the answer {row['answer']!r} is no number")
    return BenchmarkItem(
        index, row["question"].strip(), row["answer"].strip(), fields={"language": language}
    )


def ask_cot(item: BenchmarkItem) -> str:
    """The question, to be reasoned about."""
    words = exemplars_of(item.fields["language"])
    return f"{words.question_word}{item.question}\n{words.answer_word}".rstrip()


def ask_direct(item: BenchmarkItem) -> str:
    """The question, to be answered by a number."""
    language = item.fields["language"]
    return f"{exemplars_of(language).question_word}{item.question}\n{_ANSWER[language]}".rstrip()


def _cot(language: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    del item, seed  # the same eight for all
    words = exemplars_of(language)
    return [
        f"{words.question_word}{question}\n{words.answer_word}{answer}"
        for question, answer in zip(words.questions, words.answers, strict=True)
    ]


def _direct(language: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    del item, seed
    words = exemplars_of(language)
    return [
        f"{words.question_word}{question}\n{_ANSWER[language]}{final}"
        for question, final in zip(words.questions, words.finals, strict=True)
    ]


SHARED: dict[str, Any] = {
    "benchmark": "mgsm",
    "subtasks": LANGUAGES,
    "extra_subtasks": (ENGLISH,),
    "aliases": {f"mgsm_{language}": language for language in (*LANGUAGES, ENGLISH)},
    "licence": "CC-BY 4.0",
}
_CHOICES = (
    Choice("exemplars", "all 8 published ones of the language", "Flan paper, 2.3"),
    Choice("mean", "of 10 languages without English, each once", "Flan paper, 2.3"),
    Choice(
        "answer",
        "the last number after the last answer phrase (of any language), else of the output; "
        "digits of any script, separators of thousands left out, compared by value",
        "open: no paper says; ours",
    ),
    Choice("decoding", "greedy", "Flan paper, 2.3"),
)

register_protocol(
    ProtocolDefinition(
        name="mgsm_cot",
        exemplars=_cot,
        ask=ask_cot,
        metrics=("final_number",),
        max_decode_len=512,
        stop=("\n\n",),
        choices=(
            *_CHOICES,
            Choice("prompt", "the exemplars' words before question and answer", "MGSM's exemplars"),
        ),
        read=read,
        paper_benchmark="MGSM",
        paper_setting="8-shot CoT, 10 langs",
        description="MGSM, 8-shot with reasoning in the language of the question",
        **SHARED,
    )
)
register_protocol(
    ProtocolDefinition(
        name="mgsm_direct",
        exemplars=_direct,
        ask=ask_direct,
        metrics=("final_number",),
        max_decode_len=32,
        stop=("\n\n",),
        choices=(
            *_CHOICES,
            Choice(
                "prompt",
                "the exemplars' word before the question, the language's word for 'Answer' before "
                "the number",
                "open: direct prompts are unpublished",
            ),
        ),
        read=read,
        paper_benchmark="MGSM",
        paper_setting="direct",
        description="MGSM, 8-shot, the number alone",
        **SHARED,
    )
)
