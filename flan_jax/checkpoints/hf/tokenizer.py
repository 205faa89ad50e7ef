"""Tokenizer files for transformers' AutoTokenizer, made of our vocabulary or copied.

transformers 4 and 5 then give the ids that our vocabulary gives, but for texts that spell out a
special token: `</s>`, `<pad>`, `<unk>` and sentinels without spaces around them (`a<extra_id_0>.`)
are recognised by transformers, and by SentencePiece not.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from sentencepiece.sentencepiece_model_pb2 import (
    ModelProto,  # pyright: ignore[reportAttributeAccessIssue] (made at run time)
)

from flan_jax.checkpoints.hf.folder import Folder
from flan_jax.checkpoints.hf.hub import resolve
from flan_jax.data.vocabulary import ByteVocabulary, SentencePieceVocabulary, Vocabulary

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "spiece.model",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
_SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
_UNIGRAM = 1
_SAMPLES = (
    "Hello world",
    "  two  spaces\nand lines ",
    "1,234.5 × ½ — naïve ﬁ",
    "Ω {x} ~ 日本 🙂 ▁a",
)


def copy_tokenizer(source: str | Path, target: Path) -> list[str]:
    """Copies a Hugging Face folder's tokenizer files.

    Returns:
      Lines for the user; none if the folder has no tokenizer.

    Raises:
      CheckpointError: a file cannot be read.
    """
    folder = Folder(resolve(source))
    names = [name for name in folder.names() if name in _FILES]
    for name in names:
        (target / name).write_bytes(folder.content(name))
    return [f"tokenizer: copied {', '.join(names)}"] if names else []


def write_tokenizer(target: Path, vocabulary: Vocabulary, *, decoder_only: bool) -> list[str]:
    """Writes files from which AutoTokenizer makes a tokenizer that equals the vocabulary.

    Args:
      target: folder.
      vocabulary: ours.
      decoder_only: whether what is encoded begins with id 0, as the prompts of our decoder-only
        models do, rather than end with `</s>`, as the inputs of T5 do.

    Returns:
      Lines for the user.
    """
    if isinstance(vocabulary, ByteVocabulary) and not decoder_only:
        _write_config(target, "ByT5Tokenizer", vocabulary.extra_ids)
        return ["tokenizer: ByT5Tokenizer"]
    if not isinstance(vocabulary, SentencePieceVocabulary):
        return [f"no tokenizer files: transformers has no tokenizer for {vocabulary!r} here"]
    shutil.copyfile(vocabulary.sentencepiece_model_file, target / "spiece.model")
    fast, why_not = build_fast(vocabulary, decoder_only=decoder_only)
    if fast is not None:
        fast.save(str(target / "tokenizer.json"))
    # T5Tokenizer always appends </s>.
    kind = "PreTrainedTokenizerFast" if decoder_only else "T5Tokenizer"
    _write_config(target, kind, vocabulary.extra_ids)
    if fast is not None:
        return ["tokenizer: spiece.model and tokenizer.json"]
    return [f"tokenizer: spiece.model without tokenizer.json: {why_not}"]


def _write_config(target: Path, kind: str, extra_ids: int) -> None:
    sentinels = [f"<extra_id_{index}>" for index in range(extra_ids)]
    config: dict[str, Any] = {
        **_SPECIAL,
        "tokenizer_class": kind,
        "additional_special_tokens": sentinels,
        "clean_up_tokenization_spaces": False,
    }
    if kind == "PreTrainedTokenizerFast":
        config |= {"bos_token": _SPECIAL["pad_token"], "padding_side": "left"}
    else:
        config["extra_ids"] = extra_ids
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (target / "tokenizer_config.json").write_text(text, encoding="utf-8")


def build_fast(vocabulary: SentencePieceVocabulary, *, decoder_only: bool) -> tuple[Any, str]:
    """A `tokenizers.Tokenizer` with the vocabulary's ids, or None and the reason.

    It repeats SentencePiece's steps in its order: character map, extra spaces, "▁" for spaces and
    one before the text; then the unigram model on words.
    """
    try:
        import tokenizers as lib  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None, "the package tokenizers is not installed (pip install 'flan_jax[hf]')"
    proto = ModelProto()
    proto.ParseFromString(Path(vocabulary.sentencepiece_model_file).read_bytes())
    trainer, spec = proto.trainer_spec, proto.normalizer_spec
    plain = spec.add_dummy_prefix and spec.remove_extra_whitespaces and spec.escape_whitespaces
    defined = any(piece.type == ModelProto.SentencePiece.USER_DEFINED for piece in proto.pieces)
    if trainer.model_type != _UNIGRAM or trainer.byte_fallback or not plain or defined:
        return None, "it is no plain unigram model, and transformers makes its own of spiece.model"
    sentinels = [f"<extra_id_{index}>" for index in range(vocabulary.extra_ids)]
    scores = [(piece.piece, piece.score) for piece in proto.pieces]
    scores += [(sentinel, 0.0) for sentinel in reversed(sentinels)]
    fast = lib.Tokenizer(lib.models.Unigram(scores, unk_id=vocabulary.unk_id, byte_fallback=False))
    steps = [
        lib.normalizers.Replace(lib.Regex(r"\A +| +\z"), ""),
        lib.normalizers.Replace(lib.Regex(" {2,}"), " "),
        lib.normalizers.Replace(" ", "▁"),
        lib.normalizers.Prepend("▁"),
    ]
    if spec.precompiled_charsmap:
        steps.insert(0, lib.normalizers.Precompiled(spec.precompiled_charsmap))
    fast.normalizer = lib.normalizers.Sequence(steps)
    fast.pre_tokenizer = lib.pre_tokenizers.Split(lib.Regex("▁"), "merged_with_next")
    fast.decoder = lib.decoders.Metaspace(replacement="▁", prepend_scheme="always")
    names = [scores[index][0] for index in (vocabulary.pad_id, vocabulary.eos_id, 2)]
    fast.add_special_tokens([lib.AddedToken(name, normalized=False) for name in names + sentinels])
    if any(fast.encode(text).ids != vocabulary.encode(text) for text in _SAMPLES):
        return None, "tokenizers encodes it otherwise than SentencePiece"
    pad, eos = names[0], names[1]
    fast.post_processor = lib.processors.TemplateProcessing(
        single=f"{pad} $A" if decoder_only else f"$A {eos}",
        pair=f"{pad} $A $B" if decoder_only else f"$A {eos} $B {eos}",
        special_tokens=[(pad, vocabulary.pad_id), (eos, vocabulary.eos_id)],
    )
    return fast, ""
