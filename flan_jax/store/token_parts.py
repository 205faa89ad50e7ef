"""Rendering one task into a part file, by whichever process.

A part is the blocks of the task's epochs, then the offsets of their items, then a footer in JSON,
its length and a mark. It appears under its name when it is whole; the name holds the identity of
all that decides the bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flan_jax.data.examples import ExampleMaker
from flan_jax.data.schedule import Draw
from flan_jax.errors import UserError
from flan_jax.sources.base import SourceError
from flan_jax.store.errors import StoreError, StoreWriteError, write_errors
from flan_jax.store.pack import Piece
from flan_jax.store.parts import Block
from flan_jax.store.token_manifest import LOST
from flan_jax.store.workers import PartResult

_MARK = b"flantokn"
_TAIL = struct.Struct("<Q8s")
_BUFFER = 1 << 20


@dataclass(frozen=True)
class TokenPlan:
    """What is to be rendered: the task's name and position in the mixture, and the part's name."""

    task: str
    position: int
    identity: str

    @property
    def file(self) -> str:
        """The name of the part's file."""
        return f"{self.task[:100]}.{self.identity}.part"


@dataclass(frozen=True)
class TokenPart:
    """A part that is there. `counts` has tokens, and examples with truncated inputs and targets."""

    path: Path
    blocks: tuple[Block, ...]
    rows: int
    counts: tuple[int, int, int]

    def pieces(self, task: str) -> Iterator[Piece]:
        """Its blocks, on their way into shards."""
        start, table = 0, sum(block.length for block in self.blocks)
        for block in self.blocks:

            def offsets(table: int = table, count: int = block.rows + 2) -> array[int]:
                with self.path.open("rb") as file:
                    file.seek(table)
                    return array("Q", np.frombuffer(file.read(8 * count), "<u8").tolist())

            yield Piece(task, block, self.path, start, offsets, self.path.unlink)
            start += block.length
            table += 8 * (block.rows + 2)


def open_token_part(path: Path) -> TokenPart | None:
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
        if sum(b.length + 8 * (b.rows + 2) for b in blocks) + length != end:
            return None
        return TokenPart(path, blocks, footer["rows"], tuple(footer["counts"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def build_token_part(
    maker: ExampleMaker, epochs: int, dtype: str, plan: TokenPlan, folder: Path
) -> PartResult:
    """Writes one part; errors are told, not raised."""
    try:
        _write_part(maker, epochs, dtype, plan, folder)
    except StoreWriteError as error:
        return PartResult(plan.task, str(error), fatal=True)
    except UserError as error:
        return PartResult(plan.task, str(error))
    except Exception as error:  # whatever a source or a field function of the user's own may raise
        return PartResult(plan.task, f"{type(error).__name__}: {error}")
    return PartResult(plan.task)


def _write_part(
    maker: ExampleMaker, epochs: int, dtype: str, plan: TokenPlan, folder: Path
) -> None:
    path = folder / plan.file
    if open_token_part(path) is not None:
        return
    rows = maker.num_examples(plan.position)
    if rows is None:
        raise SourceError(
            f"{plan.task}: split {maker.split!r} has no end, so not all of it can be rendered: "
            "store some of it with `flan-jax data build --endless_rows N`, and render that store"
        )
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=folder, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            writer = _Writer(file, np.dtype(dtype), plan.task)
            for epoch in range(epochs):
                writer.block(maker, plan.position, rows, epoch)
            writer.finish(rows)
        with write_errors(path):
            os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    if open_token_part(path) is None:
        raise StoreError(f"{path} was not written whole: run the command again")


class _Writer:
    """Writes a part, block after block."""

    def __init__(self, file: BinaryIO, dtype: np.dtype, task: str):
        self._file, self._dtype, self._task = file, dtype, task
        self._blocks: list[Block] = []
        self._tables: list[array[int]] = []
        self._counts = np.zeros(3, np.int64)

    def block(self, maker: ExampleMaker, position: int, rows: int, epoch: int) -> None:
        """Renders and writes all rows of one epoch."""
        offsets, lost, waiting = array("Q", [0]), [], bytearray()
        written = crc = 0
        for row in range(rows):
            example = maker.tokenized(Draw(position, row, epoch))
            for tokens in (example.inputs, example.targets):
                waiting += tokens.astype(self._dtype).tobytes()
                offsets.append(written + len(waiting))
            self._counts[0] += len(example.inputs) + len(example.targets)
            if example.cut:
                lost.append((row, example.inputs_lost, example.targets_lost))
                self._counts[1:] += example.inputs_lost > 0, example.targets_lost > 0
            if len(waiting) >= _BUFFER:
                crc, written = self._write(waiting, crc), written + len(waiting)
                waiting.clear()
        waiting += np.array(lost, LOST).tobytes()
        crc, written = self._write(waiting, crc), written + len(waiting)
        offsets.append(written)
        self._tables.append(offsets)
        self._blocks.append(Block(f"{maker.split}/{epoch}", 2 * rows, written, crc, len(lost)))

    def _write(self, data: bytearray, crc: int) -> int:
        with write_errors(f"the part of {self._task}"):
            self._file.write(data)
        return zlib.crc32(data, crc)

    def finish(self, rows: int) -> None:
        """Writes offsets and footer."""
        content: dict[str, Any] = {
            "blocks": [asdict(block) for block in self._blocks],
            "rows": rows,
            "counts": self._counts.tolist(),
        }
        footer = json.dumps(content).encode()
        with write_errors(f"the part of {self._task}"):
            for table in self._tables:
                self._file.write(np.array(table, "<u8").tobytes())
            self._file.write(footer + _TAIL.pack(len(footer), _MARK))
            self._file.flush()
