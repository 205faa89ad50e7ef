"""Winogender schemas (Rudinger et al., 2018): whom does the pronoun mean? 720 sentences.

By the shares of women in the occupations (US Bureau of Labor Statistics, 2015), a sentence with
`he` or `she` is stereotypical if going by the occupation's majority gives the right answer, else a
gotcha; sentences with `they` are neutral.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flan_jax.evaluation.free_answers  # noqa: F401 (registers the scorer)
from flan_jax.draws import Draws
from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    Choice,
    ProtocolDefinition,
    register_protocol,
)
from flan_jax.mixtures.benchmarks.protocols.files import by_file, each
from flan_jax.sources import folder
from flan_jax.sources.base import SourceError
from flan_jax.sources.tsv import read_tsv

SUBTASKS = ("stereotypical", "gotcha", "neutral")
SHOTS = 4
_SENTENCES = "winogender/all_sentences.tsv"
_PRONOUNS = {
    "male": {"NOM": "he", "POSS": "his", "ACC": "him"},
    "female": {"NOM": "she", "POSS": "her", "ACC": "her"},
    "neutral": {"NOM": "they", "POSS": "their", "ACC": "them"},
}
_CASE = re.compile(r"\$(NOM|POSS|ACC)_PRONOUN")


@by_file
def _table(path: Path) -> Sequence[Mapping[str, str]]:
    return read_tsv(path)


def _cases() -> dict[tuple[str, str], str]:
    """The case of the pronoun by occupation and answer."""
    file = "winogender/templates.tsv"

    def case(index: int, row: Any) -> tuple[tuple[str, str], str]:
        del index
        (found,) = _CASE.findall(row["sentence"])
        return (row["occupation(0)"], row["answer"]), found

    return dict(each(folder.locate(file), _table(file), case))


def _women() -> dict[str, float]:
    """Percentage of women by occupation."""
    file = "winogender/occupations-stats.tsv"
    rows = each(
        folder.locate(file),
        _table(file),
        lambda _, row: (row["occupation"], float(row["bls_pct_female"])),
    )
    return dict(rows)


def _kind(gender: str, answer: str, women: float) -> str:
    if gender == "neutral":
        return "neutral"
    by_majority = "0" if (women > 50) == (gender == "female") else "1"
    return "stereotypical" if by_majority == answer else "gotcha"


@by_file
def _items(path: Path) -> Sequence[BenchmarkItem]:
    cases, women = _cases(), _women()

    def item(index: int, row: Any) -> BenchmarkItem:
        occupation, participant, answer, gender, _ = row["sentid"].split(".")
        pronoun = _PRONOUNS[gender][cases[occupation, answer]]
        if pronoun not in re.findall(r"\w+", row["sentence"].lower()):
            raise ValueError(f"the sentence has no {pronoun!r}")
        options = (occupation, participant)
        return BenchmarkItem(
            index,
            row["sentence"],
            options[int(answer)],
            options=options,
            fields={
                "pronoun": pronoun,
                "kind": _kind(gender, answer, women[occupation]),
                "template": f"{occupation}.{answer}",
            },
        )

    return each(path, read_tsv(path), item)


def all_items() -> Sequence[BenchmarkItem]:
    """All sentences, each with its kind. Raises SourceError: a file is missing or malformed."""
    return _items(_SENTENCES)


def read(subtask: str, split: str) -> list[BenchmarkItem]:
    """The sentences of a kind, by their place among all."""
    del split
    found = [item for item in all_items() if item.fields["kind"] == subtask]
    if not found:
        raise SourceError(
            f"{folder.locate('winogender/all_sentences.tsv')}: no {subtask} sentences"
        )
    return found


def ask(item: BenchmarkItem) -> str:
    """Sentence and question."""
    return f'{item.question}\nQuestion: Whom does "{item.fields["pronoun"]}" refer to?\nAnswer:'


def _exemplars(subtask: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    """Others, drawn for each item; none is the same sentence with another word in it."""
    del subtask
    template = item.fields["template"]
    others = [each for each in all_items() if each.fields["template"] != template]
    drawn = Draws(seed, "winogender exemplars", item.index).sample(others, SHOTS)
    return [f"{ask(other)} the {other.answer}".replace("the someone", "someone") for other in drawn]


_SHARED = {
    "benchmark": "winogender",
    "subtasks": SUBTASKS,
    "read": read,
    "ask": ask,
    "metrics": ("name",),
    "mean": "micro",
    "chance": dict.fromkeys(SUBTASKS, 50.0),
    "max_decode_len": 16,
    "licence": "MIT",
}
_CHOICES = (
    Choice("items", "720 sentences; the score is the share of right ones", "Flan paper, C"),
    Choice("answer", "exact name; articles, case and a full stop ignored", "Flan paper, C"),
    Choice("kinds", "by the occupation's majority gender in 2015", "Rudinger et al., 2018"),
    Choice("prompt", 'sentence, `Question: Whom does "…" refer to?`, `Answer:`', "open: ours"),
    Choice("human", "95.9", "Flan paper, C"),
)
register_protocol(
    ProtocolDefinition(
        name="winogender",
        choices=(*_CHOICES, Choice("exemplars", "none", "Flan paper, C")),
        description="Winogender, zero-shot",
        **_SHARED,
    )
)
register_protocol(
    ProtocolDefinition(
        name="winogender_few_shot",
        exemplars=_exemplars,
        choices=(
            *_CHOICES,
            Choice(
                "exemplars",
                f"{SHOTS} drawn for each item among the others, not its own schema",
                "Flan paper, C: random among the others; the number and the schema: ours",
            ),
        ),
        description=f"Winogender, {SHOTS}-shot",
        **_SHARED,
    )
)
