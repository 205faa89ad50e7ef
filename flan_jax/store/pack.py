"""Packing: parts, and tasks of an older store that have not changed, become a store's files.

Shards and index are written under names that tell their content, so they never overwrite those of
the store that is there, and a shard that comes out the same is not written again. The manifest then
replaces the old one in one go; what it does not name is removed last.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from flan_jax.files import write_atomically
from flan_jax.store.definition import digest
from flan_jax.store.errors import StoreError, write_errors
from flan_jax.store.manifest import FILE, Manifest, StoredFile, StoredSplit
from flan_jax.store.parts import Block, Part
from flan_jax.store.reader import Store
from flan_jax.store.verify import forget

SHARDS, INDEX = "rows-", "index-"
# What each task was built from; not in the manifest because times of change are no part of a store.
IDENTITIES = "built_from.json"
# Beginnings of names that a store's files, and halves of them, have; not those to be overwritten.
_OURS = (SHARDS, INDEX, f".{FILE}.", f".{IDENTITIES}.")
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Piece:
    """One block on its way into a shard.

    Attributes:
      task: the task's name.
      block: what it is.
      file, start: where its bytes are.
      offsets: gives the offsets of its items from its begin, its end included.
      reclaim: called if its bytes are damaged, so that the next build does not meet them again.
    """

    task: str
    block: Block
    file: Path
    start: int
    offsets: Callable[[], array[int]]
    reclaim: Callable[[], None]


def pieces_of_part(task: str, part: Part) -> Iterator[Piece]:
    """The blocks of a part."""
    start = 0
    for number, block in enumerate(part.blocks):

        def offsets(number: int = number) -> array[int]:
            return [table for _, table in part.offsets()][number]

        yield Piece(task, block, part.path, start, offsets, part.path.unlink)
        start += block.length


def pieces_of_store(task: str, store: Store) -> Iterator[Piece]:
    """The blocks of a task of a store on this machine's disk."""
    manifest = store.manifest
    for split, stored in manifest.tasks[task].splits.items():

        def offsets(stored: StoredSplit = stored) -> array[int]:
            found = array("Q", store.offsets(stored).tobytes())
            return array("Q", (value - found[0] for value in found))

        block = Block(split, stored.rows, stored.bytes, stored.crc32, stored.left_out)
        shard = Path(store.path) / manifest.shards[stored.shard].file
        start = int(store.offsets(stored)[0])
        yield Piece(task, block, shard, start, offsets, functools.partial(forget, store.path))


@dataclass(frozen=True)
class Packed:
    """What packing gives: the index, the shards, and where each (task, split) is."""

    index: StoredFile
    shards: tuple[StoredFile, ...]
    places: Mapping[tuple[str, str], StoredSplit]


def plan_shards(pieces: Sequence[Piece], size: int) -> list[list[Piece]]:
    """`pieces`, in their order, in groups of about `size` bytes; a piece is never divided."""
    groups: list[list[Piece]] = []
    filled = 0
    for piece in pieces:
        if not groups or filled + piece.block.length > size:
            groups.append([])
            filled = 0
        groups[-1].append(piece)
        filled += piece.block.length
    return groups


def pack(
    pieces: Sequence[Piece], folder: Path, size: int, known: Mapping[str, StoredFile]
) -> Packed:
    """Writes index and shards into `folder`.

    Args:
      pieces: the blocks, in order.
      folder: the store's folder.
      size: length that shards should have.
      known: sound files of the store that is there, by name, which are not written again.

    Raises:
      StoreError: a block is damaged; the next build makes it anew.
      StoreWriteError: no room, no permission.
    """
    groups = plan_shards(pieces, size)
    shards = tuple(_shard(n, group, folder, known) for n, group in enumerate(groups))
    index, places = _index(groups, folder, digest([shard.file for shard in shards]), known)
    return Packed(index, shards, places)


def _shard(
    number: int, group: Sequence[Piece], folder: Path, known: Mapping[str, StoredFile]
) -> StoredFile:
    content = [[p.task, p.block.split, p.block.length, p.block.crc32] for p in group]
    name = f"{SHARDS}{number:05d}-{digest(content)}.bin"
    if name in known:
        return known[name]
    crc = 0
    with _new_file(folder / name) as file:
        for piece in group:
            crc = _copy(piece, file, crc)
        length = file.tell()
    return StoredFile(name, length, crc)


def _copy(piece: Piece, target: BinaryIO, crc: int) -> int:
    """Copies one block; the shard's checksum so far goes in and comes out."""
    own, left = 0, piece.block.length
    with piece.file.open("rb") as file:
        file.seek(piece.start)
        while left and (chunk := file.read(min(left, _CHUNK))):
            own, crc = zlib.crc32(chunk, own), zlib.crc32(chunk, crc)
            target.write(chunk)
            left -= len(chunk)
    if left or own != piece.block.crc32:
        piece.reclaim()
        raise StoreError(
            f"{piece.file}: the rows of {piece.task}, split {piece.block.split}, are damaged and "
            "were given up: run the command again, which builds them anew"
        )
    return crc


def _index(
    groups: Sequence[Sequence[Piece]], folder: Path, name: str, known: Mapping[str, StoredFile]
) -> tuple[StoredFile, dict[tuple[str, str], StoredSplit]]:
    """Writes the index of all shards, unless it is there, and says where each block is."""
    file_name = f"{INDEX}{name}.u64"
    places, position = {}, 0
    with contextlib.ExitStack() as stack:
        file = None
        if file_name not in known:
            file = stack.enter_context(_new_file(folder / file_name))
        crc = length = 0
        for shard, group in enumerate(groups):
            start = 0
            for piece in group:
                block = piece.block
                places[piece.task, block.split] = StoredSplit(
                    block.rows, block.length, block.crc32, shard, position + 1, block.left_out
                )
                position += block.rows + 2
                if file is not None:
                    table = np.frombuffer(piece.offsets(), np.uint64) + np.uint64(start)
                    data = table.astype("<u8").tobytes()
                    crc, length = zlib.crc32(data, crc), length + len(data)
                    file.write(data)
                start += block.length
    return known.get(file_name) or StoredFile(file_name, length, crc), places


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name when it is written, and on the disk, whole."""
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with write_errors(path):
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o644)  # mkstemp's is private
            os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def switch(folder: Path, manifest: Manifest) -> None:
    """Makes `folder` the store of `manifest`, and removes what the store before had."""
    with write_errors(folder):
        _sync_folder(folder)
        text = manifest.to_json()
        if not _holds(folder / FILE, text):
            write_atomically(folder / FILE, text)
            _sync_folder(folder)
        remove_leftovers(folder, {file.file for file in manifest.files()})


def remove_leftovers(folder: Path, wanted: set[str]) -> None:
    """Removes shards and indices that are not `wanted`, and halves of them."""
    for path in folder.iterdir():
        if path.name.startswith(_OURS) and path.name not in wanted:
            path.unlink(missing_ok=True)


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
