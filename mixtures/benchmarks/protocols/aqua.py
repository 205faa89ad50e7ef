"""AQuA (Ling et al., 2017): 254 algebra problems, five options each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    Choice,
    ProtocolDefinition,
    register_protocol,
)
from flan_jax.mixtures.benchmarks.protocols.files import each, json_lines
from flan_jax.mixtures.benchmarks.protocols.question_answer import (
    FlanCotExemplars,
    ask_cot,
    ask_direct,
)
from flan_jax.sources import folder

SUBTASK = "aqua"
SHOTS = 4
LETTERS = "ABCDE"
# Their questions list the options as ours do.
EXEMPLARS = FlanCotExemplars("flan_cot/aqua_train.tsv", SHOTS)


def read(subtask: str, split: str) -> list[BenchmarkItem]:
    """The problems of a split. Raises SourceError: a file is missing or malformed."""
    del subtask  # there is one
    file = f"aqua/{'dev' if split == 'validation' else split}.json"
    return each(folder.locate(file), json_lines(file), _item)


def _item(index: int, row: Mapping[str, Any]) -> BenchmarkItem:
    texts = []
    for letter, option in zip(LETTERS, row["options"], strict=True):
        if not option.startswith(f"{letter})"):
            raise ValueError(f"expected an option '{letter})…', found {option!r}")
        texts.append(option[2:].strip())
    labels = tuple(f"({letter})" for letter in LETTERS)
    listed = "\n".join(f"{label} {text}" for label, text in zip(labels, texts, strict=True))
    return BenchmarkItem(
        index,
        f"{row['question'].strip()}\nOptions:\n{listed}",
        labels[LETTERS.index(row["correct"])],
        options=labels,
        option_texts=tuple(texts),
    )


_SHARED: dict[str, Any] = {
    "benchmark": "aqua",
    "subtasks": (SUBTASK,),
    "read": read,
    "metrics": ("option_match",),
    "splits": ("test", "validation"),
    "chance": {SUBTASK: 20.0},
    "stop": ("\n\nQ:",),
    "choices": (
        Choice(
            "exemplars",
            f"rows 0 to {SHOTS - 1} of Flan's aqua_train.tsv",
            "ours: the paper took 4 that Wei et al. (2022) wrote, which are not among our files",
        ),
        Choice("prompt", "`Q:`, options in lines of their own, `A:`", "FLAN repository, cot_data"),
        Choice("mean", "of all items", "there is one set"),
        Choice("answer", "the option after the last 'answer is', else the output", "as for MMLU"),
        Choice("decoding", "greedy", "Flan paper, 2.3"),
    ),
    "licence": "Apache-2.0",
}

register_protocol(
    ProtocolDefinition(
        name="aqua_cot",
        exemplars=EXEMPLARS.cot,
        ask=ask_cot,
        max_decode_len=512,
        description="AQuA, 4-shot with reasoning",
        **_SHARED,
    )
)
register_protocol(
    ProtocolDefinition(
        name="aqua_direct",
        exemplars=EXEMPLARS.direct,
        ask=ask_direct,
        max_decode_len=32,
        description="AQuA, 4-shot",
        **_SHARED,
    )
)
