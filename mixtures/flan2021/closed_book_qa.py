r"""Muffin tasks that ask for knowledge or a calculation, without a passage to read.

Natural Questions, TriviaQA, ARC, OpenBookQA, middle-school science and linear equations. Names
and splits are Flan's.

`trivia_qa_wiki_missing` is in Flan's list of tasks, but its definition was never published. By its
name, ours takes the TriviaQA questions whose answer has no Wikipedia entry, as the dataset itself
marks them (dates, numbers and free answers, by the paper's count 7% of all questions).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from flan_jax.mixtures.flan2021.question_text import (
    as_question,
    collapse,
    is_clear,
    unique,
    untokenized,
)
from flan_jax.mixtures.flan2021.registry import register
from flan_jax.sources.base import Row, SourceError
from flan_jax.sources.tfds import TfdsSource

# ------------------------------------------------------------------------------- open-domain facts


def has_answer(row: Row) -> bool:
    """Whether a row of Natural Questions has an answer and a question."""
    return bool(unique(row["answer"])) and bool(row["question"].strip())


def natural_questions(row: Row) -> Row:
    """The first answer is the target, as in Flan; all of them count as right."""
    answers = unique(map(untokenized, row["answer"]))
    return {"question": as_question(row["question"]), "answer": answers[0], "answers": answers}


def trivia_qa(row: Row) -> Row:
    """The answer as people write it; Flan's was the lower-cased form made for matching."""
    answer = collapse(row["answer"]["value"])
    answers = unique((answer, *row["answer"]["aliases"]))
    return {"question": collapse(row["question"]), "answer": answer, "answers": answers}


def is_no_wikipedia_entry(row: Row) -> bool:
    """Whether TriviaQA found no Wikipedia entry for the answer."""
    return not row["answer"]["matched_wiki_entity_name"].strip()


register(
    "natural_questions",
    to_fields=natural_questions,
    keep=has_answer,
    metrics=("squad_em", "squad_f1"),
    licence="CC-BY-SA-3.0",
    description="Natural Questions: what people asked a search engine, with short answers",
)
register(
    "trivia_qa",
    to_fields=trivia_qa,
    metrics=("squad_em", "squad_f1"),
    licence="not stated",
    description="TriviaQA: questions of quiz enthusiasts",
)
register(
    "trivia_qa_wiki_missing",
    to_fields=trivia_qa,
    templates="trivia_qa",
    cluster="open_domain_qa",
    source=TfdsSource(
        # Questions and answers alone: the evidence, which is large, is not asked for.
        "trivia_qa/unfiltered.nocontext:1.1.0",
        {"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
        keep=is_no_wikipedia_entry,
    ),
    metrics=("squad_em", "squad_f1"),
    licence="not stated",
    description="TriviaQA: questions whose answer has no Wikipedia entry",
)

# ----------------------------------------------------------------------------------- school science

# Flan reads rows keyed A to D (the builder has turned 1 to 4 into those).
_ARC_KEYS = range(4)


def _arc_options(row: Row) -> tuple[list[str], int]:
    """(choices, position of the right one), matched by its letter; -1 if there is none."""
    options = [collapse(text) for text in row["choices"]["text"]]
    labels = list(row["choices"]["label"])
    return options, labels.index(row["answerKey"]) if row["answerKey"] in labels else -1


def has_arc_key(row: Row) -> bool:
    """Whether the key of a row of ARC is A to D and singles out one of its choices."""
    return row["answerKey"] in _ARC_KEYS and is_clear(*_arc_options(row))


def arc(row: Row) -> Row:
    """Question and choices of ARC."""
    options, position = _arc_options(row)
    return {"question": collapse(row["question"]), "options": options, "answer": options[position]}


def _book_options(row: Row) -> list[str]:
    return [collapse(row["question"][f"choice_{letter}"]) for letter in "ABCD"]


def has_book_answer(row: Row) -> bool:
    """Whether a row of OpenBookQA has a fact, and its key singles out one of its choices."""
    return bool(row["fact1"].strip()) and is_clear(_book_options(row), row["answerKey"])


def openbookqa(row: Row) -> Row:
    """Question or unfinished sentence, choices, and the fact of the book that it turns on."""
    options = _book_options(row)
    return {
        "question": collapse(row["question"]["stem"]),
        "fact": untokenized(row["fact1"]).rstrip("."),
        "options": options,
        "answer": options[row["answerKey"]],
    }


# UnifiedQA writes line breaks as the two characters `\n`.
_LETTERED = re.compile(
    r"(?P<question>.+?)\s*(?:\\n|\n)\s*"
    r"\(A\)(?P<a>.+?)\(B\)(?P<b>.+?)\(C\)(?P<c>.+?)\(D\)(?P<d>.+)",
    re.DOTALL,
)
_FIFTH = re.compile(r"\(E\)")


def _lettered(text: str) -> tuple[str, list[str]] | None:
    """(question, options) of a UnifiedQA input with exactly the options (A) to (D), or None."""
    found = _LETTERED.fullmatch(text.strip())
    if found is None or _FIFTH.search(found["d"]):
        return None
    options = [collapse(found[letter].replace("\\n", " ")) for letter in "abcd"]
    return collapse(found["question"].replace("\\n", " ")), options


def _chosen(options: Sequence[str], output: str) -> str | None:
    """The option that `output` repeats, whatever its case and spaces."""
    wanted = collapse(output).casefold()
    return next((option for option in options if option.casefold() == wanted), None)


def is_four_way(row: Row) -> bool:
    """Whether a row of UnifiedQA has four options, of which the answer is just one."""
    parsed = _lettered(row["input"])
    answer = None if parsed is None else _chosen(parsed[1], row["output"])
    return (
        parsed is not None and answer is not None and is_clear(parsed[1], parsed[1].index(answer))
    )


def unified_qa_science(row: Row) -> Row:
    """Question and options, parsed out of UnifiedQA's one string. Raises SourceError."""
    parsed = _lettered(row["input"])
    answer = None if parsed is None else _chosen(parsed[1], row["output"])
    if parsed is None or answer is None:
        raise SourceError(
            "expected a question, then options (A) to (D) with the answer among them; "
            f"found input {row['input'][:80]!r} and output {row['output'][:80]!r}"
        )
    question, options = parsed
    return {"question": question, "options": options, "answer": answer}


for _name, _level in (("arc_challenge", "hard"), ("arc_easy", "easy")):
    register(
        _name,
        to_fields=arc,
        has_options=True,
        templates="arc",
        keep=has_arc_key,
        licence="CC-BY-SA-4.0",
        description=f"ARC: science questions of grades 3 to 9, the {_level} ones",
    )
register(
    "openbookqa",
    to_fields=openbookqa,
    has_options=True,
    keep=has_book_answer,
    licence="not stated",
    description="OpenBookQA: elementary science, a fact to be combined with common knowledge",
)
register(
    "unified_qa_science_inst",
    to_fields=unified_qa_science,
    cluster="open_domain_qa",
    has_options=True,
    keep=is_four_way,
    licence="not stated",
    description="AI2 Science Questions: middle school, four choices, as UnifiedQA has them",
)

# ---------------------------------------------------------------------------------------- equations

_BYTES = re.compile(r"b(['\"]).*\1", re.DOTALL)


def _unquoted(text: str) -> str:
    r"""`text` without the ``b'…\n'`` that versions of the dataset wrap around it."""
    text = text.strip()
    if _BYTES.fullmatch(text):
        text = ast.literal_eval(text).decode("utf-8")
    return collapse(text)


def math_dataset(row: Row) -> Row:
    """A linear equation to solve, and its solution, a whole number."""
    return {"question": _unquoted(row["question"]), "answer": _unquoted(row["answer"])}


register(
    "math_dataset",
    to_fields=math_dataset,
    metrics=("number", "exact_match"),
    licence="Apache-2.0",
    description="Mathematics Dataset: linear equations in one variable",
)
