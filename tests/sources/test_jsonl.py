"""Files of JSON lines."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.sources.base import SourceError
from flan_jax.sources.files import HashSplits
from flan_jax.sources.jsonl import JsonlSource, read_jsonl

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(rows=st.lists(st.dictionaries(_TEXT, _TEXT, max_size=3), max_size=6))
def test_round_trip_of_any_object(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", newline="")
    assert list(read_jsonl(path)) == rows


def test_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "1"}\n\n  \n{"a": "2"}')
    source = JsonlSource({"train": path}, texts=("a",))
    assert source.kind == "jsonl"
    assert [source.row("train", i)["a"] for i in range(source.num_examples("train"))] == ["1", "2"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": ', "line 2 is not JSON"),
        ("[1, 2]", "line 2 holds no object"),
        ('{"questoin": "x"}', "line 2 has no field 'question', only questoin; did you mean"),
        ('{"question": 3}', "line 2: field 'question' must be text, found 3"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "x"}\n' + line)
    with pytest.raises(SourceError, match=message):
        read_jsonl(path, ("question",))


def test_the_field_that_splits_must_be_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": null}\n')
    source = JsonlSource({"train": path}, HashSplits("question"))
    with pytest.raises(SourceError, match="field 'question' must be text, found None"):
        source.num_examples("train")
