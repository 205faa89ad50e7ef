"""Reading a store: any row of any task by index, from its own bytes and its block's base."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flan_jax.sources.base import Row, check_split
from flan_jax.sources.downloads import AnyDownload
from flan_jax.store.access import Bytes, Folder, open_folder
from flan_jax.store.blocks import Block
from flan_jax.store.definition import rows_hash
from flan_jax.store.errors import StoreError
from flan_jax.store.manifest import FILE, Manifest, StoredSplit, StoredTask, read_manifest
from flan_jax.store.verify import VERIFY, check
from flan_jax.suggestions import did_you_mean
from flan_jax.tasks import TaskDefinition


def open_store(
    path: str | Path,
    *,
    verify: str = "once",
    tasks: Iterable[TaskDefinition] = (),
    options: dict[str, Any] | None = None,
) -> Store:
    """The store at `path`.

    Args:
      path: a folder, or an address that fsspec knows: `gs://bucket/store`. Rows are fetched from
        there as they are asked for.
      verify: whether to read all bytes for their checksums: `once` for each state of the files,
        `always`, or `never`. Lengths are looked at in any case.
      tasks: definitions that the store must fit.
      options: for fsspec's file system.

    Raises:
      StoreError: there is no store; a file is missing or damaged; or a definition has changed since
        the store was built. Names the file, or the task.
    """
    if verify not in VERIFY:
        raise StoreError(f"verify={verify!r}: expected one of {', '.join(VERIFY)}")
    folder = open_folder(path, options)
    manifest = load_manifest(folder)
    check(folder, manifest, verify)
    store = Store(folder, manifest, options)
    for task in tasks:
        store.check(task)
    return store


def load_manifest(folder: Folder) -> Manifest:
    """The manifest of a store. Raises StoreError if there is none, or it is damaged."""
    text = folder.content(FILE)
    if text is None:
        raise StoreError(
            f"{folder.path} is no store: there is no {FILE} (a build writes it last). "
            f"`flan-jax data build MIXTURE --out {folder.path}` builds one"
        )
    return read_manifest(text, f"{folder.path}/{FILE}")


class Store:
    """An open store; use `open_store`. It can be sent to other processes, which open it again.

    Attributes:
      manifest: what it holds.
      path: where it is.
    """

    def __init__(
        self,
        folder: Folder,
        manifest: Manifest,
        options: dict[str, Any] | None = None,
        broken: frozenset[str] = frozenset(),
    ):
        self.manifest = manifest
        self.path = folder.path
        self._options = options
        self._folder = folder
        self._process = os.getpid()
        # All at once: a build that replaces the store meanwhile takes nothing away from this one.
        self._index = folder.open(manifest.index.file)
        self._shards: list[Bytes | None] = [
            None if shard.file in broken else folder.open(shard.file) for shard in manifest.shards
        ]
        self._blocks: dict[tuple[str, str], Block] = {}

    def __reduce__(self) -> Any:
        return _open_again, (self.path, self._options, self.manifest.index)

    def __repr__(self) -> str:
        return f"Store({self.path!r}, {len(self.manifest.tasks)} tasks)"

    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(self.manifest.tasks)

    def stored(self, name: str) -> StoredTask:
        """What is stored of a task. Raises StoreError if nothing is."""
        found = self.manifest.tasks.get(name)
        if found is None:
            why = self.manifest.failed.get(name)
            told = f": {why}" if why else did_you_mean(name, self.manifest.tasks)
            raise StoreError(
                f"the store {self.path} (of {self.manifest.mixture!r}) does not hold the task "
                f"{name!r}{told}"
            )
        return found

    def source(self, name: str) -> StoreSource:
        """The rows of a task. Raises StoreError if it is not stored."""
        self.stored(name)
        return StoreSource(self, name)

    def check(self, task: TaskDefinition) -> None:
        """Raises StoreError unless the rows are what `task`, as it is defined now, would give.

        Templates may have changed: they are no part of the rows.
        """
        stored = self.stored(task.name)
        now = rows_hash(task)
        if stored.rows_hash != now:
            shards = {split.shard for split in stored.splits.values()}
            files = ", ".join(self.manifest.shards[number].file for number in sorted(shards))
            raise StoreError(
                f"the definition of the task {task.name} (source, filter or fields) has changed "
                f"since the store {self.path} was built: its rows in {files or 'no shard'} are of "
                f"definition {stored.rows_hash}, now it is {now}. `flan-jax data build "
                f"{self.manifest.mixture} --out {self.path}` builds anew what has changed"
            )

    def apply(self, task: TaskDefinition) -> TaskDefinition:
        """`task` with its rows read from the store. Raises StoreError as `check` does."""
        self.check(task)
        # Only where it is needed: a definition may not be fit to be sent to reader processes.
        definition = task if self.stored(task.name).endless else None
        source = StoreSource(self, task.name, definition)
        return dataclasses.replace(task, source=source, to_fields=None)

    def offsets(self, split: StoredSplit) -> np.ndarray:
        """Offsets in the shard of the base, the rows and the end: UInt64[Array, "rows+2"]."""
        start, end = 8 * (split.first - 1), 8 * (split.first + split.rows + 1)
        return np.frombuffer(self._index.read(start, end), "<u8").astype(np.uint64)

    def block(self, task: str, split: str) -> Block:
        """One split of a task, to be read from."""
        if self._process != os.getpid() and "://" in self.path:
            self._reopen()
        found = self._blocks.get((task, split))
        if found is None:
            found = self._blocks[task, split] = self._open_block(task, split)
        return found

    def _open_block(self, task: str, split: str) -> Block:
        stored = self.stored(task).splits[split]
        shard = self._shards[stored.shard]
        name = self.manifest.shards[stored.shard].file
        if shard is None:
            raise StoreError(f"{self.path}/{name} is damaged")
        return Block(f"{self.path}/{name}", task, split, stored, self._index, shard)

    def _reopen(self) -> None:
        """After a fork: connections are the parent's."""
        self.__init__(open_folder(self.path, self._options), self.manifest, self._options)


def _open_again(path: str, options: dict[str, Any] | None, index: Any) -> Store:
    """The store that another process has open. Raises StoreError if it was replaced since."""
    store = open_store(path, verify="never", options=options)
    if store.manifest.index != index:
        raise StoreError(f"the store {path} was built anew while it was in use: start again")
    return store


@dataclass(frozen=True)
class StoreSource:
    """The rows of one task of a store: the fields of its templates, before anything is drawn.

    Attributes:
      store: the store.
      task: the task's name.
      definition: the task itself if it has splits without end, which no store holds.
    """

    store: Store
    task: str
    definition: TaskDefinition | None = None

    @property
    def kind(self) -> str:
        """`store`."""
        return "store"

    def describe(self) -> str:
        """The source that the rows came from."""
        return f"{self.store.stored(self.task).source}, stored"

    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        stored = self.store.stored(self.task)
        endless = stored.endless if self.definition is not None else ()
        return tuple(n for n in self.store.manifest.splits if n in stored.splits or n in endless)

    def num_examples(self, split: str) -> int | None:
        """Rows in `split`; None if they are generated without end."""
        stored = self.store.stored(self.task).splits.get(split)
        if stored is not None:
            return stored.rows
        self._generated(split)
        return None

    def row(self, split: str, index: int) -> Row:
        """Row `index` of `split`.

        Raises:
          StoreError: the store is damaged; names the shard.
          IndexError: there is no such row.
        """
        if split not in self.store.stored(self.task).splits:
            task = self._generated(split)
            row = task.source.row(split, index)
            return row if task.to_fields is None else task.to_fields(row)
        block = self.store.block(self.task, split)
        if not 0 <= index < block.rows:
            raise IndexError(f"{self.task}: row {index} of {split}, which has {block.rows}")
        return block.row(index)

    def rows(self, split: str, indices: Sequence[int]) -> list[Row]:
        """Several rows; from an object store, with requests that run at the same time."""
        if split in self.store.stored(self.task).splits:
            block = self.store.block(self.task, split)
            block.prefetch([index for index in indices if 0 <= index < block.rows])
        return [self.row(split, index) for index in indices]

    def check_present(self) -> None:
        """An open store is there."""

    def downloads(self) -> tuple[AnyDownload, ...]:
        """Nothing."""
        return ()

    def _generated(self, split: str) -> TaskDefinition:
        if self.definition is None and split in self.store.stored(self.task).endless:
            raise StoreError(
                f"{self.task}: split {split!r} has no end and is not in the store "
                f"{self.store.path}: read it through `Store.apply(task)`, or build the store with "
                "--endless_rows"
            )
        check_split(self, split)
        assert self.definition is not None
        return self.definition
