"""Natural language inference: whether one text bears out another.

Two-way tasks ask whether the second text follows from the first, so that "no" covers both what is
denied and what is left open. Three-way tasks ask whether it is true, given the first, so that "no"
means that it is false. Each list of answers is in the order of the builder's labels.
"""

from __future__ import annotations

from collections.abc import Sequence

from flan_jax.mixtures.flan2021.class_texts import class_text
from flan_jax.mixtures.flan2021.registry import register
from flan_jax.sources.base import Row

# Answers are worded as in Flan 2022, so that models trained on either can be compared.
FOLLOWS = ("yes", "no")  # entailment, not_entailment
FOLLOWS_WNLI = ("no", "yes")  # not_entailment, entailment
TRUE = ("yes", "it is not possible to tell", "no")  # entailment, neutral, contradiction
TRUE_ANLI = ("Yes", "It's impossible to say", "No")  # e, n, c
TRUE_CB = ("Yes", "No", "It's impossible to say")  # entailment, contradiction, neutral


def _pair(row: Row, names: Sequence[str], answers: Sequence[str]) -> Row:
    """The two texts under the names that they have in the row, the answer, and all answers."""
    return {
        **{name: row[name].strip() for name in names},
        "answer": class_text(row, answers),
        "options": list(answers),
    }


def _rte(row: Row) -> Row:
    return _pair(row, ("premise", "hypothesis"), FOLLOWS)


def _cb(row: Row) -> Row:
    fields = _pair(row, ("premise", "hypothesis"), TRUE_CB)
    # Prompts put the clause inside a question or a sentence of their own ("is it true that ...?").
    return {**fields, "hypothesis": fields["hypothesis"].rstrip(".")}


def _wnli(row: Row) -> Row:
    return _pair(row, ("sentence1", "sentence2"), FOLLOWS_WNLI)


def _qnli(row: Row) -> Row:
    return _pair(row, ("question", "sentence"), FOLLOWS)


def _three_way(row: Row) -> Row:
    return _pair(row, ("premise", "hypothesis"), TRUE)


def _anli(row: Row) -> Row:
    return _pair(row, ("context", "hypothesis"), TRUE_ANLI)


def _snli_is_settled(row: Row) -> bool:
    """Whether SNLI's annotators agreed: a row on which they did not has the label -1."""
    return row["label"] >= 0 and bool(row["premise"].strip() and row["hypothesis"].strip())


register(
    "rte",
    to_fields=_rte,
    has_options=True,
    licence="not stated",
    description="RTE: whether a sentence follows from a passage",
)
register(
    "cb",
    to_fields=_cb,
    has_options=True,
    licence="not stated",
    description="CommitmentBank: whether a speaker is committed to what they mention",
)
register(
    "wnli",
    to_fields=_wnli,
    has_options=True,
    licence="CC-BY-4.0",
    description="WNLI: whether a pronoun was replaced by what it stands for",
)
register(
    "qnli",
    to_fields=_qnli,
    has_options=True,
    licence="CC-BY-SA-4.0",
    description="QNLI: whether a sentence holds the answer to a question",
)
register(
    "snli",
    to_fields=_three_way,
    has_options=True,
    keep=_snli_is_settled,
    licence="CC-BY-SA-4.0",
    description="SNLI: whether a sentence is true of a captioned photo",
)
for _kind, _genres in (("matched", "the genres of training"), ("mismatched", "other genres")):
    register(
        f"mnli_{_kind}",
        to_fields=_three_way,
        has_options=True,
        templates="mnli",
        licence="OANC and others, by genre",
        description=f"MultiNLI: whether a sentence is true, given a text; tested on {_genres}",
    )
for _round in (1, 2, 3):
    register(
        f"anli_r{_round}",
        to_fields=_anli,
        has_options=True,
        templates="anli",
        licence="CC-BY-NC-4.0",
        description=f"Adversarial NLI, round {_round}: whether a tricky sentence is true by a text",
    )
