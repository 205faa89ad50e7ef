"""Vocabularies: ids, sentinels, decoding, messages."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.data.vocabulary import ByteVocabulary, SentencePieceVocabulary
from flan_jax.draws import Draws
from flan_jax.errors import UserError

TEXTS = [
    "A quick test.", "", " ", "two  spaces\nand a line", "naïve café", "x <extra_id_0> y",
    "<extra_id_99><extra_id_1>", "数字 12,345.67", "ﬁ ligature ½", "\u200bzero width", "emoji 🙂",
]  # fmt: skip
WORDS = """the a cat dog sat on mat and ran to see what it was which very quick brown fox jumps over
lazy table window number question answer colour because children written between""".split()


def _train(path: Path, **kwargs) -> Path:
    draws = Draws("sentences")
    lines = [" ".join(draws.choice(WORDS) for _ in range(8)) for _ in range(500)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="unigram", minloglevel=2,
        **{"vocab_size": 60, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, **kwargs},
    )  # fmt: skip
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> SentencePieceVocabulary:
    path = _train(tmp_path_factory.mktemp("vocabulary") / "tiny.model")
    return SentencePieceVocabulary(str(path), extra_ids=5)


@pytest.fixture
def t5(test_data) -> SentencePieceVocabulary:
    return SentencePieceVocabulary(str(test_data / "t5_vocab" / "spiece.model"), extra_ids=100)


def test_sizes_and_special_ids(tiny):
    assert tiny.vocab_size == 65
    assert (tiny.pad_id, tiny.eos_id, tiny.unk_id) == (0, 1, 2)
    assert ByteVocabulary().vocab_size == 259
    assert ByteVocabulary(125).vocab_size == 384  # ByT5's


def test_sentinels_count_from_the_end(tiny):
    assert [tiny.encode(f"<extra_id_{i}>") for i in range(5)] == [[64], [63], [62], [61], [60]]
    ids = tiny.encode("the <extra_id_1> cat")
    assert 63 in ids
    assert tiny.decode(ids).split() == ["the", "<extra_id_1>", "cat"]


def test_decoding_stops_at_the_end_and_skips_padding(tiny):
    ids = tiny.encode("the cat sat")
    assert tiny.decode([0, *ids, 1, *tiny.encode("on the mat"), 1]) == "the cat sat"
    assert tiny.decode([1, *ids]) == ""
    assert tiny.decode([]) == ""


def test_ids_outside_the_vocabulary_decode_as_unknown(tiny):
    # A model's embedding is often padded, so it may say such an id.
    assert tiny.decode([65, 10_000]) == tiny.decode([2, 2])


def test_text_without_unknown_characters_survives(tiny):
    assert tiny.decode(tiny.encode("what was the dog")) == "what was the dog"


@pytest.mark.parametrize("name", ["tiny", "byte"])
def test_pickled_copies_are_equal_and_small(name, tiny):
    vocabulary = tiny if name == "tiny" else ByteVocabulary(3)
    vocabulary.encode("the")  # loads the model, which must not travel
    data = pickle.dumps(vocabulary)
    assert len(data) < 500
    copy = pickle.loads(data)
    assert repr(copy) == repr(vocabulary)
    assert copy.encode("the cat") == vocabulary.encode("the cat")


@given(st.text())
def test_bytes_round_trip(text):
    vocabulary = ByteVocabulary()
    ids = vocabulary.encode(text)
    assert all(3 <= token < 259 for token in ids)
    assert vocabulary.decode([*ids, 1, 50]) == text


def test_bytes_ignore_extra_ids_and_broken_characters():
    assert ByteVocabulary(10).decode([ord("a") + 3, 260, 0xC3 + 3, ord("b") + 3]) == "ab"


def test_a_missing_file_says_what_to_set(tmp_path):
    with pytest.raises(UserError, match=r"absent.model does not exist") as caught:
        SentencePieceVocabulary(str(tmp_path / "absent.model"))
    assert "seqio.SentencePieceVocabulary.sentencepiece_model_file" in str(caught.value)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a model")
    with pytest.raises(UserError, match=r"notes.txt is not a SentencePiece model"):
        SentencePieceVocabulary(str(path))


def test_other_numberings_of_special_ids_are_refused(tmp_path):
    path = _train(tmp_path / "other.model", pad_id=3, eos_id=2, unk_id=0, bos_id=1)
    with pytest.raises(
        UserError, match="expected padding id 0 and end-of-sequence id 1, found 3 and 2"
    ):
        SentencePieceVocabulary(str(path))


def test_t5_s_vocabulary(t5):
    assert t5.vocab_size == 32_100
    assert t5.encode("Hello world!") == [8774, 296, 55]
    assert t5.encode("<extra_id_0> <extra_id_99>") == [32_099, 32_000]


@pytest.mark.slow
@pytest.mark.parametrize("extra_ids", [0, 100])
def test_ids_equal_seqio_s_for_t5(test_data, extra_ids):
    path = str(test_data / "t5_vocab" / "spiece.model")
    ours = SentencePieceVocabulary(path, extra_ids)
    theirs = ours.to_seqio()
    assert (ours.vocab_size, ours.eos_id, ours.pad_id, ours.unk_id) == (
        theirs.vocab_size, theirs.eos_id, theirs.pad_id, theirs.unk_id,
    )  # fmt: skip
    rows = (test_data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:500]
    for text in [*TEXTS, *rows]:
        ids = ours.encode(text)
        assert ids == list(theirs.encode(text)), text
        assert ours.decode([*ids, 1, 5]) == theirs.decode([*ids, 1, 5]), text


@pytest.mark.slow
def test_ids_equal_seqio_s_for_bytes():
    ours = ByteVocabulary(100)
    theirs = ours.to_seqio()
    assert (ours.vocab_size, ours.eos_id) == (theirs.vocab_size, theirs.eos_id)
    for text in TEXTS:
        assert ours.encode(text) == list(theirs.encode(text))
