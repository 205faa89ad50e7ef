"""Writes docs/samples.md: prompts of the collection, drawn at random, to be read by people.

python -m tests.mixtures.samples
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import flan_jax.mixtures  # noqa: F401 - announces the tasks
from flan_jax.draws import Draws
from flan_jax.mixtures.counts import ALL, tasks_of
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.prompts.render import Example, render, usable_templates
from flan_jax.tasks import TaskDefinition
from tests.mixtures.stand_ins import stand_in_data

PAGE = Path(__file__).parents[2] / "docs" / "samples.md"
SEED, DATASETS, PROMPTS = 2022, 10, 5
_HEAD = """\
# Samples

Prompts of the Flan 2022 collection as a model reads them, with their targets: {prompts} templates
of each of {datasets} template files, all drawn at random (seed {seed}). The rows are made up, in
the form of the datasets: no dataset is copied here, and real rows are often longer. On your data,
`flan-jax tasks sample rte -n 5` shows the same.

This page is written by `python -m tests.mixtures.samples`; a test keeps it in step.
"""


def one_task_a_file() -> dict[str, TaskDefinition]:
    """The first task of each template file, by the file's place among the mixtures."""
    found: dict[str, TaskDefinition] = {}
    for task in tasks_of(ALL):
        file = task.template_file
        found.setdefault(f"{file.parent.name}/{file.stem}", task)
    return found


def drawn(task: TaskDefinition, number: int, draws: Draws) -> Iterator[Example]:
    """Prompts of `number` different templates in any of the task's variants."""
    pairs = [(v, t) for v in task.variants() for t in usable_templates(task, v)]
    size = task.source.num_examples("train")
    assert size is not None
    for variant, template in draws.sample(pairs, number):
        few_shot = FewShotPolicy(max_shots=2)
        index, seed = draws.below(size), draws.below(1 << 30)
        yield render(
            task, "train", index, seed=seed, variant=variant, template=template, few_shot=few_shot
        )


def section(name: str, task: TaskDefinition, draws: Draws) -> str:
    """One dataset's part of the page."""
    lines = [f"## {name.partition('/')[2]}", "", task.description, ""]
    for example in drawn(task, PROMPTS, draws):
        lines += [
            f"`{example.variant}`, template {example.template}",
            "",
            "```text",
            example.inputs,
            "--- target ---",
            example.targets,
            "```",
            "",
        ]
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    files = one_task_a_file()
    draws = Draws(SEED, "samples")
    with tempfile.TemporaryDirectory() as folder, stand_in_data(Path(folder)):
        parts = [
            section(name, files[name], Draws(SEED, "samples", name))
            for name in sorted(draws.sample(sorted(files), DATASETS))
        ]
    head = _HEAD.format(prompts=PROMPTS, datasets=DATASETS, seed=SEED)
    return "\n".join([head, *parts]).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
