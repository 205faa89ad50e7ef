"""Which vocabulary a checkpoint was trained with, as its run document keeps it."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from flan_jax.checkpoints.tensors import CheckpointError
from flan_jax.data.vocabulary import ByteVocabulary, SentencePieceVocabulary, Vocabulary
from flan_jax.errors import UserError
from flan_jax.locate import locate

_TOKENIZER = "tokenizer_config.json"
_BINDING = re.compile(
    r"seqio\.(SentencePieceVocabulary|ByteVocabulary)\.(\w+) = (.*?)(?:  # (?:= (.*), )?from .*)?$"
)


def describe_vocabulary(vocabulary: Any) -> dict[str, Any] | None:
    """`{"type": "sentencepiece", "file", "sha256", "extra_ids"}`, or `{"type": "bytes", …}`.

    None for vocabularies of other kinds, which are not compared.
    """
    if isinstance(vocabulary, SentencePieceVocabulary):
        file = vocabulary.sentencepiece_model_file
        return {
            "type": "sentencepiece",
            "file": file,
            "sha256": sha256(Path(file).read_bytes()).hexdigest(),
            "extra_ids": vocabulary.extra_ids,
        }
    if isinstance(vocabulary, ByteVocabulary):
        return {"type": "bytes", "extra_ids": vocabulary.extra_ids}
    return None


def recorded_vocabulary(run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The description in a run document; in older ones what the run's gin configuration binds.

    The latter names a file alone, without its hash.
    """
    if run.get("vocabulary"):
        return dict(run["vocabulary"])
    bound: dict[tuple[str, str], Any] = {}
    for line in (run.get("config") or "").splitlines():
        found = _BINDING.match(line)
        if found is not None:
            with contextlib.suppress(ValueError, SyntaxError):
                bound[found[1], found[2]] = ast.literal_eval(found[4] or found[3])
    for kind, name in (("sentencepiece", "SentencePieceVocabulary"), ("bytes", "ByteVocabulary")):
        values = {each: value for (owner, each), value in bound.items() if owner == name}
        if kind == "sentencepiece" and "sentencepiece_model_file" in values:
            file = values["sentencepiece_model_file"]
            return {"type": kind, "file": file, "extra_ids": values.get("extra_ids", 0)}
        if kind == "bytes" and values:
            return {"type": kind, "extra_ids": values.get("extra_ids", 0)}
    return None


def vocabulary_difference(recorded: Mapping[str, Any] | None, vocabulary: Any) -> str | None:
    """What is different, in words; None if nothing is, or one of the two is not known.

    The number of sentinels may differ: they are ids beyond the pieces, which keep theirs.
    """
    ours = describe_vocabulary(vocabulary)
    if not recorded or ours is None:
        return None
    if recorded.get("type") != ours["type"]:
        return f"of {recorded.get('type')}, not of {ours['type']}"
    if recorded.get("sha256", ours.get("sha256")) != ours.get("sha256"):
        return f"{recorded.get('file')} (SHA-256 {str(recorded.get('sha256'))[:12]}…), not " + (
            f"{ours['file']} (SHA-256 {ours['sha256'][:12]}…)"
        )
    return None


def open_recorded(recorded: Mapping[str, Any] | None) -> Vocabulary | None:
    """The vocabulary, if its file is still here and the same."""
    if not recorded:
        return None
    extra_ids = int(recorded.get("extra_ids", 0))
    if recorded.get("type") == "bytes":
        return ByteVocabulary(extra_ids)
    file = locate(str(recorded.get("file")))
    if recorded.get("type") != "sentencepiece" or file is None or not file.is_file():
        return None
    digest = sha256(file.read_bytes()).hexdigest()
    if recorded.get("sha256", digest) != digest:
        return None
    return SentencePieceVocabulary(str(file), extra_ids)


def open_of_hf(path: str) -> Vocabulary | None:
    """The vocabulary of a Hugging Face folder on this machine; None if it has none of ours.

    Raises:
      CheckpointError: its tokenizer_config.json is damaged.
    """
    from flan_jax.checkpoints.hf import resolve
    from flan_jax.checkpoints.hf.folder import Folder

    folder = Folder(resolve(path))
    settings = folder.json(_TOKENIZER) if folder.has(_TOKENIZER) else {}
    extra_ids = settings.get("extra_ids") if isinstance(settings, dict) else ""
    if not isinstance(extra_ids, int | None):
        raise CheckpointError(
            f"{folder.path}/{_TOKENIZER} must be a map in which extra_ids is a whole number, found"
            f" {settings!r:.60}"
        )
    if settings.get("tokenizer_class") == "ByT5Tokenizer":
        return ByteVocabulary(125 if extra_ids is None else extra_ids)
    model = folder.local("spiece.model")
    if model is None or not model.is_file():
        return None
    try:
        return SentencePieceVocabulary(str(model), extra_ids or 100)
    except UserError:  # other special ids than T5's
        return None
