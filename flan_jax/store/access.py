"""Bytes of a store's files: memory-mapped on this machine, by range requests from elsewhere."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from flan_jax.store.errors import StoreError

# A request waits some 20 ms for an object store and then brings some 100 MB a second: up to a few
# hundred KiB, more bytes cost little, and reading in order gains (docs/adr/009-the-store.md).
BLOCK_BYTES = 128 * 2**10
CACHE_BYTES = 256 * 2**20
_ATTEMPTS = 4


class Bytes(Protocol):
    """A file that is read by position."""

    size: int

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, fewer at the end of the file."""
        ...


class Folder(Protocol):
    """The folder of a store."""

    path: str

    def content(self, name: str) -> bytes | None:
        """A whole file; None if it is not there."""
        ...

    def size(self, name: str) -> int | None:
        """A file's length; None if it is not there."""
        ...

    def open(self, name: str) -> Bytes:
        """A file, to be read by position."""
        ...


class MappedFile:
    """A file of this machine; memory-mapped, so that processes share what they read."""

    def __init__(self, path: Path):
        with path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            self._bytes: Any = b""
            if self.size:  # nothing cannot be mapped
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read(self, start: int, end: int) -> bytes:
        return self._bytes[start:end]


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, path: str | Path):
        self.path = str(Path(path).expanduser().absolute())

    def content(self, name: str) -> bytes | None:
        with self._errors(name):
            try:
                return (Path(self.path) / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def size(self, name: str) -> int | None:
        with self._errors(name):
            try:
                return (Path(self.path) / name).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def open(self, name: str) -> MappedFile:
        with self._errors(name):
            return MappedFile(Path(self.path) / name)

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.path}/{name} cannot be read: {error.strerror or error}"
            ) from error


class RemoteFolder:
    """A folder that fsspec knows: `gs://`, `s3://`, `https://`, `memory://` …

    Args:
      path: its address.
      options: for fsspec's file system, such as credentials.
      block_bytes: least bytes that a request asks for.
      cache_bytes: most bytes that are kept, for all files together.
    """

    def __init__(
        self,
        path: str,
        options: dict[str, Any] | None = None,
        *,
        block_bytes: int = BLOCK_BYTES,
        cache_bytes: int = CACHE_BYTES,
    ):
        import fsspec.core

        self.path = path.rstrip("/")
        # Not fsspec's own cached instance: its connections would not survive a fork.
        with self._errors(""):
            self._fs, self._root = fsspec.core.url_to_fs(
                self.path, skip_instance_cache=True, **(options or {})
            )
        self._block = block_bytes
        self._limit = cache_bytes
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def content(self, name: str) -> bytes | None:
        with self._errors(name):
            try:
                return self._retried(lambda: self._fs.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError:
                return None

    def size(self, name: str) -> int | None:
        with self._errors(name):
            try:
                return self._retried(lambda: self._fs.info(f"{self._root}/{name}"))["size"]
            except FileNotFoundError:
                return None

    def open(self, name: str) -> RangedFile:
        size = self.size(name)
        if size is None:
            raise StoreError(f"{self.path}/{name} is missing")
        return RangedFile(self, name, size)

    def read(self, name: str, size: int, start: int, end: int) -> bytes:
        """Bytes of a file of `size` bytes."""
        end = min(end, size)
        if start >= end:
            return b""
        numbers = range(start // self._block, (end - 1) // self._block + 1)
        blocks = self._blocks(name, size, numbers)
        data = blocks[0] if len(blocks) == 1 else b"".join(blocks)
        begin = numbers[0] * self._block
        return data[start - begin : end - begin]

    def prefetch(self, name: str, size: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Brings all blocks of some ranges at once, with as many requests as fsspec sees fit."""
        wanted = {
            number
            for start, end in ranges
            for number in range(start // self._block, max(start, end - 1) // self._block + 1)
        }
        with self._lock:
            missing = sorted(n for n in wanted if (name, n) not in self._kept)
        if not missing:
            return
        starts = [number * self._block for number in missing]
        ends = [min(start + self._block, size) for start in starts]
        paths = [f"{self._root}/{name}"] * len(missing)
        with self._errors(name):
            found = self._retried(lambda: self._fs.cat_ranges(paths, starts, ends))
        self._keep(name, dict(zip(missing, found, strict=True)))

    def _blocks(self, name: str, size: int, numbers: range) -> list[bytes]:
        found: dict[int, bytes] = {}
        with self._lock:
            for number in numbers:
                if (name, number) in self._kept:
                    self._kept.move_to_end((name, number))
                    found[number] = self._kept[name, number]
        missing = [number for number in numbers if number not in found]
        if missing:
            # What lies between is asked for too: one request costs more than the bytes.
            first, last = missing[0], missing[-1]
            start, end = first * self._block, min((last + 1) * self._block, size)
            with self._errors(name):
                data = self._retried(
                    lambda: self._fs.cat_file(f"{self._root}/{name}", start=start, end=end)
                )
            if len(data) != end - start:
                raise StoreError(
                    f"{self.path}/{name}: asked for {end - start} bytes, got {len(data)}: the file "
                    "has changed, or the server does not answer range requests"
                )
            fresh = {
                n: data[(n - first) * self._block : (n - first + 1) * self._block] for n in missing
            }
            self._keep(name, fresh)
            found.update(fresh)
        return [found[number] for number in numbers]

    def _keep(self, name: str, blocks: dict[int, bytes]) -> None:
        with self._lock:
            for number, data in blocks.items():
                old = self._kept.pop((name, number), b"")
                self._kept[name, number] = data
                self._kept_bytes += len(data) - len(old)
            while self._kept_bytes > self._limit and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._kept_bytes -= len(dropped)

    def _retried(self, ask: Any) -> Any:
        for attempt in range(_ATTEMPTS):
            try:
                return ask()
            except (FileNotFoundError, PermissionError, ImportError):
                raise
            except Exception:  # each file system has errors of its own
                if attempt + 1 == _ATTEMPTS:
                    raise
                time.sleep(0.2 * 4**attempt)
        raise AssertionError

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            where = f"{self.path}/{name}" if name else self.path
            raise StoreError(f"{where} cannot be read: {type(error).__name__}: {error}") from error


class RangedFile:
    """A file of a RemoteFolder."""

    def __init__(self, folder: RemoteFolder, name: str, size: int):
        self._folder, self._name, self.size = folder, name, size

    def read(self, start: int, end: int) -> bytes:
        return self._folder.read(self._name, self.size, start, end)

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Brings some ranges at once."""
        self._folder.prefetch(self._name, self.size, ranges)


def open_folder(path: str | Path, options: dict[str, Any] | None = None) -> Folder:
    """The folder at `path`, on this machine or anywhere that fsspec reads."""
    text = str(path)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" in text:
        return RemoteFolder(text, options)
    return LocalFolder(text)
