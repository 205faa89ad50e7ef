"""TyDiQA, gold passages (Clark et al., 2020): 8 languages without English, one exemplar.

Asked as in the PaLM paper (6.7), which the Flan paper follows: passage, question and answer on
lines of their own, `Q:` and `A:` in every language.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    Choice,
    ProtocolDefinition,
    register_protocol,
)
from flan_jax.mixtures.benchmarks.protocols.files import by_file, each
from flan_jax.sources import folder
from flan_jax.sources.base import SourceError, SourceMissingError

LANGUAGES = {
    "ar": "arabic",
    "bn": "bengali",
    "fi": "finnish",
    "id": "indonesian",
    "ko": "korean",
    "ru": "russian",
    "sw": "swahili",
    "te": "telugu",
}


def _file(split: str, language: str) -> str:
    """The file of a language, by the names of the public splits by language."""
    name = LANGUAGES[language]
    files = sorted(folder.data_folder().glob(f"tydiqa/{split}/*{name}*.json"))
    if not files:
        raise SourceMissingError(
            f"no file tydiqa/{split}/*{name}*.json in the data folder {folder.data_folder()}: put "
            "there the gold passages (TyDiQA's secondary task, SQuAD's layout) of that language, "
            "from github.com/google-research-datasets/tydiqa; `flan-jax data status` shows what "
            "is there"
        )
    return str(files[0].relative_to(folder.data_folder()))


@by_file
def _questions(path: Path) -> list[BenchmarkItem]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            (paragraph["context"], question)
            for article in content["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"{path} is not in SQuAD's layout: {type(error).__name__}: {error}"
        ) from error
    return each(path, rows, _item)


def _item(index: int, row: Any) -> BenchmarkItem:
    context, question = row
    answers = tuple(dict.fromkeys(answer["text"].strip() for answer in question["answers"]))
    if not answers or not all(answers):
        raise ValueError(f"question {question['id']} has no answer")
    return BenchmarkItem(
        index,
        question["question"].strip(),
        answers[0],
        answers,
        fields={"context": context.strip(), "id": question["id"]},
    )


@by_file
def _exemplar(path: Path) -> BenchmarkItem:
    """The first question whose passage has no other question and at most the median length."""
    items = _questions(path)
    passages = Counter(item.fields["context"] for item in items)
    longest = statistics.median(len(item.fields["context"]) for item in items)
    fit = [item for item in items if len(item.fields["context"]) <= longest]
    alone = [item for item in fit if passages[item.fields["context"]] == 1]
    return (alone or fit)[0]


def has_train(language: str) -> bool:
    """Whether the language's training file is in the data folder."""
    try:
        _file("train", language)
    except SourceMissingError:
        return False
    return True


def read(language: str, split: str) -> list[BenchmarkItem]:
    """The questions that are scored; without the exemplar if that is one of them.

    Raises:
      SourceError: the file is missing or malformed.
    """
    del split  # there is one
    items = _questions(_file("dev", language))
    exemplar = None if has_train(language) else _exemplar(_file("dev", language)).index
    return [item for item in items if item.index != exemplar]


def ask(item: BenchmarkItem) -> str:
    """Passage and question."""
    return f"{item.fields['context']}\nQ: {item.question}\nA:"


def _exemplars(language: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    del item, seed
    exemplar = _exemplar(_file("train" if has_train(language) else "dev", language))
    return (f"{ask(exemplar)} {exemplar.answer}",)


def _notes(language: str, split: str) -> Sequence[str]:
    del split
    if has_train(language):
        return ()
    exemplar = _exemplar(_file("dev", language))
    return (
        f"{language}: there is no training file, so question {exemplar.index} of dev "
        f"({exemplar.fields['id']}) is the exemplar and is not scored",
    )


register_protocol(
    ProtocolDefinition(
        name="tydiqa",
        benchmark="tydiqa",
        subtasks=tuple(LANGUAGES),
        aliases={name: code for code, name in LANGUAGES.items()},
        read=read,
        exemplars=_exemplars,
        ask=ask,
        separator="\n",
        metrics=("squad_em", "squad_f1", "exact_match"),
        split="validation",
        splits=("validation",),
        max_decode_len=64,
        stop=("\n",),
        choices=(
            Choice("split", "dev", "Flan paper, Table 20: languages of dev"),
            Choice("mean", "of 8 languages without English, each once", "Flan paper, 2.3"),
            Choice("prompt", "passage, `Q:`, `A:`, all by line breaks", "PaLM paper, 6.7"),
            Choice(
                "exemplars",
                "one: of the language's train file the first question whose passage has no other "
                "question and at most the median length; without such a file one of dev by the "
                "same rule, which then is not scored",
                "open: the Flan paper names no item",
            ),
            Choice(
                "answer",
                "the whole output; exact match with SQuAD's normalisation; exact_match beside it "
                "normalises nothing but white space; any of several references counts",
                "Flan paper, 2.3: exact match; the normalisation is open",
            ),
            Choice("decoding", "greedy", "PaLM paper, 6.7"),
        ),
        notes=_notes,
        paper_benchmark="TyDiQA",
        paper_setting="1-shot direct, EM, 8 langs",
        licence="Apache-2.0",
        description="TyDiQA with gold passages, 1-shot",
    )
)
