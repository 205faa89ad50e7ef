"""`flan-jax data status`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flan_jax.cli import data
from flan_jax.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with one dataset in it."""
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text("{}\n")
    return tmp_path


def test_status_tells_found_from_missing(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert data.main(["status", "--data_dir", str(folder)]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    state = {name: status for name, status, *_ in rows}
    assert state.pop("gsm8k") == "found"
    assert set(state.values()) == {"missing"}


def test_json_from_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FLAN_JAX_DATA", str(folder))
    assert data.main(["status", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["folder"] == str(folder)
    (found,) = (dataset for dataset in report["datasets"] if dataset["found"])
    assert found["name"] == "gsm8k"
    assert found["path"] == str(folder / "gsm8k")


def test_folder_that_does_not_exist_is_named_with_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    missing = str(tmp_path / "none")
    with pytest.raises(UserError, match=r"--data_dir names .*none"):
        data.main(["status", "--data_dir", missing])
    monkeypatch.setenv("FLAN_JAX_DATA", missing)
    with pytest.raises(UserError, match=r"FLAN_JAX_DATA names .*none"):
        data.main(["status"])
