"""Open-ended generation: 190 prompts of our own in the structure of the Flan paper's (section 6).

The paper's prompts are not public. Ours are as many of each kind: 20 in each of five categories,
three of these categories again with a phrase that asks for reasoning, and 30 with exemplars.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    Choice,
    ProtocolDefinition,
    register_protocol,
)
from flan_jax.evaluation.free_answers import ANY_TEXT
from flan_jax.sources.jsonl import read_jsonl

PROMPTS = Path(__file__).parent.parent / "open_ended" / "prompts.jsonl"
ZERO_SHOT = (
    "creativity",
    "reasoning_over_contexts",
    "complex_reasoning",
    "planning",
    "explanation",
)
COT = ("complex_reasoning_cot", "planning_cot", "explanation_cot")
SUBTASKS = (*ZERO_SHOT, *COT, "few_shot")


@functools.cache
def _rows() -> tuple[Mapping[str, Any], ...]:
    return tuple(read_jsonl(PROMPTS))


def read(subtask: str, split: str) -> list[BenchmarkItem]:
    """The prompts of a category."""
    del split
    return [
        BenchmarkItem(int(index), row["prompt"], ANY_TEXT)
        for row in _rows()
        for category, _, index in [row["id"].rpartition("/")]
        if category == subtask
    ]


register_protocol(
    ProtocolDefinition(
        name="open_ended",
        benchmark="open_ended",
        subtasks=SUBTASKS,
        read=read,
        ask=lambda item: item.question,
        metrics=("answered",),
        mean="micro",
        max_decode_len=256,
        groups={"zero_shot": ZERO_SHOT, "with_reasoning": COT, "few_shot": ("few_shot",)},
        choices=(
            Choice(
                "prompts", "ours, 190 in the paper's structure", "open: the paper's are private"
            ),
            Choice(
                "decoding",
                "5 samples at temperature 0.7; of those not likelier than half the median "
                "log-probability (no normalisation by length), the likeliest",
                "Flan paper, 6 and I",
            ),
            Choice("score", "whether there is an answer; quality by raters", "Flan paper, 6"),
        ),
        licence="Apache-2.0",
        description="open-ended prompts, to be rated by people",
    )
)
