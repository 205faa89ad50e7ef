"""MMLU (Hendrycks et al., 2021): 57 subjects, four options each.

Prompts have the layout of the chain-of-thought prompts that the Flan paper's authors published.
Their direct prompts are not public; the authors' advice is to leave out the reasoning.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    Choice,
    ProtocolDefinition,
    register_protocol,
)
from flan_jax.mixtures.benchmarks.protocols.files import csv_rows, each, json_file, json_lines
from flan_jax.mixtures.benchmarks.protocols.question_answer import TRIGGER
from flan_jax.mixtures.benchmarks.protocols.subjects import GROUPS, SUBJECTS
from flan_jax.sources import folder
from flan_jax.sources.base import SourceError

LETTERS = "ABCD"
LABELS = ("(A)", "(B)", "(C)", "(D)")
_COLUMNS = ("question", "choice0", "choice1", "choice2", "choice3", "answer")
_VALIDATION = "mmlu/val/zero_shot_mmlu_val.jsonl"
_COT = "mmlu/mmlu-cot.json"
_MARKS = ("\nA. ", "\nB. ", "\nC. ", "\nD. ", "\nAnswer:")


def read(subject: str, split: str) -> list[BenchmarkItem]:
    """The questions of a subject. Raises SourceError: a file is missing or malformed."""
    if split == "validation":
        rows, path = json_lines(_VALIDATION), folder.locate(_VALIDATION)
        places = [place for place, row in enumerate(rows) if row.get("subject") == subject]
        if not places:
            raise SourceError(f"{path} has no row with subject {subject!r}")
        return each(path, [rows[place] for place in places], _from_prompt, places)
    file = f"mmlu/{split}/{subject}_{split}.csv"
    return each(folder.locate(file), csv_rows(file, _COLUMNS), _from_table)


def _from_table(index: int, row: Any) -> BenchmarkItem:
    texts = [row[f"choice{number}"] for number in range(4)]
    if any(text is None for text in texts) or row["answer"] not in ("0", "1", "2", "3"):
        raise ValueError("expected four choices and an answer from 0 to 3")
    return _item(index, row["question"], texts, int(row["answer"]))


def _from_prompt(index: int, row: Any) -> BenchmarkItem:
    """An item from a whole prompt: a heading, the question, four options, "Answer:"."""
    _, blank, text = row["input"].partition("\n\n")
    parts: list[str] = []
    for mark in reversed(_MARKS):
        text, found, part = text.rpartition(mark)
        if not blank or not found:
            raise ValueError(f"the prompt has no {mark.strip()!r}")
        parts.insert(0, part)
    return _item(index, text, parts[:4], LETTERS.index(row["output"]))


def _item(index: int, question: str, texts: Sequence[str], answer: int) -> BenchmarkItem:
    return BenchmarkItem(
        index, question.strip(), LABELS[answer], options=LABELS, option_texts=tuple(texts)
    )


def heading(subject: str) -> str:
    """The topic sentence above a subject's prompts."""
    topic = subject.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {topic}."


def ask(item: BenchmarkItem, ending: str = "") -> str:
    """Question and options, to be answered at once or after `ending`."""
    options = " ".join(
        f"{label} {text}" for label, text in zip(LABELS, item.option_texts, strict=True)
    )
    return f"Q: {item.question}\n{options}\nA:{ending}"


def _direct_exemplars(subject: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    del item, seed  # the same five for all
    return [f"{ask(exemplar)} {exemplar.answer}" for exemplar in read(subject, "dev")]


def cot_prompt(subject: str) -> tuple[str, tuple[str, ...]]:
    """(topic sentence, exemplars) of a subject as published, to the byte.

    That includes what broke in their making: LaTeX commands that lost their backslash to a control
    character, and an exemplar with five options. Three subjects have four exemplars.
    """
    path = folder.locate(_COT)
    try:
        header, *exemplars = json_file(_COT)[subject].strip().split("\n\n")
    except (KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{path} has no prompt of the subject {subject!r}") from error
    wrong = [e for e in exemplars if not e.startswith("Q: ") or f"\nA: {TRIGGER}" not in e]
    if wrong or not exemplars:
        raise SourceError(f"{path}: {subject}: expected `Q: … A: {TRIGGER} …`, found {wrong[:1]}")
    return header, tuple(exemplars)


def _cot_exemplars(subject: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    del item, seed
    return cot_prompt(subject)[1]


MEAN = Choice("mean", "of 57 subjects, each once", "Flan paper, 2.3")
_SHARED: dict[str, Any] = {
    "benchmark": "mmlu",
    "subtasks": SUBJECTS,
    "groups": GROUPS,
    "read": read,
    "metrics": ("option_match",),
    "split": "validation",
    "splits": ("validation", "test"),
    "chance": dict.fromkeys(SUBJECTS, 25.0),
    "licence": "MIT",
}
_CHOICES = (
    Choice("split", "validation; test in Tables 1 and 4 only", "Flan paper, 2.3"),
    MEAN,
    Choice("scoring", "text is generated, its letter compared", "Flan paper, D: exact match"),
    Choice(
        "answer",
        "the option after the last 'answer is', else the whole output; brackets and a full stop "
        "do not count; an option's text counts as its letter",
        "FLAN repository, v2; the text: ours",
    ),
    Choice("decoding", "greedy", "Flan paper, 2.3"),
)
_LAYOUT = Choice(
    "prompt",
    "topic sentence; `Q:`, the options (A) to (D) in one line, `A: (X)`",
    "open: direct prompts are unpublished; as its authors advise, that of CoT without reasoning",
)

register_protocol(
    ProtocolDefinition(
        name="mmlu_direct",
        header=heading,
        exemplars=_direct_exemplars,
        ask=ask,
        max_decode_len=32,
        stop=("\n\nQ:",),
        choices=(*_CHOICES, _LAYOUT, Choice("exemplars", "all 5 of dev", "Flan paper, D")),
        paper_benchmark="MMLU",
        paper_setting="5-shot direct, val",
        description="MMLU, 5-shot",
        **_SHARED,
    )
)
register_protocol(
    ProtocolDefinition(
        name="mmlu_zero_shot",
        header=heading,
        ask=ask,
        max_decode_len=32,
        stop=("\n\nQ:",),
        choices=(*_CHOICES, _LAYOUT, Choice("exemplars", "none", "ours: not in the paper")),
        description="MMLU without exemplars",
        **_SHARED,
    )
)
register_protocol(
    ProtocolDefinition(
        name="mmlu_cot",
        header=lambda subject: cot_prompt(subject)[0],
        exemplars=_cot_exemplars,
        ask=functools.partial(ask, ending=f" {TRIGGER}"),
        max_decode_len=512,
        stop=("\n\nQ:",),
        choices=(
            *_CHOICES,
            Choice("prompt", "the authors' own, to the byte", "jasonwei20/flan-2, mmlu-cot.json"),
            Choice(
                "exemplars",
                "5 with reasoning; 4 in college_chemistry, formal_logic, human_aging",
                "jasonwei20/flan-2, mmlu-cot.json",
            ),
        ),
        paper_benchmark="MMLU",
        paper_setting="5-shot CoT, val",
        description="MMLU, 5-shot with reasoning",
        **_SHARED,
    )
)
