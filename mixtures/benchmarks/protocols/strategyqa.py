"""StrategyQA (Geva et al., 2021): 229 questions whose answer, yes or no, takes several steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    Choice,
    ProtocolDefinition,
    register_protocol,
)
from flan_jax.mixtures.benchmarks.protocols.files import each, json_file, tsv_rows
from flan_jax.sources import folder
from flan_jax.sources.base import SourceError

SUBTASK = "strategyqa"
SHOTS = 6
OPTIONS = ("yes", "no")
TRIGGER = "Let's think step by step."
_DEV, _TRAIN = "strategyqa/dev.json", "flan_cot/strategyqa_train.tsv"


def read(subtask: str, split: str) -> list[BenchmarkItem]:
    """The questions of dev. Raises SourceError: the file is missing or malformed."""
    del subtask, split  # there is one
    rows = json_file(_DEV)
    if not isinstance(rows, list):
        raise SourceError(f"{folder.locate(_DEV)} should be a list of questions")
    return each(folder.locate(_DEV), rows, _item)


def _item(index: int, row: Mapping[str, Any]) -> BenchmarkItem:
    if not isinstance(row["answer"], bool):
        raise ValueError(f"the answer should be true or false, found {row['answer']!r}")
    answer = OPTIONS[0] if row["answer"] else OPTIONS[1]
    return BenchmarkItem(
        index, row["question"].strip(), answer, options=OPTIONS, option_texts=OPTIONS
    )


def ask_direct(item: BenchmarkItem) -> str:
    """The question, to be answered at once."""
    return f"Q: {item.question}\nA:"


def ask_cot(item: BenchmarkItem) -> str:
    """The question, to be reasoned about."""
    return f"Q: {item.question}\nA: {TRIGGER}"


def _rows() -> Sequence[Mapping[str, str]]:
    columns = ("question", "answer", "reasoning")
    return tsv_rows(_TRAIN, columns, ("question", "reasoning"))[:SHOTS]


def _direct(subtask: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    del subtask, item, seed
    return [f"Q: {row['question'].strip()}\nA: {row['answer'].strip()}" for row in _rows()]


def _cot(subtask: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    del subtask, item, seed
    return [
        f"Q: {row['question'].strip()}\nA: {TRIGGER} {row['reasoning'].strip()} "
        f"The answer is {row['answer'].strip()}."
        for row in _rows()
    ]


_SHARED: dict[str, Any] = {
    "benchmark": "strategyqa",
    "subtasks": (SUBTASK,),
    "read": read,
    "metrics": ("option_match",),
    "split": "validation",
    "splits": ("validation",),
    "chance": {SUBTASK: 50.0},
    "stop": ("\n\nQ:",),
    "choices": (
        Choice(
            "exemplars",
            f"rows 0 to {SHOTS - 1} of Flan's strategyqa_train.tsv",
            "ours: the paper took 6 that Wei et al. (2022) wrote, which are not among our files",
        ),
        Choice("split", "dev, whose answers are public", "StrategyQA's repository"),
        Choice("prompt", "`Q:`, `A:`", "ours, as in BIG-Bench Hard"),
        Choice("mean", "of all items", "there is one set"),
        Choice(
            "answer", "yes or no after the last 'answer is', else the output; case free", "ours"
        ),
        Choice("decoding", "greedy", "Flan paper, 2.3"),
    ),
    "licence": "MIT",
}

register_protocol(
    ProtocolDefinition(
        name="strategyqa_cot",
        exemplars=_cot,
        ask=ask_cot,
        max_decode_len=256,
        description="StrategyQA, 6-shot with reasoning",
        **_SHARED,
    )
)
register_protocol(
    ProtocolDefinition(
        name="strategyqa_direct",
        exemplars=_direct,
        ask=ask_direct,
        max_decode_len=16,
        description="StrategyQA, 6-shot",
        **_SHARED,
    )
)
