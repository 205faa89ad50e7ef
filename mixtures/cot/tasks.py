r"""Chain-of-thought rows of Flan 2022: question, answer, and a rationale that leads to it.

Names are Flan's. Where a question has options, they are part of its text. All nine tasks are
registered; each works once its file is in the data folder.

Rows are Flan's training files. 5% are carved out as `validation` by a hash of the question, the
same hash as GSM8K's, so that its validation questions are nobody's training questions.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from flan_jax.mixtures.present import register_present_mixture
from flan_jax.sources.base import Row
from flan_jax.sources.files import HashSplits
from flan_jax.sources.tsv import TsvSource
from flan_jax.tasks import TaskDefinition, register_task

TEMPLATES = Path(__file__).parent / "templates"
# Most examples a task counts as in proportional mixing (google-research/FLAN, v2 mixtures).
CAP = 100_000
_SENTENCE_ENDS = (".", "!", "?", "。", ":", ";")


class _Dataset(NamedTuple):
    name: str
    file: str
    cluster: str
    licence: str
    description: str
    tags: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("exact_match",)


# Licences as stated by the datasets' own pages.
_DATASETS = (
    _Dataset(
        "cot_creak",
        "creak_train.tsv",
        "fact_verification",
        "MIT",
        "CREAK: claims about entities, judged by common sense",
    ),
    _Dataset(
        "cot_ecqa",
        "ecqa_train.tsv",
        "commonsense_qa",
        "CDLA-Sharing-1.0",
        "ECQA: CommonsenseQA questions with explanations",
    ),
    _Dataset(
        "cot_esnli",
        "esnli_train.tsv",
        "natural_language_inference",
        "MIT",
        "e-SNLI: natural language inference with explanations",
    ),
    _Dataset(
        "cot_gsm8k",
        "gsm8k_train.tsv",
        "mathematics",
        "MIT",
        "GSM8K: grade-school mathematics, solutions reworded",
        metrics=("number", "exact_match"),
    ),
    _Dataset(
        "cot_qasc",
        "qasc_train.tsv",
        "science_qa",
        "CC-BY-4.0",
        "QASC: school science, eight choices",
    ),
    _Dataset(
        "cot_sensemaking",
        "sensemaking_train.tsv",
        "commonsense_reasoning",
        "CC-BY-SA-4.0",
        "Sen-Making: which of two sentences goes against common sense",
    ),
    _Dataset(
        "cot_strategyqa",
        "strategyqa_train.tsv",
        "multi_hop_qa",
        "MIT",
        "StrategyQA: yes/no questions with implicit steps",
    ),
    _Dataset(
        "stream_aqua",
        "aqua_train.tsv",
        "mathematics",
        "Apache-2.0",
        "AQuA: algebra with five choices, noisy rationales",
        ("stream_of_thought",),
    ),
    _Dataset(
        "stream_qed",
        "qed_train.tsv",
        "reading_comprehension",
        "CC-BY-SA-3.0 and GFDL",
        "QED: questions on a passage, explained by its references",
        ("stream_of_thought",),
    ),
)


def to_fields(row: Row) -> Row:
    """Fields `question`, `answer`, `reasoning`; the reasoning ends like a sentence."""
    reasoning = row["reasoning"].strip()
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
                carve=HashSplits("question", validation=0.05),
                columns=("question", "answer", "reasoning"),
                escaped=("question", "reasoning"),
            ),
            template_file=TEMPLATES / f"{_dataset.name}.yaml",
            section="cot",
            to_fields=to_fields,
            licence=_dataset.licence,
            metrics=_dataset.metrics,
            tags=("cot", *_dataset.tags),
            cap=CAP,
            description=_dataset.description,
        )
    )

register_present_mixture(
    "cot", ("cot",), description="Flan's chain-of-thought tasks in the data folder"
)
