"""The data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from flan_jax.sources import folder
from flan_jax.sources.base import SourceMissingError


def test_folder_is_the_environment_variable_else_data(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path / "sets"))
    assert folder.data_folder() == tmp_path / "sets"
    monkeypatch.delenv("FLAN_JAX_DATA")
    monkeypatch.chdir(tmp_path)
    assert folder.data_folder() == tmp_path / "data"


def test_use_data_folder_needs_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_DATA", "elsewhere")
    with pytest.raises(SourceMissingError, match="does not exist"):
        folder.use_data_folder(tmp_path / "absent")
    folder.use_data_folder(tmp_path)
    assert folder.data_folder() == tmp_path


def test_missing_file_says_where_it_was_sought_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    with pytest.raises(SourceMissingError) as error:
        folder.require("gsm8k/train.jsonl")
    message = str(error.value)
    assert str(tmp_path / "gsm8k" / "train.jsonl") in message
    assert "grade-school-math" in message
    assert "FLAN_JAX_DATA" in message


def test_absolute_paths_are_taken_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path / "data"))
    file = tmp_path / "rows.tsv"
    with pytest.raises(SourceMissingError, match=r"rows\.tsv does not exist"):
        folder.require(file)
    file.write_text("x")
    assert folder.require(file) == file


def test_status_tells_found_from_missing(tmp_path):
    (tmp_path / "flan_cot").mkdir()
    (tmp_path / "flan_cot" / "creak_train.tsv").write_text("a\tb\tc\n")
    (tmp_path / "natural_instructions" / "tasks").mkdir(parents=True)
    (tmp_path / "natural_instructions" / "README.md").write_text("not a task")
    states = {state.name: state for state in folder.status(tmp_path)}
    assert list(states) == [dataset.name for dataset in folder.DATASETS]
    assert [name for name, state in states.items() if state.found] == ["flan_cot"]
    assert states["flan_cot"].detail.startswith("1 file:")
    assert "esnli_train.tsv" in states["flan_cot"].detail
    assert "creak_train.tsv" not in states["flan_cot"].detail
    assert states["flan_cot"].path == tmp_path / "flan_cot"
    assert "allenai/natural-instructions" in states["natural_instructions"].detail


def test_status_of_the_real_folder(test_data: Path):
    states = {state.name: state for state in folder.status(test_data)}
    absent = {name for name, state in states.items() if not state.found}
    assert absent <= {"civil_comments", "real_toxicity_prompts"}  # to be got by hand
    assert "missing: esnli_train.tsv, qed_train.tsv" in states["flan_cot"].detail
    assert "missing" not in states["gsm8k"].detail
    assert states["natural_instructions"].detail.startswith("24 files")
