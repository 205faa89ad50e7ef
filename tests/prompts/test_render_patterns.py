"""The renderer with few-shot patterns, input-inverted templates, and what is drawn per example."""

from __future__ import annotations

from pathlib import Path

import pytest

from flan_jax.draws import Draws
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.prompts.options import MARKER_KINDS
from flan_jax.prompts.render import Example, render, usable_templates
from flan_jax.prompts.template import TemplateError
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.tasks import TaskDefinition

SIZES = {"train": 40, "validation": 10}
COLOURS = ["red", "blue", "green", "white"]
ALWAYS_MIXED = FewShotPolicy(3, 3, mix_templates=1.0)
NEVER_MIXED = FewShotPolicy(3, 3, mix_templates=0.0)


def _colours(draws: Draws) -> dict:
    number = draws.below(10**6)
    return {"thing": f"thing{number}", "options": COLOURS, "answer": draws.choice(COLOURS)}


def _noted(draws: Draws) -> dict:
    """Rows of which about half have a note."""
    row = _colours(draws)
    return {**row, "note": f"note{row['thing'][5:]}" if draws.chance(0.5) else ""}


def _task(
    folder: Path, text: str, generate=_colours, sizes=SIZES, has_options=True, **kwargs
) -> TaskDefinition:
    path = folder / "task.yaml"
    path.write_text(text, encoding="utf-8")
    source = ProceduralSource("toy", generate, sizes)
    return TaskDefinition("toy", "g", "c", source, path, "none", has_options=has_options, **kwargs)


def _all(task: TaskDefinition, variant: str, split="validation", epochs=6, **kwargs):
    return [
        render(task, split, index, seed=3, epoch=epoch, variant=variant, **kwargs)
        for index in range(SIZES[split])
        for epoch in range(epochs)
    ]


def _row(task: TaskDefinition, split: str, index: int) -> dict:
    return dict(task.fields(split, index))


ZERO = """
templates:
- {inputs: "Which colour has {{ thing }}?{{ options }}", targets: "{{ answer }}"}
"""
PATTERN = (
    ZERO
    + r"""
few_shot:
- inputs: "{{ thing }}{{ options }}"
  targets: "{{ answer }}"
  before_input: "T: "
  before_target: "\nC: "
  between: "\n###\n"
  opening: "Colours of {{ thing }} and others."
"""
)


@pytest.mark.parametrize("variant", ["fs_opt", "fs_noopt"])
def test_a_pattern_brings_its_layout_and_opening(tmp_path, variant):
    task = _task(tmp_path, PATTERN)
    block = "\nOptions:\n- red\n- blue\n- green\n- white" if variant == "fs_opt" else ""
    for example in _all(task, variant, few_shot=NEVER_MIXED):
        query = _row(task, "validation", example.index)
        shots = [_row(task, "train", index) for index in example.exemplars]
        lines = [f"T: {row['thing']}{block}\nC: {row['answer']}\n###\n" for row in shots]
        assert len(lines) == 3
        opening = f"Colours of {query['thing']} and others.\n\n"
        assert example.inputs == f"{opening}{''.join(lines)}T: {query['thing']}{block}\nC:"
        assert example.targets == query["answer"]


def test_zero_shot_prompts_have_none_of_the_patterns(tmp_path):
    task = _task(tmp_path, PATTERN)
    for example in _all(task, "zs_noopt"):
        thing = _row(task, "validation", example.index)["thing"]
        assert example.inputs == f"Which colour has {thing}?"


MIXED = (
    ZERO
    + r"""
few_shot:
- {inputs: "{{ thing }}", targets: "{{ answer }}", before_input: "A: ", before_target: " -- "}
- {inputs: "{{ thing }}", targets: "{{ answer }}", before_input: "B: ", before_target: " == "}
- {inputs: "{{ answer }}", targets: "{{ thing }}", before_input: "C: ", before_target: " :: "}
- {inputs: "{{ answer }}", targets: "{{ thing }}", before_input: "D: ", before_target: " .. "}
"""
)
MARKS = {"A": " -- ", "B": " == ", "C": " :: ", "D": " .. "}


def test_mixed_exemplars_ask_for_what_the_query_asks_for(tmp_path):
    task = _task(tmp_path, MIXED)
    pairs = set()
    for example in _all(task, "fs_noopt", few_shot=ALWAYS_MIXED):
        *shots, query = example.inputs.split("\n\n")
        assert query[0] in ("AB" if example.template < 2 else "CD")
        for shot, index in zip(shots, example.exemplars, strict=True):
            row = _row(task, "train", index)
            asked = [row["thing"], row["answer"]][:: 1 if shot[0] in "AB" else -1]
            # Each exemplar's words are those of its own pattern.
            assert shot == f"{shot[0]}: {asked[0]}{MARKS[shot[0]]}{asked[1]}"
            pairs.add((query[0], shot[0]))
    assert pairs == {(a, b) for kind in ("AB", "CD") for a in kind for b in kind}


def test_without_mixing_exemplars_look_like_the_query(tmp_path):
    for example in _all(_task(tmp_path, MIXED), "fs_noopt", few_shot=NEVER_MIXED):
        assert len({part[0] for part in example.inputs.split("\n\n")}) == 1


REQUIRES = (
    ZERO
    + r"""
- {inputs: "{{ note }}: which colour?{{ options }}", targets: "{{ answer }}", requires: note}
few_shot:
- {inputs: "{{ thing }}", targets: "{{ answer }}", before_input: "P: "}
- {inputs: "{{ thing }}", targets: "{{ note }}", before_input: "N: ", requires: note}
"""
)


@pytest.mark.parametrize("variant", ["zs_noopt", "zs_opt"])
def test_a_template_is_used_only_for_rows_that_have_what_it_requires(tmp_path, variant):
    task = _task(tmp_path, REQUIRES, _noted)
    used = {True: set(), False: set()}
    for example in _all(task, variant):
        used[bool(_row(task, "validation", example.index)["note"])].add(example.template)
    assert used == {True: {0, 1}, False: {0}}
    assert usable_templates(task, variant) == (0, 1)
    assert usable_templates(task, variant, {"note": ""}) == (0,)


@pytest.mark.parametrize("policy", [ALWAYS_MIXED, NEVER_MIXED])
def test_exemplars_have_what_their_pattern_requires(tmp_path, policy):
    task = _task(tmp_path, REQUIRES, _noted)
    found = [e for e in _all(task, "fs_noopt", few_shot=policy) if e.inputs.startswith("N: ")]
    assert len(found) > 5
    for example in found:
        assert _row(task, "validation", example.index)["note"] == example.targets
        rows = [_row(task, "train", index) for index in example.exemplars]
        assert all(row["note"] for row in rows)
        lines = [f"N: {row['thing']}\n{row['note']}\n\n" for row in rows]
        query = f"N: {_row(task, 'validation', example.index)['thing']}"
        assert example.inputs == "".join(lines) + query
    # Some of the three that were drawn had no note.
    assert {len(e.exemplars) for e in found} > {3}


SHOWN = (
    ZERO
    + r"""
few_shot:
- {inputs: "x red, y blue, {{ thing }}", targets: "{{ answer }}", before_target: " ", exemplars: no}
- {inputs: "Q {{ thing }}", targets: "{{ answer }}"}
"""
)


def test_a_pattern_that_shows_its_own_examples_gets_none(tmp_path):
    task = _task(tmp_path, SHOWN)
    for example in _all(task, "fs_noopt", few_shot=ALWAYS_MIXED):
        thing = _row(task, "validation", example.index)["thing"]
        if example.template == 0:
            assert example.inputs == f"x red, y blue, {thing}" and example.exemplars == ()
        else:  # nor is it one of another's exemplars
            assert len(example.exemplars) == 3 and "x red" not in example.inputs
        assert example.variant == "fs_noopt"


NEGATIVE = """
templates:
- {inputs: "{{ thing }}{{ options }}", targets: "{{ answer }}"}
- {inputs: "Not {{ negative_examples[0] }}: {{ thing }}", targets: "{{ answer }}",
   requires: negative_examples}
"""


def _wrong(draws: Draws) -> dict:
    return {**_colours(draws), "negative_examples": ["purple"]}


def test_examples_of_what_not_to_do_are_shown_only_where_the_policy_says_so(tmp_path):
    task = _task(tmp_path, NEGATIVE, _wrong)
    assert {e.template for e in _all(task, "zs_noopt")} == {0}
    policy = FewShotPolicy(negative_examples=True)
    assert {e.template for e in _all(task, "zs_noopt", few_shot=policy)} == {0, 1}


INVERTED = """
templates:
- {inputs: "Colour of {{ thing }}?{{ options }}", targets: "{{ answer }}"}
- {inputs: "Name something {{ answer }}.", targets: "{{ thing }}"}
- {inputs: "Name something that is {{ answer }} among{{ options }}", targets: "{{ thing }}"}
"""


@pytest.mark.parametrize("variant", ["zs_opt", "zs_noopt", "fs_opt", "fs_noopt"])
def test_input_inverted_templates_name_the_answer_in_words(tmp_path, variant):
    task = _task(tmp_path, INVERTED)
    examples = _all(task, variant, few_shot=ALWAYS_MIXED)
    assert {example.template for example in examples} == {0, 1, 2}
    for example in examples:
        if example.template == 0:
            continue
        row = _row(task, "validation", example.index)
        query = example.inputs[example.inputs.rindex("Name something") :]
        assert row["answer"] in query.split("\n")[0]
        assert example.targets == example.answer == example.answer_text == row["thing"]
        assert example.options == example.option_texts == ()
        assert example.references == (row["thing"],)


@pytest.mark.parametrize("variant", ["zs_opt", "zs_noopt", "fs_opt", "fs_noopt"])
def test_who_wants_answers_gets_no_input_inverted_templates(tmp_path, variant):
    task = _task(tmp_path, INVERTED)
    examples = _all(task, variant, answers_only=True)
    assert {example.template for example in examples} == {0}
    assert {example.answer_text for example in examples} <= set(COLOURS)


def test_the_inverted_style_has_nothing_else(tmp_path):
    text = 'inverted: [{inputs: "Name something {{ answer }}.", targets: "{{ thing }}"}]'
    task = _task(tmp_path, text, styles=("inverted",))
    example = render(task, "validation", 0, seed=0, variant="zs_inverted", answers_only=True)
    assert example.targets == _row(task, "validation", 0)["thing"]


def test_an_opt_variant_needs_a_template_that_shows_options_or_is_inverted(tmp_path):
    text = 'templates: [{inputs: "{{ thing }}", targets: "{{ answer }}"}]'
    with pytest.raises(TemplateError, match="toy has no template for variant fs_opt"):
        render(_task(tmp_path, text), "validation", 0, seed=0, variant="fs_opt")


def _zero_shot_words(task: TaskDefinition, example: Example) -> str:
    return render(task, "validation", example.index, seed=3, epoch=example.epoch,
                  variant=example.variant, template=example.template).inputs  # fmt: skip


@pytest.mark.parametrize(
    "text", [PATTERN, SHOWN, MIXED, INVERTED], ids="pattern shown mixed inv".split()
)
def test_where_nothing_fits_the_query_is_worded_zero_shot(tmp_path, text):
    task = _task(tmp_path, text)
    examples = _all(task, "fs_noopt", few_shot=FewShotPolicy(max_tokens=4), count_tokens=len)
    for example in examples:
        assert (example.variant, example.exemplars) == ("zs_noopt", ())
        assert example.inputs == _zero_shot_words(task, example)
        row = _row(task, "validation", example.index)
        assert row["thing"] in example.inputs or row["answer"] in example.inputs
    dropped = {example.dropped_exemplars for example in examples}
    assert dropped <= {0, 1, 2, 3, 4} and max(dropped) > 0


@pytest.mark.parametrize("budget", [30, 60, 90, 120, 1000])
def test_the_query_is_never_dropped(tmp_path, budget):
    task = _task(tmp_path, PATTERN)
    policy = FewShotPolicy(1, 4, max_tokens=budget)
    for example in _all(task, "fs_opt", few_shot=policy, count_tokens=len):
        thing = _row(task, "validation", example.index)["thing"]
        assert thing in example.inputs
        if example.variant == "fs_opt":
            assert len(example.inputs) <= budget and example.exemplars
        else:
            assert not example.exemplars and example.dropped_exemplars


def test_a_row_that_is_alone_in_its_split_has_no_exemplars_and_is_worded_zero_shot(tmp_path):
    task = _task(tmp_path, PATTERN, sizes={"train": 1})
    example = render(task, "train", 0, seed=0, variant="fs_noopt")
    assert (example.variant, example.exemplars, example.dropped_exemplars) == ("zs_noopt", (), 0)
    assert example.inputs == f"Which colour has {_row(task, 'train', 0)['thing']}?"


def test_a_row_is_never_its_own_exemplar(tmp_path):
    task = _task(tmp_path, MIXED, sizes={"train": 4})
    for index in range(4):
        for epoch in range(20):
            example = render(task, "train", index, seed=0, epoch=epoch, variant="fs_noopt",
                             few_shot=FewShotPolicy(1, 8))  # fmt: skip
            assert 1 <= len(example.exemplars) <= 3 and index not in example.exemplars
            assert example.inputs.count(_row(task, "train", index)["thing"]) == (
                1 if example.template < 2 else 0
            )


# ------------------------------------------------------------------------------ options, references


def _several(draws: Draws) -> dict:
    row = _colours(draws)
    return {**row, "answers": (row["answer"], "red", "not an option")}


def test_references_are_what_the_prompt_asks_for(tmp_path):
    task = _task(tmp_path, ZERO, _several)
    by_marker = 0
    for example in _all(task, "zs_opt", epochs=20):
        right = dict.fromkeys((example.answer_text, "red"))
        labels = dict(zip(example.option_texts, example.options, strict=True))
        assert example.references == tuple(labels[text] for text in right)
        assert example.references[0] == example.answer == example.targets
        by_marker += example.answer != example.answer_text
    assert by_marker > 50
    for example in _all(task, "zs_noopt"):
        assert set(example.references) == {example.answer, "red"}


def test_open_questions_have_all_their_references(tmp_path):
    text = 'templates: [{inputs: "{{ thing }}", targets: "{{ answer }}"}]'

    def generate(draws: Draws) -> dict:
        number = str(draws.below(10**6))
        return {"thing": number, "answer": number, "answers": (number, f"about {number}")}

    task = _task(tmp_path, text, generate, has_options=False)
    for example in _all(task, "zs_noopt"):
        assert example.references == (example.answer, f"about {example.answer}")


MANY = [f"choice number {i}" for i in range(60)]


def test_any_number_of_options_can_be_told_apart(tmp_path):
    def generate(draws: Draws) -> dict:
        thing = f"thing{draws.below(10**6)}"
        return {"thing": thing, "options": MANY, "answer": draws.choice(MANY[26:])}

    task = _task(tmp_path, ZERO, generate)
    marks = set()
    for example in _all(task, "zs_opt", epochs=30):
        assert len(set(example.options)) == len(MANY)
        position = MANY.index(example.answer_text)
        assert example.answer == example.options[position]
        line = example.inputs.split("\n")[2 + position]
        assert line.rstrip(";,").endswith(example.answer_text)
        if example.answer != example.answer_text:
            # What ends a marker may be no part of the answer: `(B).` is answered by `(B)`.
            assert line.split(" ")[0].rstrip(".:/") == example.answer.rstrip(".")
            marks.add(example.answer)
    assert any("AA" <= mark.strip("()[].:,/") <= "BH" for mark in marks)


def test_a_single_option_is_never_answered_by_a_marker(tmp_path):
    def generate(draws: Draws) -> dict:
        return {"thing": f"thing{draws.below(10**6)}", "options": ["red"], "answer": "red"}

    task = _task(tmp_path, ZERO, generate)
    first_marks = set()
    for variant in ("zs_opt", "fs_opt"):
        for example in _all(task, variant, epochs=20):
            assert example.targets == "red" and example.options == ("red",)
            first_marks.add(example.inputs.split("\n")[2].split(" ")[0])
    assert first_marks & {kind.mark(0) for kind in MARKER_KINDS if kind.identifying}


# ------------------------------------------------------------------------ what is drawn per example


def _cut(fields, draws: Draws) -> dict:
    return {**fields, "cut": f"cut{draws.below(10**6)}"}


def test_fields_are_drawn_anew_in_each_epoch_and_for_each_row(tmp_path):
    text = 'templates: [{inputs: "{{ thing }} {{ cut }}", targets: "{{ answer }}"}]'
    task = _task(tmp_path, text, draw_fields=_cut, has_options=False)

    def cut(index: int, epoch: int, variant: str = "zs_noopt", seed: int = 0) -> str:
        example = render(task, "validation", index, seed=seed, epoch=epoch, variant=variant)
        return example.inputs.rsplit("cut", 1)[1].split()[0]

    found = {(index, epoch): cut(index, epoch) for index in range(5) for epoch in range(5)}
    assert len(set(found.values())) == 25
    assert found == {(index, epoch): cut(index, epoch) for index, epoch in reversed(found)}
    assert cut(0, 0, seed=1) != found[0, 0]
    # All variants of an example are about the same fields.
    assert [cut(i, 2, "fs_noopt") for i in range(5)] == [found[i, 2] for i in range(5)]
