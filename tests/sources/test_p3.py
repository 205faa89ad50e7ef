"""P3's own records: Parquet and TFRecord files, what is left out, and the way back to templates."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flan_jax.sources import p3, tfrecords
from flan_jax.sources.base import Source, SourceError, SourceMissingError
from flan_jax.sources.downloads import Download, ManualDownload
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE
from flan_jax.sources.p3 import P3Source
from flan_jax.sources.promptsource import Demands, settle

RECORDS = [
    ("Is it good? Great.", "\nYes", ["Yes", "No"]),
    ("Is it good? Bad.", " no ", ["Yes", "No"]),
    ("Is it good? Hm.", "<NO LABEL>", ["Yes", "No"]),
    ("Is it good? Eh.", "Perhaps", ["Yes", "No"]),
    ("Is it good? Oh.", "  ", ["Yes", "No"]),
    ("Is it good? Ah.", "Yes", ["Yes", "Yes "]),
    ("Is it good?\nFine.", "Yes", ["No", "", "Yes"]),
]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    (tmp_path / "p3/good").mkdir(parents=True)
    return tmp_path


def write(path, records=RECORDS, group=2, choices=True):
    """Writes records as the hub's Parquet files have them, token ids included."""
    columns = {
        "inputs": [[71, 1]] * len(records),
        "inputs_pretokenized": [record[0] for record in records],
        "targets": [[2163, 1]] * len(records),
        "targets_pretokenized": [record[1] for record in records],
    }
    if choices:
        columns["answer_choices"] = [record[2] for record in records]
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=group)


def write_tfrecord(path, records=RECORDS, choices=True):
    """Writes records as SeqIO caches them, by TensorFlow."""
    import tensorflow as tf

    def texts(*values):
        encoded = [value.encode() for value in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))

    def ids(*values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for inputs, target, options in records:
            features = {
                "inputs": ids(71, 1),
                "inputs_pretokenized": texts(inputs),
                "targets": ids(2163, 10**12, 1),
                "targets_pretokenized": texts(target),
                "weight": tf.train.Feature(float_list=tf.train.FloatList(value=[1.0])),
            }
            if choices:
                features["answer_choices"] = texts(*options)
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


def source(**changes):
    settings = {"split_names": ("train", "validation"), "demands": Demands(choice=True)} | changes
    return P3Source("good", "goods", "is it good", **settings)


def test_it_is_a_source_and_touches_nothing_when_made():
    assert isinstance(source(), Source)
    assert source().splits() == ("train", "validation")


def test_parquet_records_with_choices(data):
    write(data / "p3/good/train-00000-of-00001.parquet")
    good = source()
    good.check_present()
    assert good.num_examples("train") == 3
    assert good.left_out("train") == 4
    assert [good.row("train", i) for i in range(3)] == [
        {"inputs": "Is it good? Great.", "answer": "Yes", "options": ["Yes", "No"]},
        {"inputs": "Is it good? Bad.", "answer": "No", "options": ["Yes", "No"]},
        {"inputs": "Is it good?\nFine.", "answer": "Yes", "options": ["No", "Yes"]},
    ]
    with pytest.raises(IndexError, match="row 3 of train, which has 3"):
        good.row("train", 3)
    with pytest.raises(SourceError, match="no split 'tests'"):
        good.row("tests", 0)


def test_records_without_choices_need_an_answer_only(data):
    write(data / "p3/good/train.parquet", choices=False)
    good = source(demands=Demands())
    assert (good.num_examples("train"), good.left_out("train")) == (5, 2)
    assert good.row("train", 1) == {"inputs": "Is it good? Bad.", "answer": "no", "options": []}
    with pytest.raises(SourceError, match="no column 'answer_choices'"):
        source().num_examples("train")


def test_parts_are_read_in_order_and_must_be_whole(data):
    first, second = (data / f"p3/good/train-0000{i}-of-00002.parquet" for i in (0, 1))
    write(first, RECORDS[:3])
    with pytest.raises(SourceMissingError, match="1 of the 2 files of the split 'train'"):
        source().num_examples("train")
    write(second, RECORDS[3:])
    assert source().num_examples("train") == 3
    assert source().row("train", 2)["inputs"].endswith("Fine.")
    with pytest.raises(SourceMissingError, match="no records of the split 'validation'"):
        source().num_examples("validation")


def test_tfrecords_give_the_same_rows_and_are_converted_once(data):
    write(data / "p3/good/train.parquet")
    expected = [source().row("train", i) for i in range(3)]
    (data / "p3/good/train.parquet").unlink()
    write_tfrecord(data / "p3/good/train.tfrecord-00000-of-00001")
    source().check_present()
    assert len(list((data / "p3/good").iterdir())) == 1, "looking converts nothing"
    assert [source().row("train", i) for i in range(3)] == expected
    converted = data / "p3/good/train-00000-of-00001.parquet"
    written = converted.stat().st_mtime_ns
    p3._open.cache_clear()
    assert source().num_examples("train") == 3
    assert converted.stat().st_mtime_ns == written
    assert sorted(path.name for path in converted.parent.iterdir()) == [
        "train-00000-of-00001.parquet",
        "train.tfrecord-00000-of-00001",
    ]


def test_an_interrupted_conversion_of_parts_goes_on(data):
    for part, records in enumerate((RECORDS[:3], RECORDS[3:])):
        write_tfrecord(data / f"p3/good/train.tfrecord-0000{part}-of-00002", records)
    write(data / "p3/good/train-00000-of-00002.parquet", RECORDS[:3])
    assert source().num_examples("train") == 3


def test_damaged_tfrecords_are_told(data):
    path = data / "p3/good/train.tfrecord-00000-of-00001"
    write_tfrecord(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(SourceError, match="ends in the middle of record 6"):
        source().num_examples("train")
    path.write_bytes(b"\x00" + whole[1:])
    with pytest.raises(SourceError, match="record 0 has a wrong checksum"):
        source().num_examples("train")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SourceError, match="wrong checksum"):
        source().num_examples("train")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_tfrecords_of_another_task_are_told(data):
    import tensorflow as tf

    path = data / "p3/good/train.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(tf.train.Example().SerializeToString())
    with pytest.raises(SourceError, match="record 0: feature 'inputs_pretokenized' should hold"):
        source().num_examples("train")


def test_damaged_or_foreign_parquet_is_told(data):
    path = data / "p3/good/train.parquet"
    path.write_bytes(b"PAR1 nothing else")
    with pytest.raises(SourceError, match=r"train\.parquet cannot be read as Parquet"):
        source().num_examples("train")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), path)
    with pytest.raises(SourceError, match="no column 'inputs_pretokenized'"):
        source().num_examples("train")


def test_records_of_which_none_is_usable_are_told(data):
    write(data / "p3/good/train.parquet", [(text, "Maybe", ["A", "B"]) for text in "xy"])
    with pytest.raises(SourceError, match="none of the 2 records has an answer that is among"):
        source().num_examples("train")
    assert source(demands=Demands()).num_examples("train") == 2


def test_an_empty_prompt_is_told(data):
    write(data / "p3/good/train.parquet", [RECORDS[0], (" ", "Yes", ["Yes", "No"])])
    with pytest.raises(SourceError, match="record 1 of train has an empty prompt"):
        source().row("train", 1)


def test_without_records_prompts_are_made_anew(data):
    templates = data / "promptsource/goods/templates.yaml"
    templates.parent.mkdir(parents=True)
    with pytest.raises(SourceMissingError, match=r"data fetch good.*Nor can it be made anew"):
        source().check_present()
    templates.write_text(
        "templates: {a: !Template {name: is it good, answer_choices: No ||| Yes, "
        "jinja: 'Is it good? {{ text }}|||{{ answer_choices[label] }}'}}"
    )
    rows = data / "huggingface/goods/default/train"
    rows.mkdir(parents=True)
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{"text": "Great.", "label": 1}]), rows / "0000.parquet"
    )
    good = source()
    good.check_present()
    assert good.num_examples("train") == 1
    row = {"inputs": "Is it good? Great.", "answer": "Yes", "options": ["No", "Yes"]}
    assert good.row("train", 0) == row
    write(data / "p3/good/train.parquet", RECORDS[1:2])
    assert good.row("train", 0)["answer"] == "No", "P3's records come first"


def test_downloads(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    first, second = source().downloads()
    assert first == Download(
        "https://huggingface.co/datasets/bigscience/P3/resolve/main/good/"
        "train-00000-of-00001.parquet",
        "p3/good/train-00000-of-00001.parquet",
    )
    assert second.path == "p3/good/validation-00000-of-00001.parquet"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert source().downloads()[0].url.startswith("https://mirror.example/datasets/bigscience/")
    (large,) = source(in_parts=True).downloads()
    assert isinstance(large, ManualDownload)
    assert "good/*" in large.how


CHOICES = st.lists(st.sampled_from(["Yes", "yes ", "No", "", "\x1cNo", "<NO LABEL>"]), max_size=4)


@pytest.mark.parametrize("batch", [2, 50_000])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(st.tuples(st.sampled_from(["Yes", " no", "", "<NO LABEL>", "A"]), CHOICES)))
def test_the_bulk_rule_is_the_rule_for_single_rows(tmp_path_factory, monkeypatch, batch, records):
    monkeypatch.setattr(p3, "_BATCH", batch)
    path = tmp_path_factory.mktemp("bulk") / "train.parquet"
    text = pyarrow.string()
    schema = pyarrow.schema(
        [
            ("inputs_pretokenized", text),
            ("targets_pretokenized", text),
            ("answer_choices", pyarrow.list_(text)),
        ]
    )
    rows = [
        {"inputs_pretokenized": "No (A)", "targets_pretokenized": answer, "answer_choices": choices}
        for answer, choices in records
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path, row_group_size=3)
    for demands in (Demands(), Demands(choice=True), Demands(shown_as="{}"), Demands(True, "({})")):
        expected = [settle("No (A)", a, filter(None, c), demands) is not None for a, c in records]
        flags = p3._usable(path, demands).tolist()
        assert flags == expected


@given(st.binary(max_size=60))
def test_any_bytes_are_an_example_or_a_value_error(content):
    with contextlib.suppress(ValueError):
        tfrecords.texts_of(content, ("a",))


def test_checksums():
    # CRC-32C of "123456789" is E3069283 (RFC 3720, B.4 and others); masked as TFRecord does.
    crc = 0xE3069283
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert tfrecords.masked_crc32c(b"123456789") == masked


def test_importing_needs_neither_tensorflow_nor_pyarrow():
    code = (
        "import sys, flan_jax.sources.p3; "
        "print(sorted({'tensorflow', 'pyarrow', 'jax', 'tensorflow_datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
