"""Records of what was fetched, and whether what lies in the data folder still is that.

One small JSON file for each fetched file, written whole or not at all, so that processes that fetch
at the same time never write the same record. A file whose length and time of change are those in
its record is not read again; any other is, and its checksum compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from flan_jax.files import write_atomically
from flan_jax.sources.downloads import Download
from flan_jax.sources.fetch.plan import STATE_FOLDER

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Record:
    """What was fetched to one path.

    Attributes:
      url: where it came from.
      member: the member of the archive there, as in `Download`.
      source_sha256: checksum of what lay at `url`.
      sha256: checksum of the file itself.
      size: its length in bytes.
      mtime_ns: its time of change, in nanoseconds.
      recorded: when, in UTC.
    """

    url: str
    member: str | None
    source_sha256: str
    sha256: str
    size: int
    mtime_ns: int
    recorded: str


@dataclass(frozen=True)
class Presence:
    """Whether a file is there and in order.

    Attributes:
      there: whether there is anything at its path.
      problem: what is wrong with it, "" if nothing is known to be.
      detail: how far it was checked.
      size: its length.
    """

    there: bool
    problem: str = ""
    detail: str = ""
    size: int | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do."""
        return self.there and not self.problem


class Records:
    """The records of a data folder."""

    def __init__(self, data_folder: Path):
        self._data_folder = data_folder
        self._folder = data_folder / STATE_FOLDER / "records"

    def path(self, path: str) -> Path:
        """Where the record of the file at `path` lies."""
        return self._folder / f"{path}.json"

    def read(self, path: str) -> Record | None:
        """The record of `path`; None if there is none that can be read."""
        try:
            return Record(**json.loads(self.path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, download: Download, source_sha256: str, file: Path) -> None:
        """Records that `file` is about to become the file of `download`."""
        checksum = source_sha256 if download.member is None else sha256_of(file)
        self._write(download, source_sha256, checksum, file.stat())

    def _write(
        self, download: Download, source_sha256: str, checksum: str, stat: os.stat_result
    ) -> None:
        record = Record(
            url=download.url,
            member=download.member,
            source_sha256=source_sha256,
            sha256=checksum,
            size=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            recorded=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        text = json.dumps(dataclasses.asdict(record), indent=1)
        write_atomically(self.path(download.path), text + "\n")

    def examine(self, download: Download, *, thorough: bool = False) -> Presence:
        """Looks at the file of `download`; reads it only where its record leaves a doubt.

        Args:
          download: the file.
          thorough: read it in any case.

        Raises:
          OSError: the file is there and cannot be read.
        """
        file = self._data_folder / download.path
        try:
            stat = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return Presence(False)
        if not file.is_file():
            return Presence(True, f"{file} is not a file: move it away")
        size = stat.st_size
        record = self.read(download.path)
        if record is not None and (record.url, record.member) == (download.url, download.member):
            if download.sha256 and record.source_sha256 != download.sha256.lower():
                return Presence(True, _outdated(download, record), size=size)
            if (record.size, record.mtime_ns) == (size, stat.st_mtime_ns) and not thorough:
                return Presence(True, size=size)
            origin, source_sha256 = "as it was fetched", record.source_sha256
            return self._compared(download, source_sha256, record.sha256, origin, stat)
        if download.sha256 and download.member is None:
            stated = download.sha256.lower()
            return self._compared(download, stated, stated, "by its definition", stat)
        if download.size is not None and download.member is None and download.size != size:
            problem = f"expected {download.size} bytes, found {size}" + _REMEDY
            return Presence(True, problem, size=size)
        return Presence(True, detail="not checked: no checksum is known", size=size)

    def _compared(
        self,
        download: Download,
        source_sha256: str,
        expected: str,
        origin: str,
        stat: os.stat_result,
    ) -> Presence:
        """Compares checksums; one that is right is recorded, so that the next look is quick."""
        found = sha256_of(self._data_folder / download.path)
        if found != expected:
            problem = f"expected SHA-256 {expected} ({origin}), found {found}" + _REMEDY
            return Presence(True, problem, size=stat.st_size)
        with contextlib.suppress(OSError):  # the folder may be someone else's
            self._write(download, source_sha256, expected, stat)
        return Presence(True, detail="checksum is right", size=stat.st_size)

    def source_sha256(self, download: Download) -> str | None:
        """Checksum of what was at the address of `download` when it was fetched before."""
        record = self.read(download.path)
        return record.source_sha256 if record is not None and record.url == download.url else None


_REMEDY = "; delete the file, or fetch with --replace"


def _outdated(download: Download, record: Record) -> str:
    return (
        f"fetched from content with SHA-256 {record.source_sha256}, while the definition now "
        f"states {download.sha256}" + _REMEDY
    )


def sha256_of(file: Path) -> str:
    """The SHA-256 checksum of `file`, in hex."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
