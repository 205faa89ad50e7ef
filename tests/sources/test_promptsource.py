"""promptsource's templates over Parquet rows: the format, the conventions, what is left out."""

from __future__ import annotations

import pickle

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.sources import promptsource
from flan_jax.sources.base import Source, SourceError, SourceMissingError
from flan_jax.sources.downloads import Download, ManualDownload
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE
from flan_jax.sources.prompt_templates import PromptTemplate, get_template, read_templates
from flan_jax.sources.promptsource import Demands, PromptsourceSource, match_choice, settle

TEMPLATES = """
dataset: weather
subset: daily
templates:
  0a1b: !Template
    answer_choices: Dry ||| Wet
    id: 0a1b
    jinja: 'Sky: {{sky}}

      Which is it, {{ answer_choices | join(" or ") }}?

      |||

      {{ answer_choices[label] }}'
    metadata: !TemplateMetadata
      choices_in_prompt: true
      languages:
      - en
      metrics:
      - Accuracy
      original_task: true
    name: dry or wet
    reference: ''
  2c3d: !Template
    answer_choices: null
    id: 2c3d
    jinja: '{% if notes %} Sum up: {{ sky }} ||| {{ notes | choice }} {% endif %}'
    metadata: !TemplateMetadata {}
    name: a note
    reference: ''
  4e5f: !Template
    answer_choices: '{{ notes | join("|||") }}'
    id: 4e5f
    jinja: 'Today? ||| {{ notes[0] }}'
    metadata: !TemplateMetadata {}
    name: from notes
    reference: ''
"""
ROWS = [
    {"sky": "blue", "label": 0, "notes": ["warm", "mild", "fair"]},
    {"sky": "grey", "label": 1, "notes": []},
    {"sky": "a ||| b", "label": 1, "notes": ["x|||y", "cold|"]},
    {"sky": "none", "label": 7, "notes": ["calm", "calm"]},
]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder with the templates and rows above, in two files."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    templates = tmp_path / "promptsource/weather/daily/templates.yaml"
    templates.parent.mkdir(parents=True)
    templates.write_text(TEMPLATES)
    for split in ("train", "val"):
        rows = tmp_path / "huggingface/weather/daily" / split
        rows.mkdir(parents=True)
        for part in (0, 1):
            table = pyarrow.Table.from_pylist(ROWS[2 * part : 2 * part + 2])
            pyarrow.parquet.write_table(table, rows / f"000{part}.parquet", row_group_size=1)
    return tmp_path


def source(prompt, **changes):
    return PromptsourceSource("weather", prompt, "daily", ("train", "validation"), **changes)


def test_it_is_a_source_and_touches_nothing_when_made():
    made = source("no such prompt")
    assert isinstance(made, Source)
    assert made.splits() == ("train", "validation")
    assert pickle.loads(pickle.dumps(made)) == made


def test_rows_in_words(data):
    dry = source("dry or wet")
    # The label of the last row has no choice: an empty answer, so the row is left out.
    assert dry.num_examples("train") == 3
    assert dry.left_out("train") == 1
    assert dry.row("train", 0) == {
        "inputs": "Sky: blue\nWhich is it, Dry or Wet?",
        "answer": "Dry",
        "options": ["Dry", "Wet"],
    }
    assert dry.row("train", 2)["inputs"].startswith("Sky: a ||| b\n")
    with pytest.raises(IndexError, match="row 3 of train, which has 3"):
        dry.row("train", 3)


def test_validation_may_be_called_val_on_the_hub(data):
    assert source("dry or wet").row("validation", 1)["answer"] == "Wet"


def test_rows_that_render_to_nothing_are_left_out(data):
    note = source("a note")
    assert note.num_examples("train") == 3
    inputs = [note.row("train", i)["inputs"] for i in range(3)]
    assert inputs == ["Sum up: blue", "Sum up: a ||| b", "Sum up: none"]
    assert note.row("train", 0)["options"] == []


def test_random_choices_depend_on_template_split_and_row_alone(data):
    note = source("a note")
    first = [note.row("train", i)["answer"] for i in range(3)]
    assert [note.row("train", i)["answer"] for i in (2, 1, 0)] == first[::-1]
    assert first[0] in ROWS[0]["notes"]
    template = get_template(data / "promptsource/weather/daily/templates.yaml", "a note")
    drawn = {template.apply(ROWS[0], "train", i).answer for i in range(60)}
    assert drawn == set(ROWS[0]["notes"])


def test_choices_with_pipes_stay_whole(data):
    row = source("from notes").row("train", 1)
    assert row["options"] == ["x|||y", "cold|"]
    assert row["answer"] == "x|||y"


def test_a_demanded_choice_leaves_out_rows_without_two_options(data):
    assert source("from notes").num_examples("train") == 3
    assert source("from notes", demands=Demands(choice=True)).num_examples("train") == 2


def test_which_rows_fit_is_worked_out_once_for_each_template_text(data, monkeypatch):
    assert source("dry or wet").num_examples("train") == 3
    promptsource._open.cache_clear()
    applied = []
    apply = PromptTemplate.apply
    monkeypatch.setattr(PromptTemplate, "apply", lambda *args: applied.append(args) or apply(*args))
    assert source("dry or wet").num_examples("train") == 3
    assert not applied
    path = data / "promptsource/weather/daily/templates.yaml"
    path.write_text(
        TEMPLATES.replace("Dry ||| Wet", "Dry ||| Wet ||| a ||| b ||| c ||| d ||| e ||| f")
    )
    read_templates.cache_clear()
    assert source("dry or wet").num_examples("train") == 4
    assert applied


def test_errors_name_file_template_and_row(data):
    path = data / "promptsource/weather/daily/templates.yaml"
    with pytest.raises(SourceError, match=r"no template 'dry or we'.*dry or wet"):
        source("dry or we").num_examples("train")
    path.write_text(TEMPLATES.replace("{{sky}}", "{{skies}}"))
    read_templates.cache_clear()
    with pytest.raises(SourceError, match=r"'dry or wet' uses the column 'skies'.*lacks.*sky"):
        source("dry or wet").num_examples("train")
    path.write_text(TEMPLATES.replace("{{sky}}", "{{ sky + label }}"))
    read_templates.cache_clear()
    with pytest.raises(SourceError, match=r"templates.yaml: template 'dry or wet'.*row train 0"):
        source("dry or wet").num_examples("train")


def test_missing_files_are_named(data):
    (data / "huggingface/weather/daily/train/0000.parquet").unlink()
    (data / "huggingface/weather/daily/train/0001.parquet").unlink()
    with pytest.raises(SourceMissingError, match="huggingface/weather/daily/train"):
        source("dry or wet").check_present()
    (data / "promptsource/weather/daily/templates.yaml").unlink()
    with pytest.raises(SourceMissingError, match=r"templates.yaml does not exist"):
        source("dry or wet").check_present()


def test_downloads():
    template, rows = source("dry or wet").downloads()
    assert isinstance(template, Download)
    assert template.path == "promptsource/weather/daily/templates.yaml"
    assert template.url.endswith("/promptsource/templates/weather/daily/templates.yaml")
    assert rows == ManualDownload("huggingface/weather/daily", rows.how)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("templates: [1, 2", "not a YAML file"),
        ("templates: !!python/object/apply:os.getcwd []", "not a YAML file"),
        ("templates: !Template [1]", "expected a mapping"),
        ("templates: {}", "no mapping `templates:`"),
        ("dataset: x", "no mapping `templates:`"),
        ("templates: {a: 3}", "template a must be a mapping"),
        ("templates: {a: !Template {name: n, jinja: ''}}", "'n': `jinja` must be a text"),
        ("templates: {a: !Template {name: n, jinja: '{% if'}}", "'n': .*line 1"),
        (
            "templates: {a: !Template {name: n, jinja: x, answer_choices: 3}}",
            "'n': `answer_choices` must be",
        ),
        (
            "templates: {a: !Template {name: n, jinja: x}, b: !Template {name: n, jinja: y}}",
            "two templates have this name",
        ),
    ],
)
def test_malformed_template_files(tmp_path, content, message):
    path = tmp_path / "templates.yaml"
    path.write_text(content)
    with pytest.raises(SourceError, match=message):
        read_templates(path)


def test_templates_are_sandboxed():
    template = PromptTemplate("t", "{{ x.__class__.__mro__ }} ||| {{ x }}", where="here")
    with pytest.raises(SourceError, match="here: the template fails at row 3: SecurityError"):
        template.apply({"x": "a"}, 3)


def test_helpers_of_promptsource():
    pattern = (
        "{% for a, b in zip(left, right) %}{{ a }}{{ b }} {% endfor %}|||"
        "{{ items | most_frequent | join(',') }} {{ 'seen' | highlight }}"
    )
    row = {"left": ["a", "b"], "right": [1, 2], "items": ["x", "y", "x", "z", "z"]}
    prompted = PromptTemplate("t", pattern).apply(row, 0)
    assert (prompted.inputs, prompted.answer) == ("a1 b2", "x,z seen")


def test_hyphens_in_column_names():
    template = PromptTemplate("t", "{{ the_text }} ||| {{ label }}")
    assert template.apply({"the-text": "hello", "label": 0}).inputs == "hello"


def test_choice_of_nothing_leaves_the_row_out():
    template = PromptTemplate("t", "Q ||| {{ items | most_frequent | choice }}")
    assert template.apply({"items": []}, 1) is None
    assert template.apply({"items": [5]}, 1).answer == "5"


TEXT = st.text(st.sampled_from("ab| \n"), max_size=12)


@given(left=TEXT, right=TEXT)
def test_texts_of_a_row_never_count_as_separators(left, right):
    prompted = PromptTemplate("t", "{{ left }}|||{{ right }}").apply({"left": left, "right": right})
    if left.strip() and right.strip():
        assert (prompted.inputs, prompted.answer) == (left.strip(), right.strip())
    else:
        assert prompted is None


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_choices_come_back_as_they_were(choices):
    template = PromptTemplate("t", "Q ||| A", "{{ items | join('|||') }}")
    assert template.apply({"items": choices}).options == tuple(c.strip() for c in choices)


@given(st.lists(st.text(st.sampled_from("ab|"), max_size=6), min_size=1, max_size=6))
def test_only_two_parts_make_a_prompt(parts):
    pattern = "|||".join(parts)
    prompted = PromptTemplate("t", pattern).apply({})
    split = pattern.split("|||")
    assert (prompted is not None) == (len(split) == 2 and all(split))
    if prompted is not None:
        assert [prompted.inputs, prompted.answer] == split


CHOICE = Demands(choice=True)


def test_settle():
    assert settle(" q ", " yes ", ["Yes ", "No", "No", ""], CHOICE) == {
        "inputs": "q",
        "answer": "Yes",
        "options": ["Yes", "No"],
    }
    assert settle("q", "yes", ["Yes", "No"], Demands())["answer"] == "yes"
    assert settle("q", "maybe", ["Yes", "No"], CHOICE) is None
    assert settle("q", "Yes", ["Yes", "Yes "], CHOICE) is None
    assert settle("q", "<NO LABEL>", [], Demands()) is None
    assert settle(" ", "a", [], Demands()) is None
    listed = Demands(shown_as="- {}")
    assert settle("Atoms? - ions - cells", "ions", [], listed)
    assert settle("Atoms and ions? - cells", "ions", [], listed) is None
    assert match_choice("YES", ["yes", "YES"]) == "YES"
    assert match_choice("two  words", ["Two Words"]) == "Two Words"
