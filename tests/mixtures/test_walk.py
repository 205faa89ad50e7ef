"""A walk through the whole collection: every task, variant and template over stand-in rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import flan_jax.mixtures  # noqa: F401 - announces the tasks
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.prompts.options import HEADINGS
from flan_jax.prompts.render import Example, render, usable_templates
from flan_jax.prompts.template import Template
from flan_jax.tasks import TaskDefinition, all_tasks
from tests import conftest
from tests.mixtures.stand_ins import stand_in_data

GROUPS = {
    "muffin": 73,  # 72 to train on, and WSC273
    "t0_sf": 193,
    "niv2": 1_556,
    "cot": 9,
    "dialog": 3,
    "program_synthesis": 5,
    "gsm8k": 2,
}
TASKS = all_tasks()
# All Natural Instructions tasks have the same templates: these see all of them, the others a few.
NIV2 = [task for task in TASKS if task.group == "niv2"]
NIV2_IN_FULL = NIV2[::300]
IN_FULL = [task for task in TASKS if task.group != "niv2"] + NIV2_IN_FULL
# In words: T5's tokens need not be there. More than any exemplars of the stand-ins have.
ROOMY, NARROW = 2_000, 60
# Not in T5's vocabulary, or taken for markup.
FORBIDDEN = set("{}<>~^`|\\")
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.S)


def words(text: str) -> int:
    return len(text.split())


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with stand_in_data(
        tmp_path_factory.mktemp("collection"), conftest.test_data_folder()
    ) as folder:
        yield folder


def split_of(task: TaskDefinition) -> str:
    return task.source.splits()[0]


def policy(task: TaskDefinition, budget: int = ROOMY) -> FewShotPolicy:
    return FewShotPolicy(split=split_of(task), max_tokens=budget)


def shown(task: TaskDefinition, index: int, variant: str, template: int | None) -> Example:
    return render(
        task,
        split_of(task),
        index,
        seed=11,
        epoch=index,
        variant=variant,
        template=template,
        few_shot=policy(task),
        count_tokens=words,
    )


def check(task: TaskDefinition, example: Example, asked: tuple[int, str, int | None]) -> None:
    """What must hold for every example of the collection."""
    index, variant, position = asked
    where = f"{task.name} {variant} {position} row {index}"
    assert example.inputs.strip() and example.targets.strip(), where
    assert example.inputs == example.inputs.strip() or variant.startswith("fs"), where
    assert (example.task, example.split, example.index, example.epoch) == (
        (task.name, split_of(task), index, index)
    ), where
    if example.variant != variant:  # no exemplar fitted, so it is zero-shot
        assert example.variant == variant.replace("fs_", "zs_") and example.dropped_exemplars, where
        assert not example.exemplars, where
    elif position is not None:
        assert example.template == position, where
    template = task.templates_of(example.variant)[example.template]
    check_options(task, template, example, where)
    check_exemplars(task, template, example, where)


def check_options(task: TaskDefinition, template: Template, example: Example, where: str) -> None:
    answered = template.asks_answer
    assert example.answer in example.references and example.answer in example.targets, where
    lines = example.inputs.splitlines()
    if not task.has_options or not answered:
        assert example.options == () == example.option_texts, where
    else:
        fields = task.fields(example.split, example.index)
        assert sorted(example.option_texts) == sorted(fields["options"]), where
        assert example.answer_text == fields["answer"] in example.option_texts, where
        assert example.answer in example.options, where
        assert len(set(example.options)) == len(example.option_texts), where
        assert set(example.references) <= set(example.options), where
    if example.variant.endswith("_opt") and answered:
        assert template.shows_options, where
        marked = dict(zip(example.options, example.option_texts, strict=True))
        for label, text in marked.items():
            assert text in example.inputs and label in example.inputs, where
        position = example.option_texts.index(example.answer_text)
        assert example.answer == example.options[position], where
    elif task.has_options and not example.variant.endswith("_opt"):  # nowhere a list of them
        own = template.inputs + template.instruction
        assert not [line for line in lines if line in HEADINGS and line not in own], where
        assert example.options == example.option_texts, where


def check_exemplars(task: TaskDefinition, template: Template, example: Example, where: str) -> None:
    if example.variant.startswith("zs") or not template.exemplars:
        assert example.exemplars == (), where
        return
    assert example.exemplars, where
    assert example.index not in example.exemplars, where
    assert len(set(example.exemplars)) == len(example.exemplars), where
    assert words(example.inputs) <= ROOMY, where
    # The query comes last, and is left open where exemplars have their targets.
    if template.layout:
        assert example.inputs.endswith(template.layout.before_target.rstrip()), where


@pytest.mark.parametrize("group", GROUPS)
def test_all_tasks_are_there(group: str):
    names = [task.name for task in TASKS if task.group == group]
    assert len(names) == len(set(names)) == GROUPS[group]


def test_held_out_tasks_are_those_to_test_on():
    held_out = {task.name for task in TASKS if task.held_out and task.group in GROUPS}
    assert held_out == {"wsc273"}


@pytest.mark.parametrize("task", IN_FULL, ids=lambda task: task.name)
def test_every_template_in_every_variant(task: TaskDefinition):
    task.source.check_present()
    size = task.source.num_examples(split_of(task))
    assert size is None or size >= 2
    for variant in task.variants():
        found = set()
        for position in usable_templates(task, variant):
            template = task.templates_of(variant)[position]
            for index in (position % 2, position % 2 + (1 if size == 2 else 2)):
                index %= size or index + 1
                if not template.usable_for(task.fields(split_of(task), index)):
                    continue
                example = shown(task, index, variant, position)
                check(task, example, (index, variant, position))
                found.add(position)
        optional = {i for i, template in enumerate(task.templates_of(variant)) if template.requires}
        assert found >= set(usable_templates(task, variant)) - optional


@pytest.mark.parametrize("part", range(8))
def test_every_natural_instructions_task(part: int):
    for task in NIV2[part::8]:
        for variant in ("zs_noopt", "fs_noopt"):
            for index in (0, 1):
                check(task, shown(task, index, variant, None), (index, variant, None))


@pytest.mark.parametrize("task", IN_FULL, ids=lambda task: task.name)
def test_the_budget_holds(task: TaskDefinition):
    """Whatever has exemplars is within the budget; else it is the zero-shot prompt."""
    for variant in task.variants():
        if not variant.startswith("fs"):
            continue
        for index in (0, 1):
            example = render(
                task, split_of(task), index, seed=5, variant=variant,
                few_shot=policy(task, NARROW), count_tokens=words,
            )  # fmt: skip
            assert not example.exemplars or words(example.inputs) <= NARROW
            assert (
                example.exemplars
                or example.variant.startswith("zs")
                or (words(example.inputs) <= NARROW)
            )


def test_the_same_draws_give_the_same_text():
    for task in IN_FULL[::7]:
        for variant in task.variants():
            assert shown(task, 1, variant, None) == shown(task, 1, variant, None)


def test_own_words_can_be_written():
    """No template has a character of its own that T5's vocabulary lacks."""
    for file in sorted({task.template_file for task in TASKS}):
        task = next(task for task in TASKS if task.template_file == file)
        if task.group.startswith("micro"):  # it has a vocabulary of its own
            continue
        for template in (t for section in task.sections().values() for t in section):
            layout = template.layout
            around = (layout.before_input, layout.before_target, layout.between) if layout else ()
            patterns = (template.inputs, template.targets, template.instruction, template.shot)
            own = "".join(_JINJA.sub("", text) for text in (*patterns, *around))
            assert not FORBIDDEN & set(own), template.where


def test_how_many_prompts_there_are(capsys: pytest.CaptureFixture[str]):
    """Ten templates or more for every task, zero- and few-shot, as in Flan 2022."""
    pairs: Counter[tuple[str, str]] = Counter()
    for task in TASKS:
        if task.group not in GROUPS:
            continue
        for section, templates in task.sections().items():
            assert len(templates) >= 10 or task.group == "gsm8k", (task.name, section)
            pairs[task.group, section] += len(templates)
    with capsys.disabled():
        print("\ntask x template pairs:")
        for (group, section), count in pairs.items():
            print(f"  {group:18} {section:18} {count:6,}")
        print(f"  {'all':37} {sum(pairs.values()):6,}")
