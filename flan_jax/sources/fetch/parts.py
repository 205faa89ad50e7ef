"""Files under way: their bytes so far, and a note of what those bytes are the beginning of.

They lie in the data folder's state folder instead of beside the final files, because datasets are
partly found by patterns such as `dev/*`, which must never match half a file.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from flan_jax.files import write_atomically
from flan_jax.sources.fetch.errors import local_errors


@dataclass(frozen=True)
class PartNote:
    """What a part belongs to.

    Attributes:
      url: the address that was asked, after mirrors.
      validator: a strong ETag or a date by which the server tells whether the content changed.
      total: length of the whole; None if the server did not say.
    """

    url: str
    validator: str | None
    total: int | None


class Part:
    """One file under way. To be used only by the holder of its lock."""

    def __init__(self, folder: Path, key: str):
        self.file = folder / f"{key}.part"
        self._note = folder / f"{key}.json"
        self._outputs = folder / f"{key}.unpacked"

    def size(self) -> int:
        """Bytes so far."""
        try:
            return self.file.stat().st_size
        except FileNotFoundError:
            return 0

    def note(self) -> PartNote | None:
        """What was noted; None if there is no note that can be read."""
        try:
            return PartNote(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def begin(self, note: PartNote) -> None:
        """Starts anew: no bytes, and this note. The note goes first: no bytes without their own."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.unlink(missing_ok=True)
        self.amend(note)

    def amend(self, note: PartNote) -> None:
        """Replaces the note."""
        write_atomically(self._note, json.dumps(dataclasses.asdict(note)))

    def output(self, number: int) -> Path:
        """Where the `number`th file unpacked from this one is written before it is moved."""
        self._outputs.mkdir(parents=True, exist_ok=True)
        return self._outputs / str(number)

    def discard(self) -> None:
        """Removes everything."""
        self.file.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self.discard_outputs()

    def discard_outputs(self) -> None:
        """Removes unpacked files that were not moved."""
        shutil.rmtree(self._outputs, ignore_errors=True)


def write_all(file: io.FileIO, data: bytes) -> None:
    """Writes all of `data` to a file without a buffer: closing a buffer can fail once more.

    Raises:
      FetchError: the disk is full, or the like.
    """
    rest = memoryview(data)
    with local_errors(file.name):
        while rest:
            rest = rest[file.write(rest) :]


def settle(file: Path) -> None:
    """Makes the bytes of `file` survive a power cut."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_into_place(file: Path, target: Path) -> None:
    """Moves a finished `file` to `target` in one step; its time of change stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(file, target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    # A subfolder of the data folder can be a link to another file system.
    near = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copy2(file, near)
        settle(near)
        os.replace(near, target)
    finally:
        near.unlink(missing_ok=True)
    file.unlink()
