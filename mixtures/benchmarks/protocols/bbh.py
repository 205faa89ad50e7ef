"""BIG-Bench Hard (Suzgun et al., 2022): 27 files of 23 tasks, asked as its authors did.

Prompts equal the inputs that the authors published. The mean is over the files, so logical
deduction and tracking shuffled objects count three times (Flan paper, D.2).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    Choice,
    ProtocolDefinition,
    register_protocol,
)
from flan_jax.mixtures.benchmarks.protocols.files import by_file, each, json_file
from flan_jax.mixtures.benchmarks.protocols.question_answer import ask_cot, ask_direct
from flan_jax.sources import folder
from flan_jax.sources.base import SourceError, SourceMissingError

NLP = (
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "formal_fallacies",
    "hyperbaton",
    "movie_recommendation",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
)
ALGORITHMIC = (
    "boolean_expressions",
    "dyck_languages",
    "geometric_shapes",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)
SUBTASKS = tuple(sorted(NLP + ALGORITHMIC))

# Percent; the values with which Table 5's normalised averages come out (formal_fallacies is
# two-way, though the BBH paper prints 25).
CHANCE = {
    "boolean_expressions": 50,
    "causal_judgement": 50,
    "date_understanding": 17.2,
    "disambiguation_qa": 33.2,
    "dyck_languages": 1.2,
    "formal_fallacies": 50,
    "geometric_shapes": 11.6,
    "hyperbaton": 50,
    "logical_deduction_three_objects": 100 / 3,
    "logical_deduction_five_objects": 20,
    "logical_deduction_seven_objects": 100 / 7,
    "movie_recommendation": 25,
    "navigate": 50,
    "reasoning_about_colored_objects": 11.9,
    "ruin_names": 25,
    "salient_translation_error_detection": 16.7,
    "snarks": 50,
    "sports_understanding": 50,
    "temporal_sequences": 25,
    "tracking_shuffled_objects_three_objects": 100 / 3,
    "tracking_shuffled_objects_five_objects": 20,
    "tracking_shuffled_objects_seven_objects": 100 / 7,
    "web_of_lies": 50,
}

_OPTION = re.compile(r"^(\([A-Z]\)) (.*)$", re.MULTILINE)
DIRECT, COT = "direct-prompts", "cot-prompts"
ZERO_SHOT_TRIGGER = "Let's think step-by-step."


def read(subtask: str, split: str, count: int | None = None) -> list[BenchmarkItem]:
    """The items of a file, or the first `count`. Raises SourceError: missing or malformed."""
    del split  # there is one
    file = f"bbh/bbh/{subtask}.json"
    content, path = json_file(file), folder.locate(file)
    if not isinstance(content, dict) or not isinstance(content.get("examples"), list):
        raise SourceError(f"{path} is not a file of BIG-Bench Hard: it has no list 'examples'")
    return each(path, content["examples"][:count], _item)


def _item(index: int, row: Mapping[str, str]) -> BenchmarkItem:
    question, target = row["input"], row["target"]
    found = _OPTION.findall(question.partition("\nOptions:\n")[2])
    labels, texts = [label for label, _ in found], [text for _, text in found]
    answer = target.strip()
    if answer in texts:  # three items have an option's text where the others have its letter
        answer = labels[texts.index(answer)]
    if answer not in labels:
        labels, texts = [], []
    return BenchmarkItem(
        index, question, target.strip(), (target.strip(),), tuple(labels), tuple(texts)
    )


@by_file
def _prompts(path: Path) -> tuple[str, tuple[str, ...]]:
    """(instruction, exemplars) of a file of prompts."""
    text = path.read_text(encoding="utf-8")
    if "-----\n" in text:  # the first lines are the canary
        text = text.partition("-----\n")[2]
    header, *exemplars = text.split("\n\nQ: ")
    if not header or not exemplars:
        raise SourceError(f"{path}: expected an instruction, then exemplars `Q: …`")
    return header, tuple(f"Q: {exemplar}" for exemplar in exemplars)


def instruction(folder_name: str, subtask: str) -> str:
    """What stands above a subtask's exemplars in the files of `folder_name`."""
    return _prompts(_prompt_file(folder_name, subtask))[0]


def exemplars(folder_name: str, subtask: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    """A subtask's three exemplars in the files of `folder_name`."""
    del item, seed  # the same for all
    return _prompts(_prompt_file(folder_name, subtask))[1]


def _prompt_file(folder_name: str, subtask: str) -> str:
    file = f"bbh/{folder_name}/{subtask}.txt"
    if folder_name == DIRECT and not folder.locate(file).is_file():
        raise SourceMissingError(
            f"{file} is not in the data folder {folder.data_folder()}. The authors' direct prompts "
            "are not files of their repository: make them from its outputs of code-davinci-002 "
            "without reasoning, each task's input up to the blank line before its last `Q:`"
        )
    return file


GROUPS = {"bbh-nlp": NLP, "bbh-alg": ALGORITHMIC}
SHARED: dict[str, Any] = {
    "benchmark": "bbh",
    "subtasks": SUBTASKS,
    "groups": GROUPS,
    "chance": CHANCE,
    "licence": "MIT",
}
_PAPER: dict[str, Any] = {
    **SHARED,
    "read": read,
    "metrics": ("phrase_match",),
    "stop": ("\n\nQ:",),
}
_CHOICES = (
    Choice("mean", "of 27 files, each once", "Flan paper, D.2"),
    Choice("answer", "exact match with case, after the last 'answer is'", "FLAN repository, v2"),
    Choice("decoding", "greedy", "BBH paper, section 3"),
)

_FEW_SHOT = (
    Choice("prompt", "the authors' own, instruction included", "BBH paper, section 3; its files"),
    Choice("exemplars", "the authors' 3 of each task", "BBH paper, section 3; its files"),
)

register_protocol(
    ProtocolDefinition(
        name="bbh_direct",
        ask=ask_direct,
        header=functools.partial(instruction, DIRECT),
        exemplars=functools.partial(exemplars, DIRECT),
        max_decode_len=64,
        choices=(*_CHOICES, *_FEW_SHOT),
        paper_benchmark="BBH",
        paper_setting="3-shot direct",
        description="BIG-Bench Hard, 3-shot",
        **_PAPER,
    )
)
register_protocol(
    ProtocolDefinition(
        name="bbh_cot",
        ask=ask_cot,
        header=functools.partial(instruction, COT),
        exemplars=functools.partial(exemplars, COT),
        max_decode_len=512,
        choices=(*_CHOICES, *_FEW_SHOT),
        paper_benchmark="BBH",
        paper_setting="3-shot CoT",
        description="BIG-Bench Hard, 3-shot with reasoning",
        **_PAPER,
    )
)
register_protocol(
    ProtocolDefinition(
        name="bbh_zero_shot_cot",
        ask=functools.partial(ask_direct, ending=f" {ZERO_SHOT_TRIGGER}"),
        max_decode_len=512,
        choices=(
            *_CHOICES,
            Choice(
                "prompt",
                f"`Q:` and the question, `A: {ZERO_SHOT_TRIGGER}`; no instruction",
                "Flan paper, 4.3: the question followed by that phrase; the layout is open",
            ),
            Choice("exemplars", "none", "Flan paper, 4.3"),
        ),
        description="BIG-Bench Hard without exemplars, with reasoning",
        **_PAPER,
    )
)
