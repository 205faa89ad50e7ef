"""Muffin tasks on conversations about a text: CoQA and QuAC. Names and splits are Flan's."""

from __future__ import annotations

from collections.abc import Sequence

from flan_jax.mixtures.flan2021.question_text import collapse, plain_title, unique
from flan_jax.mixtures.flan2021.registry import register
from flan_jax.sources.base import Row

# Stands at the end of QuAC's passages, and is the answer where the passage holds none.
_CANNOT_ANSWER = "CANNOTANSWER"
NO_ANSWER = "The passage does not say."


def _numbered(lines: Sequence[str]) -> str:
    return "\n".join(f"{number}. {collapse(line)}" for number, line in enumerate(lines, 1))


def is_whole_conversation(row: Row) -> bool:
    """Whether a row of CoQA has a story, questions, and an answer to each."""
    questions, answers = row["questions"], row["answers"]["input_text"]
    texts = (row["story"], *questions, *answers)
    return 0 < len(questions) == len(answers) and all(text.strip() for text in texts)


def coqa(row: Row) -> Row:
    """A whole conversation as one example: questions and answers as numbered lists."""
    return {
        "story": row["story"].strip(),
        "questions": _numbered(row["questions"]),
        "answer": _numbered(row["answers"]["input_text"]),
    }


def has_passage(row: Row) -> bool:
    """Whether a row of QuAC has a question, and a passage besides its closing mark."""
    return bool(row["question"].strip()) and bool(_passage(row["context"]))


def _passage(context: str) -> str:
    return context.strip().removesuffix(_CANNOT_ANSWER).strip()


def _said(text: str) -> str:
    # Quotations end where the teacher stopped marking, often at a comma.
    text = collapse(text.strip().removesuffix(_CANNOT_ANSWER)).rstrip(" ,;:")
    return text or NO_ANSWER


def quac(row: Row) -> Row:
    """A question from a conversation, with what it is about.

    The dataset's rows do not hold the turns before, so the fields `title` and `section` say whom
    or what a pronoun may mean. Where the passage has no answer, Flan's target was empty; ours is a
    sentence that says so, and `answerable` is False.
    """
    answer = _said(row["orig_answer"]["text"])
    return {
        "title": plain_title(row["title"]),
        "section": plain_title(row["section_title"]),
        "background": collapse(row["background"]),
        "passage": _passage(row["context"]),
        "question": collapse(row["question"]),
        "answer": answer,
        "answers": unique((answer, *map(_said, row["answers"]["text"]))),
        "answerable": answer != NO_ANSWER,
    }


register(
    "coqa",
    to_fields=coqa,
    keep=is_whole_conversation,
    metrics=("squad_f1", "exact_match"),
    licence="by source: CC-BY-SA-4.0, Apache-2.0, MSR-LA and RACE's own",
    description="CoQA: all questions of a conversation about a text, answered at once",
)
register(
    "quac",
    to_fields=quac,
    keep=has_passage,
    metrics=("squad_f1", "squad_em"),
    licence="CC-BY-SA-4.0",
    description="QuAC: questions of a curious reader about a section of Wikipedia",
)
