"""What sources of files say of whether they are there, and of how to fetch them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from flan_jax.sources import folder
from flan_jax.sources.base import SourceMissingError
from flan_jax.sources.downloads import Download, ManualDownload
from flan_jax.sources.jsonl import JsonlSource
from flan_jax.sources.natural_instructions import NaturalInstructionsSource
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.sources.tsv import TsvSource

COMMIT = "e9e4ec6e2701182c7a91af176f705310da541277"


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    return tmp_path


def cot(name: str) -> TsvSource:
    return TsvSource({"train": f"flan_cot/{name}_train.tsv"}, columns=("q", "a", "r"))


def test_presence_needs_every_file_and_reads_none(root):
    files = {"train": "gsm8k/train.jsonl", "test": "gsm8k/test.jsonl"}
    source = JsonlSource(files)
    with pytest.raises(SourceMissingError, match=r"train\.jsonl.*flan-jax data fetch TASK"):
        source.check_present()
    (root / "gsm8k").mkdir()
    (root / "gsm8k" / "train.jsonl").write_text("not JSON")
    with pytest.raises(SourceMissingError, match=r"test\.jsonl"):
        source.check_present()
    (root / "gsm8k" / "test.jsonl").write_text("not JSON")
    source.check_present()


def test_flans_files_come_from_a_pinned_commit_with_their_checksums(root):
    (download,) = cot("creak").downloads()
    assert isinstance(download, Download)
    assert download.url == (
        f"https://raw.githubusercontent.com/google-research/FLAN/{COMMIT}/flan/v2/cot_data/"
        "creak_train.tsv"
    )
    assert download.path == "flan_cot/creak_train.tsv"
    assert download.sha256 is not None


def test_checksums_of_the_table_are_those_of_the_files(test_data):
    checked = 0
    for dataset in folder.DATASETS:
        for name, expected in dataset.sha256.items():
            content = (test_data / dataset.name / name).read_bytes()
            assert hashlib.sha256(content).hexdigest() == expected, name
            checked += 1
    assert checked == 9


@pytest.mark.parametrize("name", ["esnli", "qed"])
def test_files_that_flan_never_published_are_not_promised(root, name):
    (manual,) = cot(name).downloads()
    assert isinstance(manual, ManualDownload)
    assert manual.path == f"flan_cot/{name}_train.tsv"
    with pytest.raises(SourceMissingError) as error:
        cot(name).check_present()
    assert manual.how in str(error.value)
    assert "data fetch" not in str(error.value)


def test_a_file_of_several_splits_is_fetched_once(root):
    source = JsonlSource({"train": "gsm8k/train.jsonl", "again": "gsm8k/train.jsonl"})
    assert len(source.downloads()) == 1


def test_files_of_ones_own_have_no_origin(root, tmp_path):
    own = tmp_path / "mine" / "rows.tsv"
    assert TsvSource({"train": own}).downloads() == ()
    assert TsvSource({"train": "mine/rows.tsv"}).downloads() == ()
    with pytest.raises(SourceMissingError, match="not in the data folder"):
        TsvSource({"train": "mine/rows.tsv"}).check_present()


def test_natural_instructions_come_one_by_one(root):
    file = "natural_instructions/tasks/task062_bigbench_repeat_copy_logic.json"
    source = NaturalInstructionsSource(file, sha256="0" * 64, size=12)
    (download,) = source.downloads()
    assert isinstance(download, Download)
    assert (download.path, download.sha256, download.size) == (file, "0" * 64, 12)
    assert download.url.startswith("https://raw.githubusercontent.com/allenai/natural-instructions")
    assert download.url.endswith("/tasks/task062_bigbench_repeat_copy_logic.json")
    with pytest.raises(SourceMissingError, match="task062"):
        source.check_present()


def test_generated_rows_are_always_there(root):
    source = ProceduralSource("made", dict)
    source.check_present()
    assert source.downloads() == ()
