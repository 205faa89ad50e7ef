"""Reading a token store: the ids of any (task, row, epoch), without the rows or their templates.

What a store made by `flan-jax data render` gives is what rendering would give, to the bit, as long
as seed, vocabulary, lengths, few-shot policy, templates and rows are those it was made with, which
is checked when it is opened.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from flan_jax.data.examples import ExampleMaker
from flan_jax.data.flat_rows import FlatExamples
from flan_jax.data.packing import INPUTS_CUT, TARGETS_CUT, TokenizedExample
from flan_jax.data.schedule import Draw
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.errors import UserError
from flan_jax.mixing import MixtureDefinition
from flan_jax.objectives import Objective
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.realised import realise
from flan_jax.store.access import Bytes, Folder, open_folder
from flan_jax.store.errors import StoreError
from flan_jax.store.manifest import FILE
from flan_jax.store.token_manifest import (
    LOST,
    RenderedTask,
    TokenManifest,
    prompts_hash,
    read_token_manifest,
    render_command,
    rendering_of,
)
from flan_jax.store.verify import VERIFY, problems

_TRIPLE = struct.Struct("<QQQ")
_NAMED = 5  # changed tasks named in a message


def open_token_store(
    path: str, *, verify: str = "once", options: dict[str, Any] | None = None
) -> TokenStore:
    """The token store at `path`; arguments as for `flan_jax.store.open_store`.

    Raises:
      StoreError: there is none, or a file is missing or damaged; names the file.
    """
    if verify not in VERIFY:
        raise StoreError(f"verify={verify!r}: expected one of {', '.join(VERIFY)}")
    folder = open_folder(path, options)
    text = folder.content(FILE)
    if text is None:
        raise StoreError(
            f"{folder.path} is no token store: there is no {FILE} (it is written last). "
            f"`flan-jax data render MIXTURE --out {folder.path}` makes one"
        )
    manifest = read_token_manifest(text, f"{folder.path}/{FILE}")
    # The two kinds of stores have the same files, and are checked alike.
    found = problems(folder, manifest, verify)  # type: ignore[arg-type]
    if found:
        told = "; ".join(f"{name} {what}" for name, what in found.items())
        command = render_command(manifest.mixture, folder.path, manifest.rendering)
        raise StoreError(
            f"the token store {folder.path} is damaged: {told}. Render it again, which keeps what "
            f"is sound: `{command}`"
        )
    return TokenStore(folder, manifest, options)


class _Place(NamedTuple):
    """Where the block of a task's epoch is: its first offset, rows, shard, truncated rows."""

    first: int
    rows: int
    shard: int
    lost: int


class TokenStore:
    """An open token store; it can be sent to other processes, which open it again.

    Attributes:
      manifest: what it holds.
      path: where it is.
    """

    def __init__(
        self, folder: Folder, manifest: TokenManifest, options: dict[str, Any] | None = None
    ):
        self.manifest = manifest
        self.path = folder.path
        self._options = options
        self._dtype = np.dtype(manifest.rendering.dtype)
        self._process = os.getpid()
        self._places = {
            name: tuple(
                _Place(e.first - 1, e.rows // 2, e.shard, e.left_out or 0) for e in task.epochs
            )
            for name, task in manifest.tasks.items()
        }
        self._lost: dict[tuple[str, int], np.ndarray] = {}
        self._open(folder)

    def _open(self, folder: Folder) -> None:
        self._index = folder.open(self.manifest.index.file)
        self._shards: list[Bytes] = [folder.open(shard.file) for shard in self.manifest.shards]

    def __reduce__(self) -> Any:
        return _open_again, (self.path, self._options, self.manifest.index)

    def __repr__(self) -> str:
        return f"TokenStore({self.path!r}, {len(self.manifest.tasks)} tasks)"

    def read(self, draws: Sequence[tuple[str, int, int]], tasks: Sequence[int]) -> FlatExamples:
        """The tokens of several (task, row, epoch); epochs beyond the stored are the first again.

        Args:
          draws: what to read.
          tasks: number to give to the task of each.

        Raises:
          StoreError: the store is damaged; names the shard.
        """
        if self._process != os.getpid() and "://" in self.path:  # connections are the parent's
            self._process = os.getpid()
            self._open(open_folder(self.path, self._options))
        places = [self._places[name][epoch % len(self._places[name])] for name, _, epoch in draws]
        rows = [row for _, row, _ in draws]
        spans = self._spans(places, rows)
        self._check(spans, places, draws)
        pairs = spans[:, ::2].tolist()
        self._prefetch(places, pairs)
        shards = self._shards
        data = b"".join(
            shards[place.shard].read(start, end)
            for place, (start, end) in zip(places, pairs, strict=True)
        )
        lengths = np.diff(spans, axis=1) // self._dtype.itemsize
        cuts = np.zeros(len(draws), np.int32)
        for position, place in enumerate(places):
            if place.lost:
                inputs, targets = self._lost_of(place, draws[position])
                cuts[position] = INPUTS_CUT * (inputs > 0) | TARGETS_CUT * (targets > 0)
        tokens = np.frombuffer(data, self._dtype)
        return FlatExamples(tokens, lengths, np.asarray(tasks, np.int32), cuts)

    def lost(self, name: str, row: int, epoch: int) -> tuple[int, int]:
        """How many tokens the inputs and targets of an example were cut by."""
        epoch %= len(self._places[name])
        return self._lost_of(self._places[name][epoch], (name, row, epoch))

    def _spans(self, places: Sequence[_Place], rows: Sequence[int]) -> np.ndarray:
        """Begin of the inputs, of the targets, and end, of each row: Int64[rows, 3]."""
        starts = [8 * (place.first + 2 * row) for place, row in zip(places, rows, strict=True)]
        prefetch = getattr(self._index, "prefetch", None)
        if prefetch is not None:
            prefetch([(start, start + _TRIPLE.size) for start in starts])
        read = self._index.read
        data = b"".join([read(start, start + _TRIPLE.size) for start in starts])
        if len(data) != _TRIPLE.size * len(starts):
            raise StoreError(f"{self.path}/{self.manifest.index.file} was cut short")
        return np.frombuffer(data, "<i8").reshape(-1, 3)

    def _check(
        self, spans: np.ndarray, places: Sequence[_Place], draws: Sequence[tuple[str, int, int]]
    ) -> None:
        sizes = np.array([self._shards[place.shard].size for place in places])
        width = self._dtype.itemsize
        sizes_of = np.diff(spans, axis=1)
        bad = (sizes_of < 0).any(axis=1) | (sizes_of % width != 0).any(axis=1)
        bad |= (spans[:, 0] < 0) | (spans[:, 2] > sizes)
        bad |= [not 0 <= d[1] < place.rows for d, place in zip(draws, places, strict=True)]
        if bad.any():
            at = int(bad.argmax())
            name, row, epoch = draws[at]
            shard = self.manifest.shards[places[at].shard].file
            raise StoreError(
                f"{self.path}/{shard}: row {row} of {name} (epoch {epoch}) is not where the index "
                "says: open the store with verify='always', and render it again"
            )

    def _prefetch(self, places: Sequence[_Place], spans: Sequence[tuple[int, int]]) -> None:
        """Asks an object store for all that is needed at once."""
        if not hasattr(self._index, "prefetch"):
            return
        by_shard: dict[int, list[tuple[int, int]]] = {}
        for place, span in zip(places, spans, strict=True):
            by_shard.setdefault(place.shard, []).append(span)
        for shard, wanted in by_shard.items():
            self._shards[shard].prefetch(wanted)  # type: ignore[attr-defined]

    def _lost_of(self, place: _Place, draw: tuple[str, int, int]) -> tuple[int, int]:
        if not place.lost:
            return 0, 0
        name, row, epoch = draw
        key = name, epoch % len(self._places[name])
        table = self._lost.get(key)
        if table is None:
            at = 8 * (place.first + 2 * place.rows)
            start, end = struct.unpack("<QQ", self._index.read(at, at + 16))
            data = self._shards[place.shard].read(start, end)
            table = self._lost[key] = np.frombuffer(data, LOST)
        found = int(np.searchsorted(table["row"], row))
        if found < len(table) and table["row"][found] == row:
            return int(table["inputs"][found]), int(table["targets"][found])
        return 0, 0


def _open_again(path: str, options: dict[str, Any] | None, index: Any) -> TokenStore:
    store = open_token_store(path, verify="never", options=options)
    if store.manifest.index != index:
        raise StoreError(f"the token store {path} was made anew while it was in use: start again")
    return store


@dataclass(frozen=True)
class StoredExamples(ExampleMaker):
    """An ExampleMaker that takes token ids from a store. Epochs beyond the stored begin again.

    Attributes:
      tokens: the store.
    """

    tokens: TokenStore = field(kw_only=True)

    def num_examples(self, position: int) -> int | None:
        """Rows of the task at `position`."""
        return self.tokens.manifest.tasks[self.task_names[position]].rows

    def flat(self, draws: Sequence[Draw]) -> FlatExamples:
        """The token ids of several draws. Raises StoreError if the store is damaged."""
        names = self._names
        return self.tokens.read(
            [(names[draw.task], draw.index, draw.epoch) for draw in draws],
            [draw.task for draw in draws],
        )

    def tokenized(self, draw: Draw) -> TokenizedExample:
        """The token ids of one draw."""
        found = self.flat([draw])
        inputs = int(found.lengths[0, 0])
        tokens = found.tokens.astype(np.int32)
        lost = self.tokens.lost(self._names[draw.task], draw.index, draw.epoch)
        return TokenizedExample(tokens[:inputs], tokens[inputs:], draw.task, *lost)

    @property
    def _names(self) -> tuple[str, ...]:
        return self.task_names


def stored_examples(
    path: str,
    mixture: MixtureDefinition,
    allow_missing: bool,
    inputs: Vocabulary,
    targets: Vocabulary,
    lengths: Mapping[str, int],
    seed: int,
    split: str,
    few_shot: FewShotPolicy,
    objective: Objective | None,
) -> StoredExamples:
    """The examples of a mixture from the token store at `path`.

    Raises:
      MixtureMissingError: tasks are not in the store, and `allow_missing` is not set.
      StoreError: the store is missing or damaged, or was made with other settings or definitions.
    """
    if objective is not None:
        raise UserError(
            "token_store (TOKEN_STORE) holds prompts and targets, which an objective does not "
            "read: set it to None to pre-train, or the objective to None"
        )
    store = open_token_store(path)
    manifest = store.manifest
    now = rendering_of(split, seed, manifest.rendering.epochs, lengths, (inputs, targets), few_shot)
    command = render_command(mixture.name, store.path, now)
    differences = manifest.rendering.differences(now)
    if differences:
        raise StoreError(
            f"the token store {store.path} was made with other settings:\n  "
            + "\n  ".join(differences)
            + f"\n`{command}` renders it anew"
        )
    realised = realise(
        mixture,
        allow_missing=allow_missing,
        why_missing=lambda task: _not_rendered(store, task.name),
        remedy=f"`{command}` renders what is there",
    )
    _check_prompts(store, realised.mixture, command)
    return StoredExamples(
        realised.mixture, inputs, targets, lengths, seed, split, few_shot, None,
        realised.missing, tokens=store,
    )  # fmt: skip


def _not_rendered(store: TokenStore, name: str) -> str | None:
    if name in store.manifest.tasks:
        return None
    why = store.manifest.failed.get(name)
    return f"not in the token store {store.path}" + (f" ({why})" if why else "")


def _check_prompts(store: TokenStore, mixture: MixtureDefinition, command: str) -> None:
    stored: Mapping[str, RenderedTask] = store.manifest.tasks
    changed = [
        task.name
        for task in mixture.tasks()
        if stored[task.name].prompts_hash != prompts_hash(mixture, task)
    ]
    if changed:
        shown = ", ".join(itertools.islice(changed, _NAMED)) + (" …" if changed[_NAMED:] else "")
        raise StoreError(
            f"the token store {store.path} was made of other definitions (rows, templates, or "
            f"weights of the prompt variants) of {len(changed):,} tasks: {shown}. `{command}` "
            "renders those anew and keeps the rest"
        )
