"""The manifest: what a store holds and where, in JSON; the file that makes a folder a store.

It holds no time and no path, so that equal rows and definitions give equal bytes, and its own
checksum. It is written last and in one go: a folder shows the old store or the new one.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flan_jax.store.errors import StoreError

FILE = "manifest.json"
FORMAT = "flan_jax store"
VERSION = 1


@dataclass(frozen=True)
class StoredFile:
    """A shard or the index: its name, length and CRC-32."""

    file: str
    bytes: int
    crc32: int


@dataclass(frozen=True)
class StoredSplit:
    """The rows of one split of a task.

    Attributes:
      rows: how many there are.
      bytes: their length, the base included.
      crc32: checksum of these bytes.
      shard: number of the shard they are in.
      first: position in the index of the offset of row 0; that of the base is right before.
      left_out: rows that the source passed over; None if it does not say.
    """

    rows: int
    bytes: int
    crc32: int
    shard: int
    first: int
    left_out: int | None = None


@dataclass(frozen=True)
class StoredTask:
    """One task of a store.

    Attributes:
      splits: what is stored.
      endless: splits without end, which are left to the task's generator.
      rows_hash: see `flan_jax.store.definition.rows_hash`.
      task_hash: see `flan_jax.fingerprint.task_hash`; covers the templates too.
      group, licence, kind, source, versions: of the task and its source.
    """

    splits: Mapping[str, StoredSplit]
    endless: tuple[str, ...]
    rows_hash: str
    task_hash: str
    group: str
    licence: str
    kind: str
    source: str
    versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What a store holds.

    Attributes:
      mixture: name of the mixture that it was built of.
      mixture_hash: `flan_jax.fingerprint.mixture_hash` of what is stored of it.
      splits: the splits that were wanted.
      endless_rows: rows written of splits without end; None if those are left to the generators.
      index: the file of all offsets.
      shards: the files of rows.
      tasks: by name.
      failed: tasks of the mixture that are not stored, and why.
    """

    mixture: str
    mixture_hash: str
    splits: tuple[str, ...]
    endless_rows: int | None
    index: StoredFile
    shards: tuple[StoredFile, ...]
    tasks: Mapping[str, StoredTask]
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


def read_manifest(text: bytes, where: str) -> Manifest:
    """The manifest that `text` holds; `where` names its file in errors.

    Raises:
      StoreError: it is damaged, no manifest, or of another version of the format.
    """
    rebuild = "build the store again with `flan-jax data build`"
    try:
        content = json.loads(text.decode("utf-8"))
        known, version = content["format"] == FORMAT, content["version"]
    except (ValueError, KeyError, TypeError):
        known, version = False, None
    if not known:
        raise StoreError(f"{where} is damaged or no store's manifest: {rebuild}")
    if version != VERSION:
        raise StoreError(
            f"{where} says version {version!r} of the format; this flan_jax reads version "
            f"{VERSION}: {rebuild}, or use the flan_jax that built it"
        )
    if content.pop("crc32", None) != _crc32(content):
        raise StoreError(f"{where} is damaged: its checksum does not fit its content; {rebuild}")
    try:
        return _from_json(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{where} lacks or misplaces {error}; {rebuild}") from None


def _from_json(content: Mapping[str, Any]) -> Manifest:
    tasks = {}
    for name, task in content["tasks"].items():
        splits = {split: StoredSplit(**value) for split, value in task["splits"].items()}
        lists = {key: tuple(task[key]) for key in ("endless", "versions")}
        tasks[name] = StoredTask(**{**task, **lists, "splits": splits})
    return Manifest(
        mixture=content["mixture"],
        mixture_hash=content["mixture_hash"],
        splits=tuple(content["splits"]),
        endless_rows=content["endless_rows"],
        index=StoredFile(**content["index"]),
        shards=tuple(StoredFile(**shard) for shard in content["shards"]),
        tasks=tasks,
        failed=content["failed"],
    )
