"""Template files: what they may hold, and what is said when they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from flan_jax.prompts.template import (
    Template,
    TemplateError,
    fields_of,
    load_templates,
    sections_of,
)


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "task.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_gives_its_sections(tmp_path):
    path = _write(
        tmp_path,
        """
templates:
- inputs: "Spell {{ word }}.{{ options }}"
  targets: "{{ answer }}"
  needs_options: true
- inputs: "{{ word }} is spelt"
  targets: "{{ answer }}"
cot:
- inputs: "Spell {{ word }} slowly."
  targets: "{{ reasoning }} {{ answer }}"
""",
    )
    first, second = load_templates(path)
    assert (first.needs_options, second.needs_options) == (True, False)
    assert (first.shows_options, second.shows_options) == (True, False)
    assert first.fields == {"word", "answer"}
    assert first.where == "task.yaml: templates[0]"
    (cot,) = load_templates(path, "cot")
    assert cot.fields == {"word", "reasoning", "answer"}
    assert not cot.answers_alone


@pytest.mark.parametrize(
    "text, message",
    [
        ("templates: [", "is not valid YAML"),
        ("other: []", "has no list `templates:`"),
        ("[1, 2]", "has no list `templates:`"),
        ("templates: {inputs: a}", "has no list `templates:`"),
        ("templates: [text]", r"templates\[0\]: expected a mapping .* found 'text'"),
        ("templates: [{inputs: a, target: b}]", "unknown key 'target'; did you mean 'targets'?"),
        ("templates: [{inputs: a}]", "`targets` must be a text"),
        ("templates: [{inputs: '  ', targets: b}]", "`inputs` must be a text that is not empty"),
        ("templates: [{inputs: 3, targets: b}]", "`inputs` must be a text"),
        ("templates: [{inputs: '{{ a', targets: b}]", r"templates\[0\]: .*\(line 1 of the pattern"),
        ("templates: [{inputs: a, targets: '{% if %}'}]", r"templates\[0\]: "),
        ("templates: [{inputs: a, targets: b, needs_options: 1}]", "true or false, found 1"),
        ("templates: [{inputs: a, targets: b, allow: form}]", "`allow` must be a list of checks"),
        ("templates: [{inputs: a, targets: b, allow: [from]}]", "'from'; did you mean 'form'"),
    ],
)  # fmt: skip
def test_malformed_files_are_refused_with_the_place(tmp_path, text, message):
    with pytest.raises(TemplateError, match=message):
        load_templates(_write(tmp_path, text))


def test_the_position_of_the_wrong_template_is_named(tmp_path):
    text = "templates:\n- {inputs: a, targets: b}\n- {inputs: a}\n"
    with pytest.raises(TemplateError, match=r"task.yaml: templates\[1\]"):
        load_templates(_write(tmp_path, text))


def test_a_template_may_allow_what_a_check_would_find(tmp_path):
    entry = "{inputs: a, targets: b, allow: [option_talk, form]}"
    path = _write(tmp_path, f"templates: [{entry}]\nfew_shot: [{entry}]\n")
    assert sections_of(path) == ("templates", "few_shot")
    for section in sections_of(path):
        (template,) = load_templates(path, section)
        assert template.allow == ("option_talk", "form")
    assert Template("a", "b").allow == ()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TemplateError, match=r"absent.yaml does not exist"):
        load_templates(tmp_path / "absent.yaml")


def test_a_missing_field_is_an_error_with_a_suggestion():
    template = Template("Spell {{ wrod }}.", "{{ answer }}", where="here")
    with pytest.raises(TemplateError) as caught:
        template.render({"word": "cat", "answer": "c a t"})
    text = str(caught.value)
    assert text.startswith("here: 'wrod' is undefined; did you mean 'word'")
    assert "(fields: answer, options, word)" in text


def test_a_missing_attribute_is_an_error_too():
    with pytest.raises(TemplateError, match="has no attribute 'x'"):
        Template("{{ row.x }}", "{{ answer }}").render({"row": {"y": 1}, "answer": ""})


@pytest.mark.parametrize(
    "pattern", ["{{ ''.__class__.__mro__ }}", "{{ items.append(1) }}", "{{ items.clear() }}"]
)
def test_templates_are_sandboxed(pattern):
    items = [1]
    with pytest.raises(TemplateError):
        Template(pattern, "b").render({"items": items})
    assert items == [1]


def test_text_is_not_escaped_and_ends_are_stripped():
    inputs, targets = Template("\n{{ a }} \n", " {{ b }}").render(
        {"a": "x < y & 'z'", "b": "{{ a }}"}
    )
    assert inputs == "x < y & 'z'"
    assert targets == "{{ a }}"  # a value is text, never a pattern


def test_options_block_stands_where_the_template_says():
    template = Template("Pick.{{ options }}\nNow.", "{{ answer }}")
    assert template.render({"answer": "a"}, "\n- a\n- b")[0] == "Pick.\n- a\n- b\nNow."
    assert template.render({"answer": "a"})[0] == "Pick.\nNow."


@pytest.mark.parametrize(
    "inputs, targets, alone",
    [
        ("{{ q }}", "{{ answer }}", True),
        ("{{ q }}", " {{answer}} ", True),
        ("{{ q }}", "It is {{ answer }}", False),
        ("{{ q }}", "{{ answer | upper }}", False),
        ("Is {{ answer }} right?", "{{ answer }}", False),
        ("{% if answer %}x{% endif %}", "{{ answer }}", False),
    ],
)
def test_answers_alone(inputs, targets, alone):
    assert Template(inputs, targets).answers_alone is alone


def test_fields_of_leaves_out_what_the_pattern_sets_itself():
    pattern = "{% set n = 1 %}{% for w in words %}{{ w }}{{ n }}{% endfor %}{{ loops }}"
    assert fields_of(pattern) == {"words", "loops"}
