"""The files of a checkpoint's folder, on this machine or on storage that fsspec knows."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec.core
from fsspec.implementations.local import LocalFileSystem

from flan_jax.checkpoints.tensors import CheckpointError


class Folder:
    """A folder whose files are read whole or in ranges.

    Args:
      path: a local path, or an address such as `gs://bucket/model`.

    Raises:
      CheckpointError: the folder does not exist or cannot be read.
    """

    def __init__(self, path: str | Path):
        self.path = str(path).rstrip("/")
        with self._errors(""):
            self._fs, self._root = fsspec.core.url_to_fs(self.path)
            found = self._fs.isdir(self._root)
        if not found:
            raise CheckpointError(
                f"{self.path} is not a folder: expected one with config.json and"
                " model.safetensors (Hugging Face's format)"
            )

    def names(self) -> list[str]:
        """Names of the files in it, sorted."""
        with self._errors(""):
            return sorted(Path(name).name for name in self._fs.ls(self._root, detail=False))

    def has(self, name: str) -> bool:
        with self._errors(name):
            return self._fs.isfile(f"{self._root}/{name}")

    def size(self, name: str) -> int:
        """Bytes of a file."""
        with self._errors(name):
            return int(self._fs.info(f"{self._root}/{name}")["size"])

    def content(self, name: str) -> bytes:
        """A whole file. Raises CheckpointError if it cannot be read."""
        with self._errors(name):
            return self._fs.cat_file(f"{self._root}/{name}")

    def json(self, name: str) -> Any:
        """What a JSON file holds. Raises CheckpointError if it is not JSON."""
        try:
            return json.loads(self.content(name))
        except ValueError as error:
            raise CheckpointError(f"{self.path}/{name} is not JSON: {error}") from error

    def open(self, name: str) -> RangedFile:
        """A file to be read in ranges."""
        with self._errors(name):
            # No read-ahead: what is asked for is large, and memory is to stay bounded.
            file = self._fs.open(f"{self._root}/{name}", "rb", cache_type="none")
        return RangedFile(f"{self.path}/{name}", file, self.size(name))

    def local(self, name: str) -> Path | None:
        """A file's path on this machine; None if the folder lies elsewhere."""
        local = isinstance(self._fs, LocalFileSystem)
        return Path(self._root) / name if local else None

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        where = f"{self.path}/{name}" if name else self.path
        try:
            yield
        except ImportError as error:
            raise CheckpointError(
                f"{where} cannot be read: {error} (pip install 'flan_jax[remote]')"
            ) from error
        except CheckpointError:
            raise
        # Storage libraries have exceptions of their own, which share no base class but this.
        except Exception as error:
            detail = str(error) or type(error).__name__
            raise CheckpointError(
                f"{where} cannot be read: {detail}. Check the address and the credentials."
            ) from error


class RangedFile:
    """A file of `size` bytes of which ranges are read into memory."""

    def __init__(self, path: str, file: Any, size: int):
        self.path, self.size = path, size
        self._file, self._lock = file, threading.Lock()

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fills `target` from `offset` bytes on. Raises CheckpointError if the file is shorter."""
        done = 0
        with self._lock:
            try:
                self._file.seek(offset)
                while done < len(target):
                    count = self._file.readinto(target[done:])
                    if not count:
                        break
                    done += count
            except Exception as error:
                raise CheckpointError(f"{self.path} cannot be read: {error}") from error
        if done < len(target):
            raise CheckpointError(
                f"{self.path} is truncated: it ends at byte {offset + done}, expected"
                f" {offset + len(target)} or more. Copy or download it again."
            )

    def read(self, offset: int, size: int) -> bytearray:
        data = bytearray(size)
        self.read_into(memoryview(data), offset)
        return data

    def close(self) -> None:
        self._file.close()
