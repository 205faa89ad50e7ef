"""Lazy loading, lines, and splits by content."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.sources.base import Source, SourceError, SourceMissingError
from flan_jax.sources.files import HashSplits, read_lines
from flan_jax.sources.tsv import TsvSource


def rows(texts):
    return [{"text": text} for text in texts]


def many(count: int):
    return rows(f"question number {i}" for i in range(count))


@given(st.lists(st.text(max_size=8), max_size=40), st.permutations(range(40)))
def test_splits_part_the_rows_whatever_their_order(texts, order):
    carve = HashSplits("text", validation=0.3, test=0.2)
    parts = carve.divide(rows(texts))
    assert sorted(row["text"] for part in parts.values() for row in part) == sorted(texts)
    normal = {
        name: {" ".join(row["text"].casefold().split()) for row in part}
        for name, part in parts.items()
    }
    for one, two in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not normal[one] & normal[two]
    shuffled = [texts[i] for i in order if i < len(texts)]
    again = carve.divide(rows(shuffled))
    for name, part in parts.items():
        assert sorted(r["text"] for r in again[name]) == sorted(r["text"] for r in part)
    if texts:
        assert parts["train"]


def test_splits_have_about_the_sizes_asked_for():
    parts = HashSplits("text", validation=0.05, test=0.1).divide(many(4000))
    assert 150 < len(parts["validation"]) < 250
    assert 330 < len(parts["test"]) < 470
    assert list(HashSplits("text", validation=0.05).divide(many(9))) == ["train", "validation"]


def test_splits_are_the_same_everywhere():
    parts = HashSplits("text", validation=0.05, test=0.05).divide(many(60))
    # Golden: a change here would move rows between train and validation in everyone's data.
    assert [row["text"] for row in parts["validation"]] == GOLDEN_VALIDATION
    assert [row["text"] for row in parts["test"]] == GOLDEN_TEST


def test_more_rows_do_not_move_rows():
    carve = HashSplits("text", validation=0.1)
    few, more = carve.divide(many(300)), carve.divide(many(900))
    assert {r["text"] for r in few["validation"]} <= {r["text"] for r in more["validation"]}


def test_tiny_files_still_get_every_split():
    parts = HashSplits("text", validation=0.01, test=0.01).divide(many(3))
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }


def test_case_and_spacing_do_not_separate_texts():
    same = ["Who  is it?", "who is IT?", " who is it? "]
    parts = HashSplits("text", validation=0.5).divide(rows([*same, "other", "another", "third"]))
    places = {name for name, part in parts.items() for row in part if row["text"] in same}
    assert len(places) == 1


def test_lines_break_at_line_feeds_only(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes("a\u2028b\x0bc\x85d\re\n\nf\n".encode())
    assert read_lines(path) == ["a\u2028b\x0bc\x85d\re", "", "f"]


def test_windows_files_lose_their_carriage_returns_and_mark(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    assert read_lines(path) == ["a", "b"]


def test_bad_bytes_are_named_by_line(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"fine\nfine\nbad \xff\n")
    with pytest.raises(SourceError, match="line 3 is not UTF-8"):
        read_lines(path)


@pytest.fixture
def source(tmp_path) -> TsvSource:
    (tmp_path / "train.tsv").write_text("".join(f"q{i}\ta{i}\n" for i in range(50)))
    (tmp_path / "test.tsv").write_text("q\ta\n")
    return TsvSource(
        {"train": tmp_path / "train.tsv", "test": tmp_path / "test.tsv"},
        HashSplits("q", validation=0.2),
        columns=("q", "a"),
    )


def test_source_serves_files_and_carved_splits(source: TsvSource):
    assert isinstance(source, Source)
    assert source.splits() == ("train", "validation", "test")
    assert source.num_examples("train") + source.num_examples("validation") == 50
    assert source.num_examples("test") == 1
    assert source.row("test", 0) == {"q": "q", "a": "a"}
    train = [source.row("train", i)["q"] for i in range(source.num_examples("train"))]
    assert train == sorted(train, key=lambda name: int(name[1:]))
    for index in (-1, 1):
        with pytest.raises(IndexError, match="of test, which has 1"):
            source.row("test", index)
    with pytest.raises(SourceError, match="did you mean 'validation'"):
        source.num_examples("validaton")


def test_files_are_read_once(source: TsvSource, tmp_path):
    before = source.row("train", 0)
    (tmp_path / "train.tsv").write_text("other\tother\n")
    assert source.row("train", 0) == before


def test_sources_travel_to_workers(source: TsvSource):
    assert pickle.loads(pickle.dumps(source)) == source


def test_making_a_source_reads_nothing():
    source = TsvSource({"train": "absent/file.tsv"}, HashSplits("q"), columns=("q",))
    assert source.splits() == ("train", "validation")
    assert source.describe() == "absent/file.tsv"
    with pytest.raises(SourceMissingError):
        source.num_examples("validation")


def test_carving_needs_train_and_a_free_name(tmp_path):
    with pytest.raises(SourceError, match="no train split"):
        TsvSource({"test": "x.tsv"}, HashSplits("q"))
    with pytest.raises(SourceError, match="has a file and is carved too"):
        TsvSource({"train": "x.tsv", "validation": "y.tsv"}, HashSplits("q"))


GOLDEN_VALIDATION = ["question number 1", "question number 33"]
GOLDEN_TEST = ["question number 29", "question number 34", "question number 39"]
