"""Vocabularies under SeqIO's gin names, so that T5X's gin files mean ours.

Apart from the classes, because T5X itself gives these names to SeqIO's own classes: a process that
runs T5X imports our tasks, and must not find the names taken.
"""

from __future__ import annotations

import gin

from flan_jax.data.vocabulary import ByteVocabulary, SentencePieceVocabulary

gin.external_configurable(SentencePieceVocabulary, module="seqio")
gin.external_configurable(ByteVocabulary, module="seqio")
