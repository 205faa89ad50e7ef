"""The renderer: a pure function, with the answer in the form the prompt asks for."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.prompts.fewshot import LAYOUTS, FewShotPolicy
from flan_jax.prompts.options import MARKER_KINDS
from flan_jax.prompts.render import VARIANTS, render, usable_templates
from flan_jax.prompts.template import TemplateError
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.tasks import TaskDefinition

DIRECT = VARIANTS[:4]
SIZES = {"train": 60, "validation": 8, "test": 4}


def _colours(draws: Draws) -> dict:
    options = draws.sample(["red", "blue", "green", "white"], 3)
    number = draws.below(10**6)
    return {"thing": f"thing{number}", "options": options, "answer": draws.choice(options)}


def _double(draws: Draws) -> dict:
    number = draws.below(10**6)
    return {"number": number, "answer": str(2 * number)}


def _task(tmp_path: Path, templates: str, generate=_colours, **kwargs) -> TaskDefinition:
    path = tmp_path / "task.yaml"
    path.write_text(templates, encoding="utf-8")
    source = ProceduralSource("toy", generate, SIZES)
    return TaskDefinition(
        **{"name": "toy", "group": "g", "cluster": "c", "source": source, "template_file": path,
           "licence": "none", "has_options": generate is _colours, **kwargs}
    )  # fmt: skip


COLOURS = """
templates:
- {inputs: "What colour has {{ thing }}?{{ options }}", targets: "{{ answer }}"}
- {inputs: "Say the colour of {{ thing }}.", targets: "{{ answer }}"}
- {inputs: "Which of these is the colour of {{ thing }}?{{ options }}", targets: "{{ answer }}",
   needs_options: true}
- {inputs: "{{ thing }}?{{ options }}", targets: "Its colour is {{ answer }}."}
"""


@pytest.fixture
def colours(tmp_path) -> TaskDefinition:
    return _task(tmp_path, COLOURS)


def _all(task, variants=DIRECT, epochs=3, split="validation", **kwargs):
    return [
        render(task, split, index, seed=5, epoch=epoch, variant=variant, **kwargs)
        for variant in variants
        for index in range(SIZES[split])
        for epoch in range(epochs)
    ]


def test_rendering_is_a_pure_function(colours):
    first = _all(colours)
    random.seed(1)
    assert list(reversed(_all(colours))) == first[::-1]


# One example of each variant: what is drawn must not change unnoticed.
PINNED = {
    "zs_opt": (
        "What colour has thing154003?\nCandidates:\n1: green;\n2: white;\n3: red",
        "3",
    ),
    "zs_noopt": (
        "Say the colour of thing154003.",
        "red",
    ),
    "fs_opt": (
        "In: What colour has thing319274?\n"
        "Options:\n"
        "- green\n"
        "- red\n"
        "- blue\n"
        "Out: red\n"
        "In: What colour has thing154003?\n"
        "Options:\n"
        "- green\n"
        "- white\n"
        "- red\n"
        "Out:",
        "red",
    ),
    "fs_noopt": (
        "thing14093?\nAnswer: Its colour is white.\n---\nthing154003?\nAnswer:",
        "Its colour is red.",
    ),
}


def test_rendering_is_pinned(colours):
    found = {v: render(colours, "validation", 1, seed=0, variant=v) for v in DIRECT}
    assert {v: (e.inputs, e.targets) for v, e in found.items()} == PINNED


def test_seed_epoch_variant_and_index_all_matter(colours):
    base = {"split": "validation", "index": 0, "seed": 0, "epoch": 0, "variant": "zs_opt"}
    for name in ("seed", "epoch", "index"):
        found = {render(colours, **{**base, name: value}).inputs for value in range(8)}
        assert len(found) > 1, name


def test_where_it_comes_from_is_told(colours):
    example = render(colours, "test", 2, seed=9, epoch=4, variant="zs_opt", template=3)
    told = (example.task, example.split, example.index, example.epoch, example.variant)
    assert told == ("toy", "test", 2, 4, "zs_opt")
    assert example.template == 3 and example.targets == f"Its colour is {example.answer}."


def test_shown_options_take_templates_with_a_place_for_them(colours):
    assert usable_templates(colours, "zs_opt") == (0, 2, 3)
    assert usable_templates(colours, "fs_opt") == (0, 2, 3)
    assert usable_templates(colours, "zs_noopt") == (0, 1, 3)  # 2 makes no sense without
    assert {e.template for e in _all(colours, ("zs_opt",))} == {0, 2, 3}
    assert {e.template for e in _all(colours, ("zs_noopt",))} == {0, 1, 3}


def test_options_are_shown_or_not_as_the_variant_says(colours):
    for example in _all(colours):
        options = colours.fields("validation", example.index)["options"]
        shown = [option in example.inputs.split("thing")[-1] for option in options]
        assert all(shown) if example.variant.endswith("_opt") else not any(shown)


def test_the_answer_is_a_marker_only_where_one_is_shown(colours):
    marks = {kind.label(i) for kind in MARKER_KINDS if kind.identifying for i in range(3)}
    by_marker = by_text = 0
    for example in _all(colours, ("zs_opt",), epochs=30):
        fields = colours.fields("validation", example.index)
        position = example.options.index(example.answer)
        assert fields["options"][position] == fields["answer"]
        if example.answer in marks:
            by_marker += 1
            tails = {kind.tail for kind in MARKER_KINDS}
            shown = {f"{example.answer}{tail} {fields['answer']}" for tail in tails}
            assert any(line in example.inputs for line in shown)
            assert example.targets == example.answer and example.template != 3
        else:
            by_text += 1
            assert example.answer == fields["answer"]
    assert by_marker > 50 and by_text > 50


def test_a_sentence_around_the_answer_is_answered_by_text(colours):
    # "Its colour is (B)." would say nothing.
    for epoch in range(40):
        example = render(
            colours, "validation", 0, seed=0, epoch=epoch, variant="zs_opt", template=3
        )
        assert example.answer == colours.fields("validation", 0)["answer"]
        assert "\nOptions:\n- " in example.inputs


def test_few_shot_answers_by_text_so_that_exemplars_agree(colours):
    for example in _all(colours, ("fs_opt", "fs_noopt"), epochs=10):
        assert example.answer == colours.fields("validation", example.index)["answer"]


def test_the_query_is_never_among_its_exemplars(colours):
    for example in _all(colours, ("fs_noopt",), split="train", few_shot=FewShotPolicy(3, 8)):
        assert 3 <= len(example.exemplars) == len(set(example.exemplars)) <= 8
        assert example.index not in example.exemplars
        thing = colours.fields("train", example.index)["thing"]
        assert example.inputs.count(thing) == 1


def test_an_index_of_another_split_is_no_reason_to_leave_a_row_out(colours):
    policy = FewShotPolicy(8, 8)
    examples = _all(colours, ("fs_opt",), epochs=40, few_shot=policy)
    for index in range(SIZES["validation"]):
        used = {row for e in examples if e.index == index for row in e.exemplars}
        assert index in used and len(used) > 50


def test_exemplars_carry_their_own_right_answers(tmp_path):
    task = _task(
        tmp_path, 'templates: [{inputs: "2*{{ number }}", targets: "{{ answer }}"}]', _double
    )
    for example in _all(task, ("fs_noopt",), few_shot=FewShotPolicy(2, 4)):
        for index in example.exemplars:
            fields = task.fields("train", index)
            question = f"2*{fields['number']}"
            after = example.inputs[example.inputs.index(question) + len(question) :]
            starts = [f"{lay.before_target}{fields['answer']}{lay.between}" for lay in LAYOUTS]
            assert after.startswith(tuple(starts))


def test_budgets_are_kept_by_dropping_from_the_front(colours):
    free = _all(colours, ("fs_opt",), few_shot=FewShotPolicy(4, 4))
    tight = _all(
        colours, ("fs_opt",), few_shot=FewShotPolicy(4, 4, max_tokens=300), count_tokens=len
    )
    assert any(e.dropped_exemplars for e in tight)
    for before, after in zip(free, tight, strict=True):
        assert before.exemplars[after.dropped_exemplars :] == after.exemplars
        assert before.inputs.endswith(after.inputs)
        assert len(after.inputs) <= 300 or not after.exemplars


def test_unknown_variants_are_refused(colours):
    with pytest.raises(UserError, match=r"unknown variant 'zs_op'.*did you mean 'zs_opt'"):
        render(colours, "test", 0, seed=0, variant="zs_op")


def test_an_answer_outside_its_options_is_refused(tmp_path):
    def outside(draws: Draws) -> dict:
        return {"thing": draws.below(99), "options": ["a"], "answer": "b"}

    task = _task(tmp_path, COLOURS, outside, has_options=True)
    with pytest.raises(TemplateError, match=r"the answer 'b' is not among the options \['a'\]"):
        render(task, "train", 0, seed=0, variant="zs_opt")


def test_no_template_for_a_variant_is_an_error(tmp_path):
    task = _task(tmp_path, 'templates: [{inputs: "{{ thing }}", targets: "{{ answer }}"}]')
    with pytest.raises(TemplateError, match="toy has no template for variant zs_opt"):
        render(task, "train", 0, seed=0, variant="zs_opt")


def test_without_options_the_opt_variants_are_the_same_kind(tmp_path):
    task = _task(
        tmp_path, 'templates: [{inputs: "2*{{ number }}", targets: "{{ answer }}"}]', _double
    )
    assert render(task, "test", 0, seed=0, variant="zs_opt").options == ()
    assert task.variants() == ("zs_noopt", "fs_noopt")
