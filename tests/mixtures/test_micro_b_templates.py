"""Templates of the micro tasks that test_micro_b.py checks the rows of."""

from __future__ import annotations

import re

import pytest

from flan_jax.mixtures.micro import arithmetic, classification, dates, reading, tables, translation
from flan_jax.prompts.render import VARIANTS, render
from flan_jax.tasks import TaskDefinition, all_tasks

CLUSTERS = {
    module.__name__.rsplit(".", 1)[-1]
    for module in (arithmetic, dates, tables, reading, classification, translation)
}
TASKS = [task for task in all_tasks() if task.group == "micro" and task.cluster in CLUSTERS]
COT_TASKS = [task for task in TASKS if task.styles == ("cot",)]

by_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
by_cot_task = pytest.mark.parametrize("task", COT_TASKS, ids=lambda task: task.name)

# Fields without which a prompt cannot be answered; a template may leave out names and places.
NEEDED = {
    "add_things": ("a", "b"),
    "add_then_take": ("a", "b", "c"),
    "twice_or_half": ("a", "factor"),
    "larger_sum": ("left", "right"),
    "how_many_more": ("a", "goal"),
    "neighbour_day": ("day", "side"),
    "two_days_away": ("day", "side"),
    "last_in_week": ("visits",),
    "days_between": ("start", "end"),
    "clock_later": ("start", "hours"),
    "table_cell": ("table", "name", "column"),
    "table_who": ("table", "value"),
    "table_most": ("table",),
    "table_least": ("table",),
    "table_count": ("table", "colour"),
    "where_now": ("passage", "person"),
    "who_gave": ("passage", "question"),
    "colour_of": ("passage", "thing"),
    "true_by_passage": ("passage", "claim"),
    "first_or_third_stop": ("passage", "when"),
    "second_stop": ("passage",),
    "category_rule": ("kind", "word", "hit", "miss"),
    "even_odd_rule": ("number", "even", "odd"),
    "list_topic": ("words",),
    "good_or_bad": ("good", "bad", "text"),
    "invented_noun": ("glossary", "meaning"),
    "category_odd_one": ("words",),
    "words_to_code": ("key", "words"),
    "code_to_words": ("key", "code"),
    "number_words": ("given", "wanted"),
    "position_code": ("words", "code"),
    "swapped_language": ("key", "phrase"),
}
# Their options are all that the question is about, so those alone may carry it.
OPTIONS_SUFFICE = {"larger_sum", "category_odd_one"}


@by_task
def test_templates_are_many_and_hold_what_is_needed(task: TaskDefinition):
    templates = task.templates()
    name = task.name.removeprefix("micro_").removesuffix("_cot")
    assert len(templates) >= 10
    assert len({template.inputs for template in templates}) == len(templates)
    for template in templates:
        if not (template.needs_options and name in OPTIONS_SUFFICE):
            assert set(NEEDED[name]) <= template.fields, template.where
        assert task.styles == ("cot",) or template.targets == "{{ answer }}", template.where
        assert template.shows_options or not template.needs_options, template.where
    if task.has_options:
        assert sum(template.shows_options for template in templates) >= 6
        assert sum(not template.needs_options for template in templates) >= 4
    else:
        assert not any(template.shows_options for template in templates)


@by_task
def test_every_template_renders_whole(task: TaskDefinition):
    for position, template in enumerate(task.templates()):
        variant = "zs_opt" if template.shows_options else "zs_noopt"
        for index in range(position, 200, 10):
            example = render(task, "validation", index, seed=0, variant=variant, template=position)
            assert example.inputs and example.targets and example.answer
            for text in (example.inputs, example.targets):
                assert not re.search(r"[{}]|None|\n\n|  ", text), text
            if task.has_options and variant == "zs_opt":
                options = task.fields("validation", index)["options"]
                assert all(option in example.inputs for option in options)
                assert example.answer in example.options


@by_task
def test_prompts_are_short(task: TaskDefinition):
    for index in range(100):
        example = render(task, "validation", index, seed=0, variant="zs_noopt")
        # Equation signs and table rules are no words.
        words = re.findall(r"[\w']+", example.inputs)
        assert len(words) <= (40 if task.styles == ("cot",) else 35), example.inputs
        assert task.styles == ("cot",) or len(example.targets.split()) <= 6


@by_task
def test_validation_prompts_are_distinct(task: TaskDefinition):
    inputs = {
        render(task, "validation", index, seed=0, variant="zs_noopt").inputs for index in range(200)
    }
    assert len(inputs) >= 150


@by_task
def test_all_variants_render(task: TaskDefinition):
    for variant in VARIANTS:
        stand_in = task.stand_in(variant)
        if variant.endswith("_inverted"):
            assert stand_in is None  # the collection has no input-inverted templates
            continue
        for index in range(5):
            example = render(task, "validation", index, seed=1, variant=variant)
            assert example.targets and example.variant == stand_in


@by_cot_task
def test_cot_targets_end_with_the_answer(task: TaskDefinition):
    for template in task.templates():
        assert template.targets.startswith("{{ reasoning }} ")
        assert template.targets.endswith("answer is {{ answer }}.")


def test_codes_are_no_words_of_the_prompts():
    codes = {*translation.CODES, *classification.LABELS, *classification.INVENTED}
    for task in TASKS:
        for template in task.templates():
            assert not codes & set(re.findall(r"\w+", template.inputs.lower())), template.where
