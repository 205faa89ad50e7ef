"""Task files of Natural Instructions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.sources.base import Source, SourceError
from flan_jax.sources.natural_instructions import NaturalInstructionsSource

_PADDED = st.text(max_size=10).map(lambda text: f" {text}x\n")


def later(**changes):
    task = {
        "URL": float("nan"),
        "Definition": [" Say it in French. ", "Another wording."],
        "Positive Examples": [{"input": "cat", "output": "chat ", "explanation": "so it is"}],
        "Negative Examples": [],
        "Instances": [
            {"id": "t-1", "input": " dog\n", "output": [" chien ", "clebs"]},
            {"id": "t-2", "input": "cow", "output": ["vache"]},
            {"id": "t-3", "input": "hen", "output": ["poule"]},
        ],
        "Instance License": ["MIT"],
    }
    return {**task, **changes}


@pytest.fixture
def make(tmp_path):
    def write(task, name="task1_x.json"):
        (tmp_path / name).write_text(json.dumps(task), encoding="utf-8")
        return NaturalInstructionsSource(tmp_path / name)

    return write


def all_rows(source: NaturalInstructionsSource):
    return [
        source.row(split, index)
        for split in source.splits()
        for index in range(source.num_examples(split))
    ]


def test_later_schema(make):
    source = make(later())
    assert isinstance(source, Source)
    assert source.splits() == ("train", "validation", "test")
    found = {row["id"]: row for row in all_rows(source)}
    assert len(found) == 3
    dog = found["t-1"]
    assert (dog["input"], dog["answer"], dog["answers"]) == ("dog", "chien", ("chien", "clebs"))
    assert dog["definition"] == "Say it in French."
    assert dog["positive_examples"] == (
        {"input": "cat", "output": "chat", "explanation": "so it is"},
    )
    assert source.content().licence == "MIT"
    assert source.content().without_output == 0


def test_earlier_schema(make):
    source = make(
        {
            "Definition": "Walk.",
            "Positive Examples": [],
            "Instances": [{"input": "go", "output": "I_GO"}, {"input": "sit", "output": ["I_SIT"]}],
        }
    )
    found = {row["id"]: row for row in all_rows(source)}
    assert {name: row["answer"] for name, row in found.items()} == {"0": "I_GO", "1": "I_SIT"}
    assert found["0"]["definition"] == "Walk."
    assert source.content().licence == ""


def test_instances_without_any_output_are_counted_and_left_out(make):
    instances = [
        {"input": "a", "output": ["", " "]},
        {"input": "b", "output": ["", "second"]},
    ]
    source = make(later(Instances=instances))
    (row,) = all_rows(source)
    assert (row["answer"], row["answers"]) == ("second", ("second",))
    assert source.content().without_output == 1


@given(inputs=st.lists(_PADDED, min_size=1, max_size=5), output=_PADDED)
def test_white_space_around_texts_goes_and_within_stays(tmp_path_factory, inputs, output):
    path = tmp_path_factory.mktemp("niv2") / "task.json"
    instances = [{"input": text, "output": [output]} for text in inputs]
    path.write_text(json.dumps(later(Instances=instances)), encoding="utf-8")
    found = all_rows(NaturalInstructionsSource(path))
    assert sorted(row["input"] for row in found) == sorted(text.strip() for text in inputs)
    assert {row["answer"] for row in found} == {output.strip()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Definition": []}, "field 'Definition' must be a text or a list of texts"),
        ({"Instances": None}, "field 'Instances' must be a list, found NoneType"),
        ({"Instances": [3]}, r"Instances\[0\] must be an object"),
        ({"Instances": [{"output": ["x"]}]}, r"Instances\[0\]: field 'input' must be text"),
        (
            {"Instances": [{"input": "a", "output": ["x"]}, {"input": "b", "output": [1]}]},
            r"Instances\[1\]: field 'output' must be a list of texts, found \[1\]",
        ),
    ],
)
def test_malformed_files_name_instance_and_field(make, changes, message):
    source = make(later(**changes))
    with pytest.raises(SourceError, match=message):
        source.num_examples("train")
    with pytest.raises(SourceError, match=r"task1_x\.json"):
        source.row("train", 0)


def test_files_that_are_not_json(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(SourceError, match="is not a JSON file"):
        NaturalInstructionsSource(tmp_path / "x.json").num_examples("train")
    (tmp_path / "y.json").write_text("[]")
    with pytest.raises(SourceError, match="expected an object with Definition"):
        NaturalInstructionsSource(tmp_path / "y.json").num_examples("train")


def test_rows_past_the_end(make):
    source = make(later())
    with pytest.raises(IndexError, match="row 1 of test, which has 1"):
        source.row("test", 1)
    with pytest.raises(SourceError, match="no split 'dev'"):
        source.row("dev", 0)


def test_every_real_file(test_data: Path):
    files = sorted((test_data / "natural_instructions" / "tasks").glob("*.json"))
    assert len(files) == 24
    for file in files:
        source = NaturalInstructionsSource(file)
        written = json.loads(file.read_text(encoding="utf-8"))
        found = all_rows(source)
        assert len(found) == len(written["Instances"]) - source.content().without_output
        assert all(source.num_examples(split) >= 1 for split in source.splits())
        expected = sorted(i["input"].strip() for i in written["Instances"])
        assert sorted(row["input"] for row in found) == expected
        for row in found:
            assert row["answer"] == row["answers"][0] == row["answer"].strip() != ""
            assert row["definition"] == row["definition"].strip() != ""
