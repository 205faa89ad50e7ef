"""Datasets of TFDS: real tiny ones, prepared here, and TFDS's mocked ones."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from flan_jax.sources import kept_rows as kept_module
from flan_jax.sources import tfds as tfds_source
from flan_jax.sources.base import Source, SourceError, SourceMissingError
from flan_jax.sources.downloads import TfdsDownload
from flan_jax.sources.kept_rows import FOLDER, fingerprint
from flan_jax.sources.tfds import TfdsSource, prepare_builder, tfds_folder
from flan_jax.sources.tfds_folders import BuilderName

NAME = "flan_jax_tiny_reviews:1.0.0"
READ = {"train": "train[:-10]", "validation": "train[-10:]", "test": "dev"}


class FlanJaxTinyReviews(tfds.core.GeneratorBasedBuilder):
    """Forty rows with features of every kind that text datasets have."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        number = tfds.features.Tensor(shape=(), dtype=np.int32)
        text = tfds.features.Text()
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "text": text,
                    "label": tfds.features.ClassLabel(names=["bad", "good"]),
                    "known": tfds.features.Tensor(shape=(), dtype=np.bool_),
                    "score": tfds.features.Tensor(shape=(), dtype=np.float32),
                    "choices": tfds.features.Sequence({"text": text, "rank": number}),
                    "tags": tfds.features.Sequence(text),
                    "ragged": tfds.features.Sequence(tfds.features.Sequence(text)),
                    "page": {"title": text, "number": number},
                    "turns": tfds.features.Dataset({"speaker": text}),
                }
            )
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(range(40)),
            "dev": self._generate_examples(range(6)),
            "odd": self._generate_examples(range(100, 101)),
        }

    def _generate_examples(self, numbers):
        for i in numbers:
            yield i, reviewed(i)


def reviewed(i: int):
    return {
        "text": b"broken \xff" if i == 100 else f"naïve review\n{i}",
        "label": i % 2,
        "known": i % 3 == 0,
        "score": i / 4,
        "choices": [{"text": "one", "rank": 1}, {"text": "zwölf", "rank": i}],
        "tags": [f"tag{n}" for n in range(i % 3)],
        "ragged": [["a"], [], ["b", "c"]],
        "page": {"title": f"Title {i}", "number": i},
        "turns": [{"speaker": "user"}, {"speaker": "system"}],
    }


def is_good(row) -> bool:
    return row["label"] == 1


def is_named(row) -> bool:
    return bool(row["title"])


def refuses(row) -> bool:
    raise AssertionError("the answer should have come from the file")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare_builder(NAME, folder, manual_dir=folder / "manual")
    return folder


@pytest.fixture(scope="module")
def sequential(tmp_path_factory) -> Path:
    """The same dataset as T5X's users have it."""
    folder = tmp_path_factory.mktemp("sequential")
    tfds.builder(NAME, data_dir=folder, file_format="tfrecord").download_and_prepare()
    return folder


@pytest.fixture
def data(prepared, tmp_path, monkeypatch) -> Path:
    """A copy of the prepared dataset, in use; nothing is remembered of other tests."""
    folder = tmp_path / "tfds"
    shutil.copytree(prepared, folder)
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    return folder


def version_folder(data: Path) -> Path:
    return data / "flan_jax_tiny_reviews" / "1.0.0"


def all_rows(source: TfdsSource, split: str):
    return [source.row(split, index) for index in range(source.num_examples(split))]


def test_rows_are_plain_python_under_the_builders_names(data):
    source = TfdsSource(NAME, {"all": "dev"})
    assert isinstance(source, Source)
    rows = {row["page"]["number"]: row for row in all_rows(source, "all")}
    for number, row in rows.items():
        made = reviewed(number)
        choices = made["choices"]
        made["choices"] = {key: [c[key] for c in choices] for key in ("text", "rank")}
        assert row == made
    assert len(rows) == 6
    row = rows[5]
    assert json.loads(json.dumps(row)) == row  # none of numpy's types
    assert type(row["label"]) is int and type(row["known"]) is bool


def test_parts_of_splits(data):
    source = TfdsSource(NAME, {**READ, "part": "train[30:33]"})
    assert source.splits() == ("train", "validation", "test", "part")
    assert [source.num_examples(split) for split in source.splits()] == [30, 10, 6, 3]
    everything = TfdsSource(NAME, {"train": "train"})
    order = [row["page"]["number"] for row in all_rows(everything, "train")]
    assert sorted(order) == list(range(40))
    assert [row["page"]["number"] for row in all_rows(source, "part")] == order[30:33]


def test_bounds_and_names(data):
    source = TfdsSource(NAME, READ)
    for index in (-1, 30):
        with pytest.raises(IndexError, match=f"row {index} of train, which has 30"):
            source.row("train", index)
    with pytest.raises(SourceError, match="did you mean 'validation'"):
        source.row("validaton", 0)
    with pytest.raises(SourceError, match=r"at split 'trian\[:5\]'.*; did you mean 'train'"):
        TfdsSource(NAME, {"test": "trian[:5]"}).num_examples("test")


def test_text_that_is_not_utf8_names_row_and_field(data):
    source = TfdsSource(NAME, {"train": "odd"})
    with pytest.raises(SourceError) as error:
        source.row("train", 0)
    message = str(error.value)
    assert "field 'text' is not UTF-8" in message
    assert "flan_jax_tiny_reviews:1.0.0, split 'odd', row 0" in message


def test_damaged_records_name_the_row(data):
    writer = tfds.core.file_adapters.ArrayRecordFileAdapter
    file = next(version_folder(data).glob("*-dev.array_record*"))
    builder = tfds.builder_from_directory(str(version_folder(data)))
    whole = [builder.info.features.serialize_example(reviewed(i)) for i in range(5)]
    lacking = tfds.features.FeaturesDict({"text": tfds.features.Text()})
    writer.write_examples(file, enumerate([*whole, lacking.serialize_example({"text": "x"})]))
    source = TfdsSource(NAME, READ)
    assert source.row("test", 4)["page"]["number"] == 4
    with pytest.raises(SourceError, match=r"split 'dev', row 5 cannot be read: .*fetch them again"):
        source.row("test", 5)


def test_sources_are_values(data):
    source = TfdsSource(NAME, READ, keep=is_good)
    assert pickle.loads(pickle.dumps(source)) == source
    assert hash(source) == hash(TfdsSource(NAME, dict(READ), keep=is_good))
    assert source != TfdsSource(NAME, READ)
    assert source.kind == "tfds"
    assert source.downloads() == (TfdsDownload(NAME),)


def test_reading_needs_neither_tensorflow_nor_the_builders_code(data):
    program = f"""
import sys
from flan_jax.sources.tfds import TfdsSource
source = TfdsSource({NAME!r}, {READ!r})
source.check_present()
assert "tensorflow_datasets" not in sys.modules
assert source.row("test", 0)["page"]["title"].startswith("Title")
assert "tensorflow" not in sys.modules
print(source.num_examples("train"))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "30\n"), ran.stderr


def test_kept_rows_are_worked_out_once_and_written_down(data, monkeypatch):
    source = TfdsSource(NAME, {"train": "dev"}, keep=is_good)
    kept = all_rows(source, "train")
    assert sorted(row["page"]["number"] for row in kept) == [1, 3, 5]
    with pytest.raises(IndexError):
        source.row("train", 3)
    (file,) = (version_folder(data) / FOLDER).iterdir()
    written = json.loads(file.read_text())
    assert (written["total"], len(written["left_out"])) == (6, 3)
    tfds_source._open.cache_clear()
    monkeypatch.setattr(kept_module, "_work_out", lambda *_: refuses({}))
    assert all_rows(source, "train") == kept


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"total": 5, "left_out": []}',
        '{"total": 6, "left_out": [6]}',
        '{"total": 6, "left_out": [-1]}',
        '{"total": 6, "left_out": ["a"]}',
    ],
)
def test_broken_files_of_kept_rows_are_written_anew(data, content):
    source = TfdsSource(NAME, {"train": "dev"}, keep=is_good)
    kept = all_rows(source, "train")
    (file,) = (version_folder(data) / FOLDER).iterdir()
    whole = file.read_text()
    file.write_text(content)
    tfds_source._open.cache_clear()
    assert all_rows(source, "train") == kept
    assert file.read_text() == whole


def test_kept_rows_of_a_folder_for_reading_only(data, monkeypatch):
    def deny(path, text):
        raise PermissionError(path)

    monkeypatch.setattr(kept_module, "write_atomically", deny)
    source = TfdsSource(NAME, {"train": "dev"}, keep=is_good)
    assert source.num_examples("train") == 3
    assert not (version_folder(data) / FOLDER).exists()


def test_filters_see_rows_one_by_one_where_a_batch_is_bad(data):
    source = TfdsSource(NAME, {"train": "odd"}, keep=is_good)
    with pytest.raises(SourceError, match=r"split .odd., row 0: field .text. is not UTF-8"):
        source.num_examples("train")


def test_a_filter_that_fails_names_the_row(data):
    source = TfdsSource(NAME, {"train": "dev"}, keep=is_named)
    with pytest.raises(SourceError, match=r"dev: the filter .*is_named.* at row 0: KeyError.*page"):
        source.num_examples("train")


def test_filters_are_told_apart_by_what_they_do(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    prints = []
    for number, (limit, helper) in enumerate([(1, "< x"), (1, "<= x"), (2, "< x"), (1, "< x")]):
        name = f"filters_{number}"
        code = f"LIMIT = {limit}\ndef low(x):\n    return LIMIT {helper}\n"
        (tmp_path / f"{name}.py").write_text(code + "def keep(row):\n    return low(row['x'])\n")
        module = __import__(name)
        module.keep.__module__ = module.low.__module__ = "filters"
        prints.append(fingerprint(module.keep))
    assert None not in prints
    assert len(set(prints)) == 3
    assert prints[0] == prints[3]
    assert fingerprint(len) is None


def test_mocked_datasets_do_not_mix_with_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    source = TfdsSource("super_glue/rte:1.0.2", {"train": "train[:-200]", "test": "validation"})
    for count in (3, 5):
        with tfds.testing.mock_data(num_examples=count):
            assert source.num_examples("train") == count
            row = source.row("test", 1)
            assert set(row) == {"premise", "hypothesis", "label", "idx"}
            assert {type(value) for value in row.values()} == {str, int}
            good = TfdsSource(source.builder, source.read, keep=is_good)
            assert {row["label"] for row in all_rows(good, "train")} <= {1}
            assert good.num_examples("train") < count
    with pytest.raises(SourceMissingError, match="flan-jax data fetch"):
        source.row("train", 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ("super_gleu/rte:1.0.2", "no builder 'super_gleu' .*did you mean 'super_glue'"),
        ("super_glue/rtee:1.0.2", "no config 'rtee', only boolq, .*did you mean 'rte'"),
        ("bool_q/plain:1.0.0", "no config 'plain', nor any other: leave it out"),
        ("super_glue/rte:1.0.9", "has super_glue at version 1.0.2 only"),
        ("bool_q:9.0.0", "has bool_q at version 1.0.0 only"),
    ],
)
def test_unknown_builders(tmp_path, monkeypatch, builder, message):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(SourceError, match=message):
        TfdsSource(builder, {"train": "train"}).num_examples("train")
    with pytest.raises(SourceError, match=message):
        prepare_builder(builder, tmp_path, manual_dir=tmp_path)


@pytest.mark.parametrize("name", ["rte", "super_glue/rte", "rte:1.0", "a/b/c:1.0.0", "../x:1.0.0"])
def test_names_must_be_full(name):
    with pytest.raises(SourceError, match="expected NAME:VERSION"):
        TfdsSource(name, {"train": "train"})


def test_the_folder_is_tfdss_own_variable_else_in_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "mine"))
    assert tfds_folder() == tmp_path / "mine"
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path / "data"))
    assert tfds_folder() == tmp_path / "data" / "tensorflow_datasets"


def test_presence(data):
    TfdsSource(NAME, READ).check_present()
    other = TfdsSource("flan_jax_tiny_reviews:2.0.0", READ, manual="ask the authors")
    with pytest.raises(SourceMissingError) as error:
        other.check_present()
    message = str(error.value)
    for part in (str(data), "Found there: version 1.0.0", "data fetch", "ask the authors"):
        assert part in message
    next(version_folder(data).glob("*-dev.array_record*")).rename(
        version_folder(data) / "flan_jax_tiny_reviews-dev.array_record-00000-of-00002"
    )
    with pytest.raises(SourceMissingError, match=r"not whole .*Remove that folder"):
        TfdsSource(NAME, READ).check_present()
    with pytest.raises(SourceMissingError, match="not whole"):
        prepare_builder(NAME, data, manual_dir=data)


def test_default_configs_are_found(data, tmp_path):
    folder = data / "flan_jax_tiny_reviews" / "plain" / "1.0.0"
    folder.parent.mkdir()
    version_folder(data).rename(folder)
    assert BuilderName.parse(NAME).prepared(data) == folder
    assert BuilderName.parse("flan_jax_tiny_reviews/plain:1.0.0").prepared(data) == folder
    assert TfdsSource(NAME, READ).num_examples("test") == 6


@pytest.fixture
def tfrecords(sequential, tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "tfrecords"
    shutil.copytree(sequential, folder)
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    return folder


def test_tfrecords_are_converted_without_a_download(tfrecords, prepared, monkeypatch):
    source = TfdsSource(NAME, READ)
    with pytest.raises(SourceMissingError, match=r"as TFRecords.*downloads nothing"):
        source.check_present()
    with pytest.raises(SourceMissingError, match="as TFRecords"):
        source.num_examples("train")
    prepare_builder(NAME, tfrecords, manual_dir=tfrecords)
    source.check_present()
    converted = {split: all_rows(source, split) for split in ("train", "test")}
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert converted == {split: all_rows(source, split) for split in ("train", "test")}
    # TFDS itself can read both, and it stays so after another call.
    before = sorted(version_folder(tfrecords).iterdir())
    prepare_builder(NAME, tfrecords, manual_dir=tfrecords)
    assert sorted(version_folder(tfrecords).iterdir()) == before
    again = tfds.builder(NAME, data_dir=tfrecords)
    assert len(list(again.as_dataset(split="dev"))) == 6


@pytest.mark.parametrize("stop_at", ["write_examples", "replace"])
def test_an_interrupted_conversion_is_taken_up_again(tfrecords, monkeypatch, stop_at):
    adapter = tfds.core.file_adapters.ArrayRecordFileAdapter
    owner = adapter if stop_at == "write_examples" else Path
    real, calls = getattr(owner, stop_at), []

    def stops(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, stop_at, stops)
        with pytest.raises(KeyboardInterrupt):
            prepare_builder(NAME, tfrecords, manual_dir=tfrecords)
    with pytest.raises(SourceMissingError, match="as TFRecords"):
        TfdsSource(NAME, READ).check_present()
    prepare_builder(NAME, tfrecords, manual_dir=tfrecords)
    assert TfdsSource(NAME, READ).num_examples("train") == 30
    info = json.loads((version_folder(tfrecords) / "dataset_info.json").read_text())
    assert info["alternativeFileFormats"] == ["array_record"]


def test_damaged_tfrecords_are_named(tfrecords):
    file = next(version_folder(tfrecords).glob("*-dev.tfrecord*"))
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)
    with pytest.raises(SourceError, match=r"-dev\.tfrecord-00000-of-00001 is damaged"):
        prepare_builder(NAME, tfrecords, manual_dir=tfrecords)


def test_an_interrupted_preparation_is_taken_up_again(tmp_path, monkeypatch):
    def stops(self, numbers):
        yield 0, reviewed(0)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FlanJaxTinyReviews, "_generate_examples", stops)
        with pytest.raises(KeyboardInterrupt):
            prepare_builder(NAME, tmp_path, manual_dir=tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(SourceMissingError, match="not prepared"):
        TfdsSource(NAME, READ).check_present()
    prepare_builder(NAME, tmp_path, manual_dir=tmp_path)
    assert TfdsSource(NAME, READ).num_examples("train") == 30


def _raises(error):
    def generate(self, numbers):
        raise error
        yield

    return generate


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no route"), "the download failed"),
        (ImportError("No module named 'beam'", name="beam"), "needs the Python package 'beam'"),
        (OSError("Not enough disk space"), "have enough space"),
        (RuntimeError("odd"), "RuntimeError: odd"),
    ],
)
def test_why_a_preparation_failed(tmp_path, monkeypatch, error, message):
    monkeypatch.setattr(FlanJaxTinyReviews, "_generate_examples", _raises(error))
    with pytest.raises(SourceError, match=message):
        prepare_builder(NAME, tmp_path, manual_dir=tmp_path)
    assert BuilderName.parse(NAME).any_format(tmp_path) is None


def test_files_to_be_got_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(FlanJaxTinyReviews, "MANUAL_DOWNLOAD_INSTRUCTIONS", "Ask\n  the authors.")
    monkeypatch.setattr(
        FlanJaxTinyReviews,
        "_split_generators",
        lambda self, downloads: {"train": (downloads.manual_dir / "x.csv").read_text()},
    )
    manual = tmp_path / "manual"
    for _ in range(2):
        with pytest.raises(SourceError) as error:
            prepare_builder(NAME, tmp_path / "data", manual_dir=manual)
        assert f"Put them into {manual}" in str(error.value)
        assert "Ask the authors." in str(error.value)
        manual.mkdir(exist_ok=True)
        (manual / "other.csv").write_text("")
