"""Vocabularies noted in run documents, compared and found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flan_jax.checkpoints.own import read_run
from flan_jax.checkpoints.tensors import CheckpointError
from flan_jax.checkpoints.vocabulary_record import (
    describe_vocabulary,
    open_of_hf,
    open_recorded,
    recorded_vocabulary,
    vocabulary_difference,
)
from flan_jax.data.vocabulary import ByteVocabulary, SentencePieceVocabulary

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "mixtures/micro/vocabulary/micro.model"


def test_sentencepiece(tmp_path: Path):
    vocabulary = SentencePieceVocabulary(str(MODEL), 100)
    record = describe_vocabulary(vocabulary)
    assert record is not None and len(record["sha256"]) == 64
    assert vocabulary_difference(record, vocabulary) is None
    assert vocabulary_difference(record, SentencePieceVocabulary(str(MODEL), 0)) is None
    found = open_recorded(record)
    assert found is not None and found.encode("a b") == vocabulary.encode("a b")
    # A copy is the same, another file of the same name is not.
    shutil.copy(MODEL, tmp_path / "copy.model")
    assert (
        vocabulary_difference(record, SentencePieceVocabulary(str(tmp_path / "copy.model"))) is None
    )
    other = record | {"sha256": "0" * 64}
    assert open_recorded(other) is None
    message = vocabulary_difference(other, vocabulary)
    assert message is not None and "SHA-256 000000000000" in message
    assert open_recorded(record | {"file": "absent.model"}) is None


def test_bytes_and_the_unknown():
    record = describe_vocabulary(ByteVocabulary(3))
    assert record == {"type": "bytes", "extra_ids": 3}
    found = open_recorded(record)
    assert isinstance(found, ByteVocabulary) and found.extra_ids == 3
    sentencepiece = SentencePieceVocabulary(str(MODEL))
    assert vocabulary_difference(record, sentencepiece) == "of bytes, not of sentencepiece"
    assert describe_vocabulary(object()) is None
    assert vocabulary_difference(record, object()) is None
    assert vocabulary_difference(None, sentencepiece) is None
    assert open_recorded(None) is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            "seqio.SentencePieceVocabulary.extra_ids = 7  # from a.gin:3\n"
            "seqio.SentencePieceVocabulary.sentencepiece_model_file = %FILE  # = 'x', from b.gin:1",
            {"type": "sentencepiece", "file": "x", "extra_ids": 7},
        ),
        ("seqio.ByteVocabulary.extra_ids = 5", {"type": "bytes", "extra_ids": 5}),
        ("seqio.ByteVocabulary.extra_ids = @f()", None),
        ("", None),
    ],
)
def test_what_older_documents_bind(config, expected):
    assert recorded_vocabulary({"config": config}) == expected
    said = {"type": "bytes", "extra_ids": 1}
    assert recorded_vocabulary({"config": config, "vocabulary": said}) == said


def test_the_shipped_models_vocabulary_is_found():
    run = read_run(ROOT / "mixtures/micro/base/checkpoint_1500")
    found = open_recorded(recorded_vocabulary(run))
    assert isinstance(found, SentencePieceVocabulary)
    assert found.vocab_size <= 2048


def test_of_hugging_face_folders(tmp_path: Path):
    assert open_of_hf(str(tmp_path)) is None
    shutil.copy(MODEL, tmp_path / "spiece.model")
    found = open_of_hf(str(tmp_path))
    assert isinstance(found, SentencePieceVocabulary) and found.extra_ids == 100
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 7}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    found = open_of_hf(str(tmp_path))
    assert found is not None and found.extra_ids == 7
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "spiece.model").write_text("no model")
    assert open_of_hf(str(tmp_path / "bad")) is None
    config = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 5}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert describe_vocabulary(open_of_hf(str(tmp_path))) == {"type": "bytes", "extra_ids": 5}


@pytest.mark.parametrize("text", ["{", "[]", '{"extra_ids": "a"}'])
def test_damaged_tokenizer_config(tmp_path: Path, text: str):
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        open_of_hf(str(tmp_path))
