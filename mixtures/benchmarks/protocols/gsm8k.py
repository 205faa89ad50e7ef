"""GSM8K (Cobbe et al., 2021): 1,319 grade-school problems."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    Choice,
    ProtocolDefinition,
    register_protocol,
)
from flan_jax.mixtures.benchmarks.protocols.files import each, json_lines
from flan_jax.mixtures.benchmarks.protocols.question_answer import ask_cot, ask_direct
from flan_jax.sources import folder

SUBTASK = "gsm8k"
SHOTS = 8
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_GOLD = re.compile(r"^#### (?P<number>.*\S)\s*$", re.MULTILINE)


def read(subtask: str, split: str) -> list[BenchmarkItem]:
    """The problems of a split. Raises SourceError: a file is missing or malformed."""
    del subtask  # there is one
    file = f"gsm8k/{split}.jsonl"
    return each(folder.locate(file), json_lines(file), _item)


def _item(index: int, row: Mapping[str, Any]) -> BenchmarkItem:
    solution = row["answer"]
    gold = _GOLD.search(solution)
    if gold is None:
        raise ValueError("the answer has no line '#### <number>'")
    reasoning = _CALCULATION.sub("", solution[: gold.start()]).strip()
    return BenchmarkItem(
        index,
        row["question"].strip(),
        gold["number"],
        fields={"reasoning": reasoning, "solution": solution},
    )


def first(count: int) -> list[BenchmarkItem]:
    """The first `count` problems of train."""
    file = "gsm8k/train.jsonl"
    return each(folder.locate(file), json_lines(file)[:count], _item)


def _direct(subtask: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    del subtask, item, seed
    return [f"{ask_direct(e)} {e.answer}" for e in first(SHOTS)]


def _cot(subtask: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    del subtask, item, seed
    return [f"{ask_cot(e)} {e.fields['reasoning']} The answer is {e.answer}." for e in first(SHOTS)]


SHARED: dict[str, Any] = {
    "benchmark": "gsm8k",
    "subtasks": (SUBTASK,),
    "read": read,
    "licence": "MIT",
}
_CHOICES = (
    Choice(
        "exemplars",
        f"rows 0 to {SHOTS - 1} of train, without calculator marks",
        "ours: the paper took 8 that Wei et al. (2022) wrote, which are not among our files",
    ),
    Choice("prompt", "`Q:`, `A:`", "ours, as in BIG-Bench Hard"),
    Choice("mean", "of all items", "there is one set"),
    Choice(
        "answer",
        "the last number after the last 'answer is' or '####', else of the output; by value",
        "open: ours",
    ),
    Choice("decoding", "greedy", "Flan paper, 2.3"),
)

register_protocol(
    ProtocolDefinition(
        name="gsm8k_cot",
        exemplars=_cot,
        ask=ask_cot,
        metrics=("final_number",),
        max_decode_len=512,
        stop=("\n\nQ:",),
        choices=_CHOICES,
        paper_benchmark="GSM8K",
        paper_setting="CoT",
        description="GSM8K, 8-shot with reasoning",
        **SHARED,
    )
)
register_protocol(
    ProtocolDefinition(
        name="gsm8k_direct",
        exemplars=_direct,
        ask=ask_direct,
        metrics=("final_number",),
        max_decode_len=32,
        stop=("\n\nQ:",),
        choices=_CHOICES,
        description="GSM8K, 8-shot, the number alone",
        **SHARED,
    )
)
