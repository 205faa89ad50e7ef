"""Datasets of the Hugging Face Hub."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flan_jax.sources.base import Source, SourceError, SourceMissingError
from flan_jax.sources.files import HashSplits
from flan_jax.sources.huggingface import HuggingFaceSource

FILES = "huggingface/org/set/plain"


@pytest.fixture
def source(tmp_path, monkeypatch) -> HuggingFaceSource:
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    return HuggingFaceSource(
        "org/set", "plain", {"train": "train", "test": "dev"}, shards={"train": 2}
    )


def bring(root, source):
    """Puts files where `downloads` says, as the Hub would serve them: row n of file n."""
    for number, download in enumerate(source.downloads()):
        path = root / download.path
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": [f"{number}a", f"{number}b"], "label": [0, 1]}), path)


def test_downloads_are_the_files_of_the_hubs_own_conversion(source):
    base = "https://huggingface.co/datasets/org/set/resolve/refs%2Fconvert%2Fparquet/plain"
    assert {download.url: download.path for download in source.downloads()} == {
        f"{base}/train/0000.parquet": f"{FILES}/train/0000.parquet",
        f"{base}/train/0001.parquet": f"{FILES}/train/0001.parquet",
        f"{base}/dev/0000.parquet": f"{FILES}/dev/0000.parquet",
    }


def test_the_endpoint_is_asked_for_at_the_call(source, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/hub/")
    urls = [download.url for download in source.downloads()]
    assert all(url.startswith("https://mirror.example/hub/datasets/org/set/") for url in urls)


def test_revisions_can_be_pinned():
    source = HuggingFaceSource("set", read={"train": "train"}, revision="0123abcd")
    (download,) = source.downloads()
    assert download.url.endswith("/datasets/set/resolve/0123abcd/default/train/0000.parquet")
    assert download.path == "huggingface/set/default/train/0000.parquet"


def test_rows(source, tmp_path):
    assert isinstance(source, Source)
    with pytest.raises(SourceMissingError, match=r"train.0000\.parquet"):
        source.check_present()
    bring(tmp_path, source)
    source.check_present()
    assert source.kind == "huggingface"
    assert source.splits() == ("train", "test")
    assert [source.num_examples(split) for split in source.splits()] == [4, 2]
    assert [source.row("train", i)["text"] for i in range(4)] == ["0a", "0b", "1a", "1b"]
    assert source.row("test", 1) == {"text": "2b", "label": 1}
    with pytest.raises(SourceError, match="did you mean 'test'"):
        source.row("tset", 0)
    with pytest.raises(IndexError):
        source.row("test", 2)
    (tmp_path / FILES / "train" / "0001.parquet").unlink()
    with pytest.raises(SourceMissingError, match=r"0001\.parquet"):
        source.check_present()


def test_carved_splits_and_columns(source, tmp_path):
    bring(tmp_path, source)
    carved = HuggingFaceSource(
        "org/set", "plain", {"train": "train"}, shards={"train": 2}, columns=("text",),
        carve=HashSplits("text", validation=0.3),
    )  # fmt: skip
    rows = [carved.row(s, i) for s in carved.splits() for i in range(carved.num_examples(s))]
    assert sorted(row["text"] for row in rows) == ["0a", "0b", "1a", "1b"]
    assert carved.num_examples("validation") >= 1
    assert set(rows[0]) == {"text"}


def test_sources_are_values(source):
    assert pickle.loads(pickle.dumps(source)) == source
    assert len({source, pickle.loads(pickle.dumps(source))}) == 1


@pytest.mark.parametrize("shards", [{"trian": 2}, {"train": 0}])
def test_shards_must_make_sense(shards):
    with pytest.raises(SourceError, match="must be a positive number for one of the splits"):
        HuggingFaceSource("set", read={"train": "train"}, shards=shards)
