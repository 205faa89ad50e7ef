r"""Chain-of-thought rows of Flan 2022: question, answer, and a rationale that leads to it.

Names are Flan's. Where a question has options, they are part of its text. All nine tasks are
registered; each works once its file is in the data folder.

Rows are Flan's training files, without the few that teach a wrong answer (`contradiction`). 5% are
carved out as `validation` by a hash of the question, the same hash as GSM8K's, so that its
validation questions are nobody's training questions.

Prompts ask for the reasoning and the answer (style `cot`), or, inverted, for other parts of the
row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flan_jax.sources.base import Row
from flan_jax.sources.files import HashSplits, Rows
from flan_jax.sources.tsv import TsvSource
from flan_jax.tasks import TaskDefinition, register_task

TEMPLATES = Path(__file__).parent / "templates"
# Most examples a task counts as in proportional mixing (google-research/FLAN, v2 mixtures).
CAP = 100_000
# Characters of reasoning left when the choice named before it is taken away.
_SHORTEST = 20
_SENTENCE_ENDS = (".", "!", "?", "。")


class _Dataset(NamedTuple):
    name: str
    file: str
    cluster: str
    licence: str
    num_train: int
    homepage: str
    description: str
    tags: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("exact_match",)


# Licences as stated by the datasets' own pages; numbers of rows as declared in
# google-research/FLAN (v2).
_DATASETS = (
    _Dataset(
        "cot_creak",
        "creak_train.tsv",
        "fact_verification",
        "MIT",
        6915,
        "https://github.com/yasumasaonoe/creak",
        "CREAK: claims about entities, judged by common sense",
    ),
    _Dataset(
        "cot_ecqa",
        "ecqa_train.tsv",
        "commonsense_qa",
        "CDLA-Sharing-1.0",
        7112,
        "https://github.com/dair-iitd/ECQA-Dataset",
        "ECQA: CommonsenseQA questions with explanations",
    ),
    _Dataset(
        "cot_esnli",
        "esnli_train.tsv",
        "natural_language_inference",
        "MIT",
        36_174,
        "https://github.com/OanaMariaCamburu/e-SNLI",
        "e-SNLI: natural language inference with explanations",
    ),
    _Dataset(
        "cot_gsm8k",
        "gsm8k_train.tsv",
        "mathematics",
        "MIT",
        7473,
        "https://github.com/openai/grade-school-math",
        "GSM8K: grade-school mathematics, solutions reworded",
        metrics=("number", "exact_match"),
    ),
    _Dataset(
        "cot_qasc",
        "qasc_train.tsv",
        "science_qa",
        "CC-BY-4.0",
        1084,
        "https://allenai.org/data/qasc",
        "QASC: school science, eight choices",
    ),
    _Dataset(
        "cot_sensemaking",
        "sensemaking_train.tsv",
        "commonsense_reasoning",
        "CC-BY-SA-4.0",
        6070,
        "https://github.com/wangcunxiang/Sen-Making-and-Explanation",
        "Sen-Making: which of two sentences goes against common sense",
    ),
    _Dataset(
        "cot_strategyqa",
        "strategyqa_train.tsv",
        "multi_hop_qa",
        "MIT",
        2061,
        "https://allenai.org/data/strategyqa",
        "StrategyQA: yes/no questions with implicit steps",
    ),
    _Dataset(
        "stream_aqua",
        "aqua_train.tsv",
        "mathematics",
        "Apache-2.0",
        2728,
        "https://github.com/google-deepmind/AQuA",
        "AQuA: algebra with five choices, noisy rationales",
        ("stream_of_thought",),
    ),
    _Dataset(
        "stream_qed",
        "qed_train.tsv",
        "reading_comprehension",
        "CC-BY-SA-3.0 and GFDL",
        5154,
        "https://github.com/google-research-datasets/QED",
        "QED: questions on a passage, explained by its references",
        ("stream_of_thought",),
    ),
)


# "Answer A)", "Answer = C.", "The answer is (B)": a rationale that begins by naming a choice.
_NAMED_CHOICE = re.compile(
    r"(?:the )?answer(?: is| =|:)? *\(?([A-E])(?:\)|\.|,|\s*$)", re.IGNORECASE
)
# Rationales of AQuA that were cut off: "… 30% of x =", "Hence:".
_BROKEN_OFF = re.compile(r"(?:[=:]|\b(?:Hence|Therefore|Thus)|\. So)\s*$")
# What a sentence may end with before its period: "…,.", "…;".
_LOOSE_ENDS = re.compile(r"\s*[,;]+\s*\.?$")
_NUMBER = re.compile(r"\d+(?:[, ]\d{3})*(?:\.\d+)?")


def contradiction(row: Row, *, numbers: bool = False) -> str:
    """What makes a row unfit for training, in a few words; empty if it is sound.

    Found by reading Flan's files: rationales of AQuA that belong to a like question and begin by
    naming another choice, and solutions of GSM8K that never arrive at the row's answer.

    Args:
      row: `question`, `answer` and `reasoning`.
      numbers: whether answers are numbers, at which the reasoning must arrive.
    """
    for name in ("question", "answer", "reasoning"):
        if not row[name].strip():
            return f"no {name}"
    answer, reasoning = row["answer"].strip(), row["reasoning"].strip()
    named = _NAMED_CHOICE.match(reasoning)
    if named and re.fullmatch(r"\([A-E]\)", answer) and named[1] != answer[1]:
        return f"the reasoning is for choice {named[1]}, the answer is {answer}"
    if _BROKEN_OFF.search(reasoning):
        return "the reasoning breaks off"
    if (
        numbers
        and _is_number(answer)
        and not _arrives_at(reasoning, float(answer.replace(",", "")))
    ):
        return f"the reasoning does not arrive at {answer}"
    return ""


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d[\d,]*(?:\.\d+)?", text) is not None


def _arrives_at(reasoning: str, answer: float) -> bool:
    """Whether `answer` is among the numbers of `reasoning`, be it in dollars instead of cents."""
    numbers = {float(re.sub(r"[, ]", "", found)) for found in _NUMBER.findall(reasoning)}
    # A thousand may be written `1 000`, but two numbers may also stand side by side.
    numbers |= {float(part) for part in re.findall(r"\d+(?:\.\d+)?", reasoning.replace(",", ""))}
    numbers |= {float(part) for part in re.findall(r"(?<!\d)\.\d+", reasoning)}
    return any(abs(abs(answer) - n * scale) < 1e-6 for n in numbers for scale in (1, 100))


@dataclass(frozen=True)
class SoundRows(HashSplits):
    """`HashSplits` of the rows without a `contradiction`; the others are in no split.

    Attributes:
      field, validation, test: see `HashSplits`.
      numbers: see `contradiction`.
    """

    numbers: bool = False

    def divide(self, rows: Sequence[Row]) -> dict[str, Rows]:
        """The sound ones of `rows` by split, each in their order."""
        return super().divide([row for row in rows if not contradiction(row, numbers=self.numbers)])


def to_fields(row: Row) -> Row:
    """Fields `question`, `answer`, `reasoning`; the reasoning does not begin by naming the choice,
    and ends like a sentence.
    """
    reasoning = row["reasoning"].strip()
    named = _NAMED_CHOICE.match(reasoning)
    if named and len(rest := reasoning[named.end() :].strip()) > _SHORTEST:
        reasoning = rest
    reasoning = _LOOSE_ENDS.sub("", reasoning)
    if not reasoning.endswith(_SENTENCE_ENDS):
        reasoning += "."
    return {
        "question": row["question"].strip(),
        "answer": row["answer"].strip(),
        "reasoning": reasoning,
    }


for _dataset in _DATASETS:
    register_task(
        TaskDefinition(
            name=_dataset.name,
            group="cot",
            cluster=_dataset.cluster,
            source=TsvSource(
                files={"train": f"flan_cot/{_dataset.file}"},
                carve=SoundRows("question", validation=0.05, numbers="number" in _dataset.metrics),
                columns=("question", "answer", "reasoning"),
                escaped=("question", "reasoning"),
            ),
            template_file=TEMPLATES / f"{_dataset.name}.yaml",
            styles=("cot", "inverted"),
            to_fields=to_fields,
            licence=_dataset.licence,
            metrics=_dataset.metrics,
            tags=("cot", *_dataset.tags),
            cap=CAP,
            num_train=_dataset.num_train,
            homepage=_dataset.homepage,
            description=_dataset.description,
        )
    )
