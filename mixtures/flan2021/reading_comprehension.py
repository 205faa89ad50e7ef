"""Muffin tasks that ask about a passage, or to go on with it. Names and splits are Flan's.

BoolQ, SQuAD 1.1 and 2.0, DROP, MultiRC, ReCoRD, Cosmos QA and LAMBADA.
"""

from __future__ import annotations

import re

from flan_jax.mixtures.flan2021.question_text import (
    as_question,
    collapse,
    is_clear,
    plain_title,
    unique,
    untokenized,
)
from flan_jax.mixtures.flan2021.registry import register
from flan_jax.mixtures.flan2021.treebank import untokenize
from flan_jax.sources.base import Row

NO_YES = ("no", "yes")
UNANSWERABLE = "unanswerable"


def bool_q(row: Row) -> Row:
    """A search query as a yes/no question, and the passage that answers it."""
    return {
        "title": plain_title(row["title"]),
        "passage": row["passage"].strip(),
        "question": as_question(row["question"]),
        "options": list(NO_YES),
        "answer": NO_YES[bool(row["answer"])],
    }


def squad(row: Row) -> Row:
    """A question on a paragraph; `unanswerable` where the paragraph has no answer (SQuAD 2.0)."""
    answers = unique(row["answers"]["text"]) or (UNANSWERABLE,)
    return {
        "title": plain_title(row["title"]),
        "context": row["context"].strip(),
        "question": collapse(row["question"]),
        "answer": answers[0],
        "answers": answers,
    }


# How the builder joins DROP's dates: year-month-day, the year empty if it is not known.
_DROP_DATE = re.compile(r"(?P<year>\d*)-(?P<month>[A-Za-z]+)-(?P<day>\d+)")


def _drop_answer(text: str) -> str:
    date = _DROP_DATE.fullmatch(text.strip())
    # Day, month, year is the order in which DROP's own evaluation reads dates.
    return collapse(" ".join(date.group("day", "month", "year")) if date else text)


def has_drop_answer(row: Row) -> bool:
    """Whether a row of DROP has an answer; the builder loses dates without a day."""
    return bool(row["answer"].strip())


def drop(row: Row) -> Row:
    """A question on a passage whose answer is a number, a date or words of the passage.

    Of answers with several spans the builder keeps the first.
    """
    answer = _drop_answer(row["answer"])
    return {
        "passage": row["passage"].strip(),
        "question": collapse(row["question"]),
        "answer": answer,
        "answers": unique((answer, *map(_drop_answer, row["validated_answers"]))),
    }


_SENTENCE_NUMBER = re.compile(r"<b>\s*Sent\s*\d+\s*:?\s*</b>:?", re.IGNORECASE)
_TAG = re.compile(r"</?(?:b|br|i|p)\s*/?>", re.IGNORECASE)


def has_verdict(row: Row) -> bool:
    """Whether a row of MultiRC has a label, a question and a response."""
    return row["label"] in (0, 1) and bool(row["question"].strip()) and bool(row["answer"].strip())


def multirc(row: Row) -> Row:
    """A question, one response to it, and whether the passage bears the response out."""
    passage = _TAG.sub(" ", _SENTENCE_NUMBER.sub(" ", row["paragraph"]))
    return {
        "passage": collapse(passage),
        "question": collapse(row["question"]),
        "response": collapse(row["answer"]),
        "options": list(NO_YES),
        "answer": NO_YES[row["label"]],
    }


_SENTENCE_ENDS = (".", "!", "?", '"', "'", "”", "’")
_HIGHLIGHT = "@highlight"
_PLACEHOLDER = "@placeholder"
BLANK = "____"


def _article(passage: str) -> str:
    """News text and, as a list, its highlights, which the dataset sets off by a mark."""
    text, *highlights = (collapse(part) for part in passage.split(_HIGHLIGHT))
    lines = [f"- {_sentence(line)}" for line in highlights if line]
    return "\n".join([_sentence(text), "Highlights:", *lines]) if lines else text


def _sentence(text: str) -> str:
    return text if text.endswith(_SENTENCE_ENDS) else f"{text}."


def has_entity_answer(row: Row) -> bool:
    """Whether one of the answers of a row of ReCoRD is among its entities."""
    return not set(unique(row["answers"])).isdisjoint(unique(row["entities"]))


def record(row: Row) -> Row:
    """A statement with a blank, to be filled with an entity of the article.

    The answer is the first right one of the entities; all right ones are in `answers`.
    """
    options = unique(row["entities"])
    right = set(unique(row["answers"]))
    answers = tuple(option for option in options if option in right)
    return {
        "passage": _article(row["passage"]),
        # Some queries are items of a list, and say so.
        "query": collapse(row["query"].replace(_PLACEHOLDER, BLANK)).removeprefix("- "),
        "options": list(options),
        "answer": answers[0],
        "answers": answers,
    }


_NONE_OF_THEM = re.compile(r"none of (the|these) (above|choices|options|answers)\b", re.IGNORECASE)


# The tokenizer took "dont", as many writers spell it, apart like "don't".
_SPLIT_NT = re.compile(
    r"\b(ai|are|ca|could|did|do|does|had|has|have|is|should|was|were|wo|would) nt\b", re.IGNORECASE
)


def _everyday(text: str) -> str:
    return _SPLIT_NT.sub(r"\1nt", untokenize(collapse(text)))


def _cosmos_options(row: Row) -> list[str]:
    return [_everyday(row[f"answer{position}"]) for position in range(4)]


def has_cosmos_answer(row: Row) -> bool:
    """Whether a row of Cosmos QA has a right answer, one only, that says something.

    "None of the above choices" does not where no choices are shown, so such rows are left out.
    """
    options = _cosmos_options(row)
    if not is_clear(options, row["label"]):
        return False
    return _NONE_OF_THEM.match(options[row["label"]]) is None


def cosmos_qa(row: Row) -> Row:
    """A question on what lies between the lines of an everyday story."""
    options = _cosmos_options(row)
    return {
        "context": _everyday(row["context"]),
        "question": _everyday(row["question"]),
        "options": options,
        "answer": options[row["label"]],
    }


_LAMBADA_QUOTES = ((r"``\s*", '"'), (r"\s*''", '"'), (r"(?<!\S)`\s*", "'"))
_CLITIC = re.compile(r"\s+(n't|'(?:s|m|d|re|ve|ll))(?!\w)")
_BRACKETS = ((r"([(\[])\s+", r"\1"), (r"\s+([)\]])", r"\1"))


def _prose(text: str) -> str:
    """LAMBADA's tokens as prose: quotes, clitics and punctuation where they belong."""
    text = _CLITIC.sub(r"\1", collapse(text))
    for pattern, replacement in (*_LAMBADA_QUOTES, *_BRACKETS):
        text = re.sub(pattern, replacement, text)
    return untokenized(text)


def has_last_word(row: Row) -> bool:
    """Whether a passage of LAMBADA has words before its last."""
    return len(row["passage"].split()) > 1


def lambada(row: Row) -> Row:
    """A passage without its last word, which is the answer."""
    context, answer = row["passage"].strip().rsplit(maxsplit=1)
    return {"context": _prose(context), "answer": answer}


register(
    "bool_q",
    to_fields=bool_q,
    has_options=True,
    licence="CC-BY-SA-3.0",
    description="BoolQ: yes/no questions that people asked a search engine",
)
register(
    "squad_v1",
    to_fields=squad,
    metrics=("squad_f1", "squad_em"),
    licence="CC-BY-SA-4.0",
    description="SQuAD 1.1: questions answered by words of a Wikipedia paragraph",
)
register(
    "squad_v2",
    to_fields=squad,
    metrics=("squad_f1", "squad_em"),
    licence="CC-BY-SA-4.0",
    description="SQuAD 2.0: as SQuAD 1.1, and questions that the paragraph does not answer",
)
register(
    "drop",
    to_fields=drop,
    keep=has_drop_answer,
    metrics=("squad_f1", "squad_em"),
    licence="CC-BY-SA-4.0",
    description="DROP: counting, arithmetic and comparing over a passage",
)
register(
    "multirc",
    to_fields=multirc,
    has_options=True,
    keep=has_verdict,
    licence="not stated",
    description="MultiRC: is this a right answer to the question about the passage?",
)
register(
    "record",
    to_fields=record,
    has_options=True,
    keep=has_entity_answer,
    licence="not stated",
    description="ReCoRD: the entity of a news article that fills a blank",
)
register(
    "cosmos_qa",
    to_fields=cosmos_qa,
    has_options=True,
    keep=has_cosmos_answer,
    licence="CC-BY-4.0",
    description="Cosmos QA: causes, effects and motives in everyday stories",
)
register(
    "lambada",
    to_fields=lambada,
    cluster="language_modeling",
    keep=has_last_word,
    licence="CC-BY-4.0",
    description="LAMBADA: the last word of a passage from a novel",
)
