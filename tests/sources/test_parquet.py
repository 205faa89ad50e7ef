"""Parquet files."""

from __future__ import annotations

import datetime
import pickle
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.sources import parquet
from flan_jax.sources.base import Source, SourceError, SourceMissingError
from flan_jax.sources.files import HashSplits
from flan_jax.sources.parquet import ParquetRows, ParquetSource

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_ROW = st.fixed_dictionaries(
    {
        "text": _TEXT,
        "label": st.integers(-(2**62), 2**62) | st.none(),
        "score": st.floats(allow_nan=False),
        "answers": st.lists(_TEXT, max_size=3),
        "choices": st.lists(
            st.fixed_dictionaries({"text": _TEXT, "ok": st.booleans()}), max_size=2
        ),
    }
)
_SCHEMA = pa.schema(
    {
        "text": pa.string(),
        "label": pa.int64(),
        "score": pa.float64(),
        "answers": pa.list_(pa.string()),
        "choices": pa.list_(pa.struct({"text": pa.string(), "ok": pa.bool_()})),
    }
)


def write(path, rows, group: int = 3, schema=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)
    return path


def numbered(count: int, start: int = 0):
    return [{"text": f"text {i}", "n": i} for i in range(start, start + count)]


def all_rows(source, split):
    return [source.row(split, index) for index in range(source.num_examples(split))]


@given(parts=st.lists(st.lists(_ROW, max_size=7), min_size=1, max_size=3), group=st.integers(1, 4))
def test_rows_come_back_in_order_whatever_the_groups(tmp_path_factory, parts, group):
    folder = tmp_path_factory.mktemp("parquet")
    files = [write(folder / f"{n}.parquet", part, group, _SCHEMA) for n, part in enumerate(parts)]
    rows = ParquetRows(tuple(files))
    assert list(rows) == [row for part in parts for row in part]


@pytest.fixture
def source(tmp_path) -> ParquetSource:
    write(tmp_path / "train.parquet", numbered(100), group=7)
    write(tmp_path / "test.parquet", numbered(4, 100))
    files = {"train": tmp_path / "train.parquet", "test": str(tmp_path / "test.parquet")}
    return ParquetSource(files, HashSplits("text", validation=0.2))


def test_source_serves_files_and_carved_splits(source):
    assert isinstance(source, Source)
    assert source.kind == "parquet"
    assert source.splits() == ("train", "validation", "test")
    train, validation = all_rows(source, "train"), all_rows(source, "validation")
    assert sorted(row["n"] for row in train + validation) == list(range(100))
    assert 8 < len(validation) < 35
    # The same rows as of any other kind of file with these texts.
    other = HashSplits("text", validation=0.2).divide(numbered(100))
    assert (tuple(train), tuple(validation)) == (other["train"], other["validation"])
    assert all_rows(source, "test") == numbered(4, 100)
    for index in (-1, 4):
        with pytest.raises(IndexError, match="of test, which has 4"):
            source.row("test", index)
    with pytest.raises(SourceError, match="did you mean 'train'"):
        source.row("trian", 0)


def test_sources_are_values(source):
    assert pickle.loads(pickle.dumps(source)) == source
    assert hash(source) == hash(ParquetSource(dict(source.files), source.carve))


def test_columns_are_chosen(tmp_path):
    path = write(tmp_path / "rows.parquet", numbered(2))
    source = ParquetSource({"train": path}, columns=("n",))
    assert all_rows(source, "train") == [{"n": 0}, {"n": 1}]
    with pytest.raises(SourceError, match="no column 'txet', only text, n; did you mean 'text'"):
        ParquetSource({"train": path}, columns=("txet",)).num_examples("train")


def test_patterns_and_lists_of_files(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    for shard in range(3):
        write(tmp_path / f"set/train-{shard:05}-of-00003.parquet", numbered(5, shard * 5))
    source = ParquetSource({"train": "set/train-*.parquet"})
    assert source.describe() == "set/train-*.parquet"
    assert all_rows(source, "train") == numbered(15)
    assert [path.name[:11] for path in source.paths()] == [
        "train-00000",
        "train-00001",
        "train-00002",
    ]
    two = tuple(f"set/train-0000{n}-of-00003.parquet" for n in (2, 0))
    listed = ParquetSource({"train": two})
    assert [row["n"] for row in all_rows(listed, "train")] == [*range(10, 15), *range(5)]
    source.check_present()
    (tmp_path / two[0]).unlink()
    with pytest.raises(SourceMissingError, match="found 2 of 3 files"):
        source.check_present()
    with pytest.raises(SourceMissingError, match=r"00002-of-00003\.parquet"):
        listed.check_present()
    absent = ParquetSource({"train": "none/*.parquet"})
    assert absent.paths() == (tmp_path / "none" / "*.parquet",)
    with pytest.raises(SourceMissingError, match="no file matches"):
        absent.num_examples("train")


def test_files_that_are_not_parquet_are_named(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_text("<html>not found</html>" * 10)
    with pytest.raises(SourceError, match=r"rows\.parquet cannot be read as Parquet"):
        ParquetSource({"train": path}).num_examples("train")


def test_damaged_groups_are_named(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = [{"text": "x" * 500 + str(i)} for i in range(40)]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, path, row_group_size=20, compression="zstd", use_dictionary=False)
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start + 20 : start + 60] = bytes(40)
    path.write_bytes(content)
    source = ParquetSource({"train": path})
    assert source.row("train", 19) == rows[19]
    with pytest.raises(SourceError, match=r"rows\.parquet is damaged in the rows from 20 on"):
        source.row("train", 20)


def test_text_that_is_not_utf8_names_file_row_and_field(tmp_path):
    for kind in ("string", "binary"):
        values = pa.array([b"fine", b"bad \xff"], pa.binary())
        column = values.view(pa.string()) if kind == "string" else values
        path = tmp_path / f"{kind}.parquet"
        pq.write_table(pa.table({"text": column}), path)
        source = ParquetSource({"train": path})
        assert source.row("train", 0) == {"text": "fine"}
        with pytest.raises(
            SourceError, match=rf"{kind}\.parquet: row 1: field 'text' is not UTF-8"
        ):
            source.row("train", 1)


def test_text_that_is_needed(tmp_path):
    path = write(tmp_path / "rows.parquet", [{"text": "a", "n": 1}, {"text": None, "n": 2}])
    message = r"rows\.parquet: row 1: field 'text' must be text, found None"
    source = ParquetSource({"train": path}, columns=("n",), texts=("text",))
    assert source.row("train", 0) == {"n": 1, "text": "a"}
    with pytest.raises(SourceError, match=message):
        source.row("train", 1)
    with pytest.raises(SourceError, match=message):
        ParquetSource({"train": path}, HashSplits("text")).num_examples("train")


def test_dates_are_left_as_they_are(tmp_path):
    day = datetime.date(2022, 10, 20)
    path = write(tmp_path / "rows.parquet", [{"day": day}])
    assert ParquetSource({"train": path}).row("train", 0) == {"day": day}


def test_only_some_groups_are_kept_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "rows.parquet", [{"text": "x" * 1000} for _ in range(100)], group=10)
    monkeypatch.setattr(parquet, "_KEPT_BYTES", 35_000)
    rows = ParquetRows((path,))
    assert [row["text"][:1] for row in rows] == ["x"] * 100
    assert 1 <= len(rows._decoded) <= 3


@pytest.mark.slow
def test_a_large_file_takes_little_memory(tmp_path):
    """A million rows cost far less memory than they would as Python objects (about 500 MB)."""
    path = tmp_path / "rows.parquet"
    with pq.ParquetWriter(path, pa.schema({"text": pa.string(), "n": pa.int64()})) as writer:
        for start in range(0, 1_000_000, 10_000):
            writer.write_table(pa.Table.from_pylist(numbered(10_000, start)))
    program = f"""
import resource
from flan_jax.sources.parquet import ParquetSource
import pyarrow.parquet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = ParquetSource({{"train": {str(path)!r}}})
assert source.num_examples("train") == 1_000_000
for index in range(0, 1_000_000, 997):
    assert source.row("train", index)["n"] == index
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 150
