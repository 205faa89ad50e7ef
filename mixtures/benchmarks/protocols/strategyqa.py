"""StrategyQA (Geva et al., 2021): 229 questions whose answer, yes or no, takes several steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    Choice,
    ProtocolDefinition,
    register_protocol,
)
from flan_jax.mixtures.benchmarks.protocols.files import each, json_file
from flan_jax.mixtures.benchmarks.protocols.question_answer import (
    FlanCotExemplars,
    ask_cot,
    ask_direct,
)
from flan_jax.sources import folder
from flan_jax.sources.base import SourceError

SUBTASK = "strategyqa"
SHOTS = 6
OPTIONS = ("yes", "no")
_DEV = "strategyqa/dev.json"
EXEMPLARS = FlanCotExemplars("flan_cot/strategyqa_train.tsv", SHOTS)


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
        exemplars=EXEMPLARS.cot,
        ask=ask_cot,
        max_decode_len=256,
        description="StrategyQA, 6-shot with reasoning",
        **_SHARED,
    )
)
register_protocol(
    ProtocolDefinition(
        name="strategyqa_direct",
        exemplars=EXEMPLARS.direct,
        ask=ask_direct,
        max_decode_len=16,
        description="StrategyQA, 6-shot",
        **_SHARED,
    )
)
