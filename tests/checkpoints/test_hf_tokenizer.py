"""Tokenizer files: tokenizer.json encodes as SentencePiece does; copies; what cannot be made."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flan_jax.checkpoints.hf.tokenizer import build_fast, copy_tokenizer, write_tokenizer
from flan_jax.data.vocabulary import ByteVocabulary, SentencePieceVocabulary, Vocabulary
from flan_jax.locate import locate

# Spelt out in a text, these are one token to transformers, and characters to SentencePiece.
SPECIAL = ("<pad>", "</s>", "<unk>", "<extra_id_")


@pytest.fixture(scope="module")
def t5(test_data) -> SentencePieceVocabulary:
    return SentencePieceVocabulary(str(test_data / "t5_vocab" / "spiece.model"), 100)


@pytest.fixture(scope="module")
def fast(t5):
    pytest.importorskip("tokenizers", reason="tokenizers is not installed: make transformers")
    found, why_not = build_fast(t5, decoder_only=False)
    assert found is not None, why_not
    return found


LETTERS = st.one_of(
    st.characters(codec="utf-8", exclude_categories=("Cs",)),
    st.sampled_from(" \n\t.,'▁\u3000\u200b\u0301ﬁ½eaiotnsr" + " " * 10),
)


@settings(deadline=None, max_examples=400)
@given(text=st.text(LETTERS, max_size=40))
@example(text="")
@example(text=" \n ")
@example(text="a <extra_id_0> b <extra_id_99>")
@example(text="▁▁a ▁ b")
def test_the_same_ids_for_any_text(t5, fast, text):
    if any(name in text for name in SPECIAL) and "<extra_id_0> b" not in text:
        return
    assert fast.encode(text).ids == [*t5.encode(text), 1]


def test_sentences_of_a_real_dataset(t5, fast, test_data):
    lines = (test_data / "gsm8k").rglob("*.jsonl")
    texts = [line for file in lines for line in file.read_text().split("\n")[:200] if line]
    assert len(texts) >= 200
    for text in texts:
        assert fast.encode(text).ids == [*t5.encode(text), 1]
    assert fast.decode(fast.encode("Hello world, again").ids) == "Hello world, again"


def test_ids_of_sentinels_and_special_tokens(fast):
    names = ("<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_99>")
    assert [fast.token_to_id(name) for name in names] == [0, 1, 2, 32099, 32000]
    assert fast.get_vocab_size() == 32100


def test_prompts_of_decoder_only_models_begin_with_0(t5, fast):
    found, _ = build_fast(t5, decoder_only=True)
    assert found.encode("Hello world").ids == [0, 8774, 296]


def test_files_of_a_sentencepiece_model(t5, fast, tmp_path):
    notes = write_tokenizer(tmp_path, t5, decoder_only=False)
    assert notes == ["tokenizer: spiece.model and tokenizer.json"]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (config["tokenizer_class"], config["extra_ids"]) == ("T5Tokenizer", 100)
    copied = SentencePieceVocabulary(str(tmp_path / "spiece.model"), 100)
    assert copied.encode("Hello world") == [8774, 296]


def test_without_the_package_tokenizers(t5, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    (note,) = write_tokenizer(tmp_path, t5, decoder_only=False)
    assert "without tokenizer.json: the package tokenizers is not installed" in note
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["spiece.model", "tokenizer_config.json"]


def test_the_micro_vocabulary(fast, tmp_path):
    """Whatever kind of model it is: a tokenizer.json is there only if it is exact."""
    path = locate("mixtures/micro/vocabulary/micro.model")
    assert path is not None
    vocabulary = SentencePieceVocabulary(str(path), 100)
    (note,) = write_tokenizer(tmp_path, vocabulary, decoder_only=False)
    made, why_not = build_fast(vocabulary, decoder_only=False)
    assert (made is None) == ("without tokenizer.json" in note) == bool(why_not)
    if made is not None:
        for text in ("What is 2 + 3?", "naïve Ω", ""):
            assert made.encode(text).ids == [*vocabulary.encode(text), 1]


def test_bytes(tmp_path):
    write_tokenizer(tmp_path, ByteVocabulary(125), decoder_only=False)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (config["tokenizer_class"], config["extra_ids"]) == ("ByT5Tokenizer", 125)


@pytest.mark.parametrize("vocabulary", [ByteVocabulary(), Vocabulary()])
def test_vocabularies_that_transformers_has_not(tmp_path, vocabulary):
    (note,) = write_tokenizer(tmp_path, vocabulary, decoder_only=True)
    assert "no tokenizer files" in note
    assert not list(tmp_path.iterdir())


def test_copies(t5, fast, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    assert copy_tokenizer(source, target) == []
    write_tokenizer(source, t5, decoder_only=False)
    (source / "model.safetensors").touch()
    (note,) = copy_tokenizer(source, target)
    assert note == "tokenizer: copied spiece.model, tokenizer.json, tokenizer_config.json"
    for file in target.iterdir():
        assert file.read_bytes() == (source / file.name).read_bytes()
    assert len(list(target.iterdir())) == 3
