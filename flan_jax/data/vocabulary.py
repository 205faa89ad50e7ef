"""Vocabularies without TensorFlow: SentencePiece and bytes, with the same ids as SeqIO's.

`flan_jax.data.configurables` gives them SeqIO's names in gin files. `to_seqio` gives SeqIO's own
object where one is needed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import (
    ModelProto,  # pyright: ignore[reportAttributeAccessIssue] (made at run time)
)

from flan_jax.errors import UserError
from flan_jax.locate import locate, search_folders

PAD_ID = 0
EOS_ID = 1


class Vocabulary:
    """Text to ids and back. Ids 0 and 1 are padding and end of sequence in all vocabularies."""

    pad_id = PAD_ID
    eos_id = EOS_ID
    unk_id = 2
    extra_ids = 0

    @property
    def vocab_size(self) -> int:
        """Number of ids, sentinels included."""
        raise NotImplementedError

    @property
    def sentinels(self) -> range:
        """Ids of `<extra_id_0>`, `<extra_id_1>` …, numbered from the end as in T5."""
        return range(self.vocab_size - 1, self.vocab_size - 1 - self.extra_ids, -1)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without an end-of-sequence id."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` up to the first end-of-sequence id; padding is left out."""
        raise NotImplementedError

    def to_seqio(self) -> Any:
        """SeqIO's vocabulary with the same ids. Imports TensorFlow."""
        raise NotImplementedError

    def _until_eos(self, ids: Sequence[int]) -> list[int]:
        kept: list[int] = []
        for token in map(int, ids):
            if token == self.eos_id:
                break
            if token != self.pad_id:
                kept.append(token)
        return kept


@functools.lru_cache(maxsize=8)
def _load_processor(path: str, extra_ids: int) -> sentencepiece.SentencePieceProcessor:
    model = ModelProto()
    model.ParseFromString(Path(path).read_bytes())
    # Sentinels are numbered from the end, as T5's span corruption expects: <extra_id_0> is last.
    for index in reversed(range(extra_ids)):
        model.pieces.add(
            piece=f"▁<extra_id_{index}>",
            score=0.0,
            type=ModelProto.SentencePiece.USER_DEFINED,
        )
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model.SerializeToString())
    return processor


def _find(name: str) -> Path:
    path = locate(name)
    if path is not None:
        return path
    looked = ", ".join(str(folder.resolve()) for folder in search_folders())
    raise UserError(
        f"SentencePiece model {name} does not exist (looked in {looked}): set FLAN_JAX_DATA to the "
        "data folder (docs/data.md has its layout), or "
        "seqio.SentencePieceVocabulary.sentencepiece_model_file to the vocabulary that the "
        "checkpoint was trained with"
    )


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model and `extra_ids` sentinels after it.

    Args:
      sentencepiece_model_file: path of the model; ids 0, 1, 2 must be padding, end and unknown. A
        relative path is looked for in the current folder, the data folder and the package.
      extra_ids: number of sentinels `<extra_id_0>` …; T5's vocabulary has 100.

    Raises:
      UserError: the file is missing, is no SentencePiece model, or numbers its ids otherwise.
    """

    def __init__(self, sentencepiece_model_file: str, extra_ids: int = 0):
        path = _find(str(sentencepiece_model_file))
        self.sentencepiece_model_file = str(path)
        self.extra_ids = extra_ids
        try:
            processor = self._processor
        except Exception as error:
            raise UserError(f"{path} is not a SentencePiece model: {error}") from error
        if (processor.pad_id(), processor.eos_id()) != (PAD_ID, EOS_ID):
            raise UserError(
                f"{path}: expected padding id 0 and end-of-sequence id 1, found "
                f"{processor.pad_id()} and {processor.eos_id()}"
            )

    # Made anew after pickling, because reader workers receive a copy.
    @property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        return _load_processor(self.sentencepiece_model_file, self.extra_ids)

    @property
    def vocab_size(self) -> int:
        return self._processor.GetPieceSize()

    def encode(self, text: str) -> list[int]:
        return self._processor.EncodeAsIds(text)

    def decode(self, ids: Sequence[int]) -> str:
        size = self.vocab_size
        known = [token if token < size else self.unk_id for token in self._until_eos(ids)]
        return self._processor.DecodeIds(known)

    def to_seqio(self) -> Any:
        """The `seqio.SentencePieceVocabulary` with the same ids. Imports TensorFlow."""
        import seqio

        return seqio.SentencePieceVocabulary(self.sentencepiece_model_file, self.extra_ids)

    def __repr__(self) -> str:
        return f"SentencePieceVocabulary({self.sentencepiece_model_file!r}, {self.extra_ids})"


class ByteVocabulary(Vocabulary):
    """UTF-8 bytes after three special ids, as in ByT5 (Xue et al., 2022).

    Args:
      extra_ids: number of ids added at the end.
    """

    def __init__(self, extra_ids: int = 0):
        self.extra_ids = extra_ids

    @property
    def vocab_size(self) -> int:
        return 3 + 256 + self.extra_ids

    def encode(self, text: str) -> list[int]:
        return [byte + 3 for byte in text.encode("utf-8")]

    def decode(self, ids: Sequence[int]) -> str:
        data = bytes(token - 3 for token in self._until_eos(ids) if 3 <= token < 259)
        return data.decode("utf-8", errors="ignore")

    def to_seqio(self) -> Any:
        """The `seqio.ByteVocabulary` with the same ids. Imports TensorFlow."""
        import seqio

        return seqio.ByteVocabulary(self.extra_ids)

    def __repr__(self) -> str:
        return f"ByteVocabulary({self.extra_ids})"
