"""Instructions that few-shot prompts give once."""

from __future__ import annotations

import pytest

from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.prompts.render import render
from flan_jax.prompts.template import TemplateError, load_templates
from flan_jax.sources.tsv import TsvSource
from flan_jax.tasks import TaskDefinition

TEMPLATES = """\
templates:
- inputs: "Long instruction. Now do {{ item }}"
  targets: "{{ answer }}"
  instruction: "Long instruction."
  shot: "Do {{ item }}"
- inputs: "Just {{ item }}"
  targets: "{{ answer }}"
"""


@pytest.fixture
def task(tmp_path) -> TaskDefinition:
    (tmp_path / "rows.tsv").write_text("".join(f"i{i}\ta{i}\n" for i in range(20)))
    (tmp_path / "t.yaml").write_text(TEMPLATES)
    return TaskDefinition(
        name="own",
        group="own",
        cluster="own",
        source=TsvSource({"train": tmp_path / "rows.tsv"}, columns=("item", "answer")),
        template_file=tmp_path / "t.yaml",
        licence="MIT",
    )


def test_zero_shot_uses_the_whole_input(task):
    example = render(task, "train", 4, seed=0, variant="zs_noopt", template=0)
    assert example.inputs == "Long instruction. Now do i4"


@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_few_shot_gives_it_once_at_the_top(task, mix):
    policy = FewShotPolicy(min_shots=4, max_shots=4, mix_templates=mix)
    for index in range(10):
        example = render(
            task, "train", index, seed=0, variant="fs_noopt", template=0, few_shot=policy
        )
        assert example.inputs.startswith("Long instruction.\n\n")
        assert example.inputs.count("Long instruction.") == 1
        assert example.inputs.count("Now do") == 0
        assert f"Do i{index}" in example.inputs
        assert len(example.exemplars) == 4


def test_a_query_without_instruction_gets_whole_exemplars(task):
    policy = FewShotPolicy(min_shots=4, max_shots=4, mix_templates=1.0)
    texts = [
        render(task, "train", i, seed=0, variant="fs_noopt", template=1, few_shot=policy).inputs
        for i in range(10)
    ]
    assert any("Long instruction. Now do" in text for text in texts)
    assert not any("Do i" in text for text in texts)


def test_the_instruction_counts_in_the_budget(task):
    def words(text: str) -> int:
        return len(text.split())

    policy = FewShotPolicy(min_shots=4, max_shots=4, mix_templates=0.0, max_tokens=12)
    for index in range(10):
        example = render(
            task,
            "train",
            index,
            seed=0,
            variant="fs_noopt",
            template=0,
            few_shot=policy,
            count_tokens=words,
        )
        assert words(example.inputs) <= 12
        assert example.dropped_exemplars > 0
        assert example.inputs.startswith("Long instruction.")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ('instruction: "x"', "`shot` must be a text that is not empty"),
        ('shot: "x"', "`instruction` must be a text that is not empty"),
        (
            'instruction: "x"\n  shot: "{{ item }}{{ options }}"',
            "both show the options, or neither",
        ),
        ('instruction: "{{ x"\n  shot: "x"', r"t\.yaml: templates\[0\]"),
    ],
)
def test_malformed_instructions(tmp_path, extra, message):
    path = tmp_path / "t.yaml"
    path.write_text(f'templates:\n- inputs: "{{{{ item }}}}"\n  targets: "y"\n  {extra}\n')
    with pytest.raises(TemplateError, match=message):
        load_templates(path)


def test_missing_field_of_an_instruction_is_named(task, tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(TEMPLATES.replace('"Long instruction."', '"{{ itme }}"'))
    load_templates.cache_clear()
    with pytest.raises(TemplateError, match="'itme' is undefined; did you mean 'item'"):
        render(task, "train", 0, seed=0, variant="fs_noopt", template=0)
