"""T0-SF: one task for each of the 193 configurations of P3 that Flan 2022 trains on.

tasks.csv lists them: the dataset and the prompt they are made of, their kind and sizes. A task's
name is P3's name of the configuration. P3's prompts are whole prompts; `wrapper` says which of
three files of templates frames them:

* `question_answer`: any request without answer choices;
* `multiple_choice`: the choices are part of P3's text, in P3's order. They are in the field
  `choices` too, for evaluation by rank, and no block of options is drawn;
* `separated_options`: P3's text does not show the choices; they are drawn like any task's options.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from flan_jax.draws import Draws
from flan_jax.mixtures.t0_sf.datasets import DATASETS
from flan_jax.sources.base import Row
from flan_jax.sources.p3 import P3Source
from flan_jax.sources.promptsource import Demands
from flan_jax.tasks import TaskDefinition, register_task

_HERE = Path(__file__).parent
# Most examples a task counts as in proportional mixing (google-research/FLAN, v2 mixtures).
CAP = 20_000
SEPARATED = "separated_options"
# What promptsource names as metrics, in the names of flan_jax/evaluation/scorers.py.
_OPEN = ("rougeL", "bleu")
_SPAN = ("squad_f1", "squad_em")
_METRICS = {
    "Accuracy": ("exact_match",),
    "Accuracy;Spearman Correlation": ("exact_match",),
    "Squad": _SPAN,
    "BLEU;ROUGE": _OPEN,
    "ROUGE;BLEU": _OPEN,
    "BLEU;ROUGE;Other": _OPEN,
    "Other": _OPEN,
}
# Where promptsource's metric does not suit what the prompt asks for: a review is free text, and a
# person's name is not.
_BETTER_METRICS = {"app_reviews_generate_review": _OPEN, "wiki_bio_guess_person": _SPAN}
# T5's vocabulary has no star: all five answers of this prompt would be the same unknown token.
_STARS = "app_reviews_convert_to_star_rating"
# These prompts list the choices in one of 24 orders, one of which misses the right answer. (The
# fourteenth; bigscience-workshop/promptsource, templates of sciq.) Such rows are left out.
_SHOWN_AS = {
    f"sciq_Multiple_Choice{suffix}": "- {}" for suffix in ("", "_Closed_Book_", "_Question_First")
}
# The right answer always stands last among the choices, which would give it away.
_RIGHT_ANSWER_LAST = ("sciq",)


def open_fields(row: Row) -> Row:
    """`inputs`, `answer`, and the answer choices, if there are any, in `choices`."""
    return {"inputs": row["inputs"], "answer": row["answer"], "choices": tuple(row["options"])}


def option_fields(row: Row) -> Row:
    """`inputs`, `answer`, `options`."""
    return {"inputs": row["inputs"], "answer": row["answer"], "options": list(row["options"])}


def starred_fields(row: Row) -> Row:
    """As `open_fields`, with an asterisk for each star."""
    fields = open_fields(row)
    choices = tuple(choice.replace("★", "*") for choice in fields["choices"])
    texts = {name: fields[name].replace("★", "*") for name in ("inputs", "answer")}
    return {**texts, "choices": choices}


def shuffled_options(fields: Row, draws: Draws) -> Row:
    """`fields` with the options in random order."""
    return {**fields, "options": draws.shuffled(fields["options"])}


def cluster_of(category: str) -> str:
    """The cluster of one of Flan's categories: its name without what stands in brackets."""
    return re.sub(r"\W+", "_", category.split("(")[0].strip().lower())


def _define(row: dict[str, str]) -> TaskDefinition:
    name, dataset = row["task"], DATASETS[row["dataset"]]
    separated = row["wrapper"] == SEPARATED
    shuffle = separated and row["dataset"] in _RIGHT_ANSWER_LAST
    to_fields = option_fields if separated else starred_fields if name == _STARS else open_fields
    return TaskDefinition(
        name=name,
        group="t0_sf",
        cluster=cluster_of(row["category"]),
        source=P3Source(
            config=name,
            dataset=row["dataset"],
            prompt=row["prompt"],
            subset=row["subset"],
            split_names=tuple(split for split in ("train", "validation", "test") if row[split]),
            demands=Demands(choice=separated, shown_as=_SHOWN_AS.get(name, "")),
            in_parts=dataset.large,
        ),
        template_file=_HERE / f"{row['wrapper']}.yaml",
        licence=f"{dataset.licence}; prompts Apache-2.0",
        to_fields=to_fields,
        draw_fields=shuffled_options if shuffle else None,
        has_options=separated,
        metrics=_BETTER_METRICS.get(name) or _METRICS[row["metrics"]],
        tags=("p3",),
        cap=CAP,
        num_train=int(row["train"]),
        homepage=dataset.homepage,
        aliases=(f"t0_task_adaptation:{name}",),
        description=f"P3: {dataset.title}; prompt {row['prompt']!r}",
    )


with (_HERE / "tasks.csv").open(encoding="utf-8", newline="") as _file:
    for _row in csv.DictReader(_file):
        register_task(_define(_row))
