"""All tasks and mixtures in SeqIO's registries at once, as T5X expects of `import`.

Imported by `flan_jax.mixtures` where SeqIO is loaded. What is registered here has T5's vocabulary
and gives way to an explicit `flan_jax.seqio_tasks.register`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import gin

from flan_jax.data.vocabulary import SentencePieceVocabulary, Vocabulary
from flan_jax.locate import locate
from flan_jax.mixing import all_mixtures, deferred_mixtures, get_mixture
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.seqio_tasks import SeqioBuilder
from flan_jax.sources.base import SourceMissingError
from flan_jax.tasks import all_tasks

# T5's vocabulary: in the data folder, else where T5X reads it (as in its public gin files).
T5_FILE = "t5_vocab/spiece.model"
T5_URL = "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model"
# Mixtures of what happens to be on this machine; SeqIO's have fixed members.
_LOCAL = ("real",)


@gin.configurable(module="seqio_tasks")
class DefaultVocabulary(Vocabulary):
    """The vocabulary of what `register_all` registers, loaded when first used.

    Args:
      sentencepiece_model_file: path or URL of the model; T5's if None.
      extra_ids: number of sentinels.
    """

    def __init__(self, sentencepiece_model_file: str | None = None, extra_ids: int = 100):
        self._file = sentencepiece_model_file
        self.extra_ids = extra_ids

    @functools.cached_property
    def _native(self) -> Vocabulary:
        return SentencePieceVocabulary(self._file or T5_FILE, self.extra_ids)

    @property
    def vocab_size(self) -> int:
        return self._native.vocab_size

    def encode(self, text: str) -> list[int]:
        return self._native.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._native.decode(ids)

    def to_seqio(self) -> Any:
        """SeqIO's vocabulary, which loads its file when used. Imports TensorFlow."""
        import seqio

        path = self._file or locate(T5_FILE) or T5_URL
        return seqio.SentencePieceVocabulary(str(path), self.extra_ids)

    def __repr__(self) -> str:
        return f"DefaultVocabulary({self._file!r}, {self.extra_ids})"


def register_all(vocabulary: Vocabulary | None = None) -> None:
    """Adds every task, its variants, and every mixture to SeqIO's registries.

    A task becomes SeqIO task `<task>`, which draws a variant for every example, and one task
    `<task>_<variant>` for each variant; names are as `flan_jax.seqio_tasks.register` has them.

    Args:
      vocabulary: for inputs and targets; DefaultVocabulary if None.
    """
    vocabulary = vocabulary or DefaultVocabulary()
    builder = SeqioBuilder(vocabulary, vocabulary, FewShotPolicy(), by_default=True)
    for task in all_tasks():
        builder.add_with_variants(task)
    names = [*(mixture.name for mixture in all_mixtures()), *deferred_mixtures()]
    for name in names:
        if name in _LOCAL:
            continue
        try:
            builder.add_mixture(get_mixture(name))
        except SourceMissingError:
            continue  # a user's mixture of what is there, and nothing is


__all__ = ["T5_URL", "DefaultVocabulary", "register_all"]
