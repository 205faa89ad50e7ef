"""The manifest of a token store: what was rendered, with which settings, and where it lies.

A token store holds the token ids of every row of some tasks, as each of the first few epochs words
it. Its shards and index are written and checked as those of a store of rows
(`flan_jax.store.manifest`). The items of a block, in order: for each row its inputs and its
targets; then a table of the rows that were truncated, and by how many tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shlex
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flan_jax.data.vocabulary import SentencePieceVocabulary, Vocabulary
from flan_jax.fingerprint import task_hash
from flan_jax.mixing import MixtureDefinition
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.store.definition import digest, rows_hash
from flan_jax.store.errors import StoreError
from flan_jax.store.manifest import StoredFile, StoredSplit
from flan_jax.tasks import TaskDefinition

FORMAT = "flan_jax token store"
# Change it with whatever changes the tokens of an example or their place in a block.
VERSION = 1
# Of the table at a block's end: row, tokens that its inputs and targets lost.
LOST = np.dtype([("row", "<u4"), ("inputs", "<u4"), ("targets", "<u4")])


@dataclass(frozen=True)
class Rendering:
    """All settings that decide tokens, apart from the tasks.

    Attributes:
      split: split that rows come from.
      seed: the run's seed.
      epochs: how many epochs are rendered; later ones of a run are the first ones again.
      inputs_length, targets_length: longest inputs and targets.
      inputs_vocabulary, targets_vocabulary: see `describe_vocabulary`.
      few_shot: the policy's fields.
    """

    split: str
    seed: int
    epochs: int
    inputs_length: int
    targets_length: int
    inputs_vocabulary: str
    targets_vocabulary: str
    few_shot: Mapping[str, Any]

    @property
    def dtype(self) -> str:
        """How a token id is written: two bytes if they hold the vocabulary, else four."""
        sizes = [int(v.split(" ids")[0]) for v in (self.inputs_vocabulary, self.targets_vocabulary)]
        return "<u2" if max(sizes) <= 1 << 16 else "<u4"

    def differences(self, other: Rendering) -> list[str]:
        """What is not as in `other`, in words; epochs aside."""
        mine, theirs = asdict(self), asdict(other)
        pairs = [(name, mine[name], theirs[name]) for name in mine if name != "epochs"]
        return [f"{name}: {a!r} in the store, {b!r} now" for name, a, b in pairs if a != b]


def rendering_of(
    split: str,
    seed: int,
    epochs: int,
    lengths: Mapping[str, int],
    vocabularies: tuple[Vocabulary, Vocabulary],
    few_shot: FewShotPolicy,
) -> Rendering:
    """The settings of a reader or of a build."""
    described = map(describe_vocabulary, vocabularies)
    policy = asdict(dataclasses.replace(few_shot, max_tokens=lengths["inputs"]))
    return Rendering(
        split, seed, epochs, lengths["inputs"], lengths["targets"], *described, few_shot=policy
    )


def describe_vocabulary(vocabulary: Vocabulary) -> str:
    """What decides the ids of a text: the number of ids, their kind, and the model's checksum."""
    text = f"{vocabulary.vocab_size} ids, {vocabulary.extra_ids} extra, {type(vocabulary).__name__}"
    if isinstance(vocabulary, SentencePieceVocabulary):
        return f"{text}, sha256 {_sha256(vocabulary.sentencepiece_model_file)}"
    return text


@functools.cache
def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def prompts_hash(mixture: MixtureDefinition, task: TaskDefinition) -> str:
    """16 digits that change with the rows of a task, its templates and its variants' weights.

    `task` is as registered, whatever store its rows are then read from.
    """
    weights = mixture.variants_of(task)
    total = sum(weights.values())
    variants = {name: f"{weight / total:.12g}" for name, weight in weights.items() if weight}
    return digest([VERSION, rows_hash(task), task_hash(task), variants])


@dataclass(frozen=True)
class RenderedTask:
    """One task of a token store.

    Attributes:
      prompts_hash: see `prompts_hash`.
      rows: rows of the split.
      tokens: of all epochs together.
      inputs_cut, targets_cut: examples whose inputs or targets were truncated, of all epochs.
      epochs: where each epoch is; `StoredSplit.left_out` has the examples that were truncated.
    """

    prompts_hash: str
    rows: int
    tokens: int
    inputs_cut: int
    targets_cut: int
    epochs: tuple[StoredSplit, ...]


@dataclass(frozen=True)
class TokenManifest:
    """What a token store holds.

    Attributes:
      mixture: name of the mixture that was rendered.
      shares_hash: `flan_jax.fingerprint.shares_hash` of what is stored of it, for the record: other
        shares of the same tasks may be read from the store.
      rendering: the settings.
      index, shards: the files.
      tasks: by name.
      failed: tasks that were not rendered, and why.
    """

    mixture: str
    shares_hash: str
    rendering: Rendering
    index: StoredFile
    shards: tuple[StoredFile, ...]
    tasks: Mapping[str, RenderedTask]
    failed: Mapping[str, str] = field(default_factory=dict)

    def files(self) -> tuple[StoredFile, ...]:
        """The index and the shards."""
        return (self.index, *self.shards)

    def to_json(self) -> str:
        """The text of the manifest's file."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        content["tasks"] = dict(sorted(content["tasks"].items()))
        content["crc32"] = _crc32(content)
        return json.dumps(content, indent=1) + "\n"


def _crc32(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def read_token_manifest(text: bytes, where: str) -> TokenManifest:
    """The manifest that `text` holds; `where` names its file in errors.

    Raises:
      StoreError: it is damaged, of another version, or not a token store's.
    """
    rebuild = "render it again with `flan-jax data render`"
    try:
        content = json.loads(text.decode("utf-8"))
        found = content["format"], content["version"]
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{where} is damaged or no token store's manifest: {rebuild}") from None
    if found[0] != FORMAT:
        raise StoreError(
            f"{where} is the manifest of a {found[0]!r}, expected a {FORMAT!r}: a store of rows "
            "goes to `store` (STORE); `flan-jax data render` makes token stores"
        )
    if found[1] != VERSION:
        raise StoreError(
            f"{where} says version {found[1]!r}; this flan_jax reads version {VERSION}: {rebuild}"
        )
    if content.pop("crc32", None) != _crc32(content):
        raise StoreError(f"{where} is damaged: its checksum does not fit its content; {rebuild}")
    try:
        tasks = {
            name: RenderedTask(
                **{**task, "epochs": tuple(StoredSplit(**epoch) for epoch in task["epochs"])}
            )
            for name, task in content["tasks"].items()
        }
        return TokenManifest(
            content["mixture"],
            content["shares_hash"],
            Rendering(**content["rendering"]),
            StoredFile(**content["index"]),
            tuple(StoredFile(**shard) for shard in content["shards"]),
            tasks,
            content["failed"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{where} lacks or misplaces {error}; {rebuild}") from None


def render_command(mixture: str, path: str, rendering: Rendering) -> str:
    """The command that renders a mixture with these settings."""
    words = ["flan-jax", "data", "render", mixture, "--out", path]
    words += ["--split", rendering.split, "--seed", str(rendering.seed)]
    words += ["--epochs", str(rendering.epochs)]
    words += ["--inputs_length", str(rendering.inputs_length)]
    words += ["--targets_length", str(rendering.targets_length)]
    return shlex.join(words)
