"""Part files: the rows of one task, built by whichever process, and packed into shards later.

A part is the rows' bytes, block after block (a block is the base of a task's split and its rows,
see `flan_jax.store.rows`), then the offsets of all items, then a footer in JSON, its length and a
mark. It appears under its name when it is whole, so that a build that was killed goes on after the
last task that it finished. The name holds the task's identity: a digest of all that decides the
bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from flan_jax.sources.base import Row, SourceError
from flan_jax.store.definition import digest, left_out, rows_hash, source_state
from flan_jax.store.errors import StoreError, write_errors
from flan_jax.store.rows import RowEncoder, base_of
from flan_jax.tasks import TaskDefinition

# Written into every identity: change it with whatever changes the bytes of a block.
BLOCK_VERSION = 1
_MARK = b"flanpart"
_TAIL = struct.Struct("<Q8s")
_BUFFER = 1 << 20


@dataclass(frozen=True)
class Block:
    """One split of a task in a part.

    Attributes:
      split: its name.
      rows: how many there are.
      length: bytes of the base and the rows.
      crc32: checksum of these bytes.
      left_out: rows that the source passed over; None if it does not say.
    """

    split: str
    rows: int
    length: int
    crc32: int
    left_out: int | None = None


@dataclass(frozen=True)
class PartPlan:
    """What is to be built of one task.

    Attributes:
      task: its name.
      splits: the splits wanted; those that the task lacks are passed over.
      endless_rows: rows to write of a split without end; None to leave it to its generator.
      identity: digest of all that decides the bytes.
    """

    task: str
    splits: tuple[str, ...]
    endless_rows: int | None
    identity: str

    @property
    def file(self) -> str:
        """The name of the part's file."""
        return f"{self.task[:100]}.{self.identity}.part"


def plan_part(task: TaskDefinition, splits: Sequence[str], endless_rows: int | None) -> PartPlan:
    """The plan for a task; looks at the file system, but reads no data unless it must count."""
    state = source_state(task.source)
    identity = digest([BLOCK_VERSION, rows_hash(task), list(splits), endless_rows, state])
    return PartPlan(task.name, tuple(splits), endless_rows, identity)


@dataclass(frozen=True)
class Part:
    """A part that is there: its file, blocks, splits without end, and where the offsets begin."""

    path: Path
    blocks: tuple[Block, ...]
    endless: tuple[str, ...]
    data_length: int

    def offsets(self) -> Iterator[tuple[Block, array[int]]]:
        """The offsets of each block's items from the block's begin, and its end."""
        with self.path.open("rb") as file:
            file.seek(self.data_length)
            for block in self.blocks:
                found = array("Q")
                found.fromfile(file, block.rows + 2)
                if sys.byteorder == "big":
                    found.byteswap()
                yield block, found


def open_part(path: Path) -> Part | None:
    """The part at `path`; None if there is none, or it is not whole."""
    try:
        with path.open("rb") as file:
            end = file.seek(-_TAIL.size, os.SEEK_END)
            length, mark = _TAIL.unpack(file.read(_TAIL.size))
            if mark != _MARK or length > end:
                return None
            file.seek(end - length)
            footer = json.loads(file.read(length))
        blocks = tuple(Block(**block) for block in footer["blocks"])
        data = sum(block.length for block in blocks)
        if data + sum(8 * (block.rows + 2) for block in blocks) + length != end:
            return None
        return Part(path, blocks, tuple(footer["endless"]), data)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_part(task: TaskDefinition, plan: PartPlan, folder: Path) -> Part:
    """Reads all rows of a task and writes its part; the part that is there already, if there is.

    Raises:
      SourceError: data are missing or bad; names task, split and row.
      StoreWriteError: the folder cannot be written to, or is full.
    """
    path = folder / plan.file
    known = open_part(path)
    if known is not None:
        return known
    check = getattr(task.source, "check_present", None)  # a user's source may lack it
    if check is not None:
        check()
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=folder, suffix=".tmp")
    try:
        with _closing(os.fdopen(descriptor, "wb"), path) as file:
            _write(task, plan, file)
        with write_errors(path):
            os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    part = open_part(path)
    if part is None:
        raise StoreError(f"{path} was not written whole: run the command again")
    return part


@contextlib.contextmanager
def _closing(file: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """Closes `file`, which may write; errors of reading the source are not taken for that."""
    try:
        yield file
    finally:
        with write_errors(path):
            file.close()


def _write(task: TaskDefinition, plan: PartPlan, file: BinaryIO) -> None:
    blocks, endless, tables = [], [], []
    for split in plan.splits:
        if split not in task.source.splits():
            continue
        size = task.source.num_examples(split)
        if size is None and plan.endless_rows is None:
            endless.append(split)
            continue
        count = plan.endless_rows if size is None else size
        assert count is not None
        block, offsets = _write_block(task, split, count, file.write)
        blocks.append(block)
        tables.append(offsets)
    footer = json.dumps({"blocks": [asdict(b) for b in blocks], "endless": endless}).encode()
    with write_errors(file.name):
        for offsets in tables:
            if sys.byteorder == "big":
                offsets.byteswap()
            offsets.tofile(file)
        file.write(footer + _TAIL.pack(len(footer), _MARK))
        file.flush()


def _write_block(
    task: TaskDefinition, split: str, count: int, write: Callable[[bytearray], Any]
) -> tuple[Block, array[int]]:
    first = _fields(task, split, 0) if count else {}
    encoder = _attempt(task, split, 0, lambda: RowEncoder(base_of(first)))
    offsets = array("Q", [0])
    waiting = bytearray(encoder.base_bytes)
    offsets.append(len(waiting))
    crc = written = 0

    def flush() -> None:
        nonlocal crc, written
        with write_errors(f"the part of {task.name}"):
            write(waiting)
        crc = zlib.crc32(waiting, crc)
        written += len(waiting)
        waiting.clear()

    for index in range(count):
        fields = _fields(task, split, index) if index else first
        waiting += _attempt(task, split, index, lambda fields=fields: encoder.encode(fields))
        offsets.append(written + len(waiting))
        if len(waiting) >= _BUFFER:
            flush()
    flush()
    return Block(split, count, written, crc, left_out(task.source, split)), offsets


def _fields(task: TaskDefinition, split: str, index: int) -> Row:
    """The fields of a row before anything is drawn; checked as reading would check them."""
    row = task.source.row(split, index)
    fields = _attempt(task, split, index, lambda: task.to_fields(row) if task.to_fields else row)
    if task.draw_fields is None and not isinstance(fields.get("answer"), str):
        raise SourceError(
            f"{task.name}: row {index} of {split} has no text in field `answer`, "
            f"found {fields.get('answer')!r}"
        )
    return fields


def _attempt(task: TaskDefinition, split: str, index: int, make: Callable[[], Any]) -> Any:
    """`make()`, whose errors are told with the row that they came with."""
    try:
        return make()
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(
            f"{task.name}: row {index} of {split}: {type(error).__name__}: {error}"
        ) from error
