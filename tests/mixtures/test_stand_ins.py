"""The stand-in rows are of the form that TFDS's builders give, and more of that form fit too."""

from __future__ import annotations

import json

import pytest

from flan_jax.sources.plain import plain
from flan_jax.sources.tfds_folders import BuilderName
from flan_jax.tasks import get_task
from tests.mixtures.stand_ins import ROWS, builder_rows, tfds_tasks

tfds = pytest.importorskip("tensorflow_datasets")

BUILDERS = sorted({task.source.builder for task in tfds_tasks()})
# What no row of random letters and numbers has, but these filters want: whole words, marks between
# parts, one of the options as answer, a label within bounds.
NEVER_KEPT = {
    *("coqa", "definite_pronoun_resolution", "e2e_nlg", "fix_punct"),
    *("multi_news", "record", "sentiment140", "story_cloze", "true_case"),
    *("trivia_qa_wiki_missing", "unified_qa_science_inst", "winogrande", "wsc"),
}
# The builder gives these labels as plain numbers, random ones here: how many there are.
LABELS = {"wsc273": 2}


@pytest.fixture(scope="module")
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("empty"))


def test_every_file_of_rows_stands_in_for_a_builder():
    names = set()
    for builder in BUILDERS:
        name = BuilderName.parse(builder)
        names |= {name.name, f"{name.name}_{name.config}"}
    assert {path.stem for path in ROWS.glob("*.json")} <= names


@pytest.mark.parametrize("builder", BUILDERS)
def test_rows_are_of_the_builders_form(builder: str, nowhere: str):
    """Written by the builder's features and read again, every row is what it was."""
    features = tfds.builder(builder, data_dir=nowhere).info.features
    rows = builder_rows(builder)
    assert len(rows) >= 4
    assert len({json.dumps(row) for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == set(features.keys())
        stored = features.serialize_example(features.encode_example(row))
        read = plain(features.deserialize_example_np(stored), builder)
        assert _rounded(read) == _rounded(row)


def _rounded(value: object) -> object:
    """Floats as exact as 32 bits hold them."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 5) if isinstance(value, float) else value


@pytest.mark.parametrize("task", tfds_tasks(), ids=lambda task: task.name)
def test_filters_keep_three_stand_ins_or_more(task):
    rows = builder_rows(task.source.builder)
    kept = [row for row in rows if task.source.keep is None or task.source.keep(row)]
    assert len(kept) >= (2 if task.name == "trivia_qa_wiki_missing" else 3)


@pytest.mark.parametrize("task", tfds_tasks(), ids=lambda task: task.name)
def test_random_rows_of_the_builders_form_become_fields(task, nowhere: str):
    """What `tfds.testing.mock_data` makes up: if a filter lets it pass, it can be put in words."""
    split = next(iter(task.source.read.values())).partition("[")[0]
    with tfds.testing.mock_data(num_examples=10):
        rows = tfds.builder(task.source.builder, data_dir=nowhere).as_data_source(split=split)
        rows = [plain(row, task.name) for row in rows]
    if task.name in LABELS:
        rows = [{**row, "label": row["label"] % LABELS[task.name]} for row in rows]
    kept = [row for row in rows if task.source.keep is None or task.source.keep(row)]
    assert bool(kept) != (task.name in NEVER_KEPT)
    for row in kept:
        fields = task.to_fields(row)
        assert task.draw_fields or fields["answer"]
        assert not task.has_options or fields["answer"] in fields["options"]
        assert get_task(task.name) is task
