"""Parts on their way from workers to the process that packs them, where no disk is common to both.

They meet at an address that fsspec knows, such as a bucket. Of each part there are two files, whose
names hold its identity: the part, and its result, which is written after it and tells length and
checksum. A part without a result, or with another length or checksum, is as good as none.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flan_jax.storage_retries import ATTEMPTS, FIRST_WAIT, NO_ROOM, retried
from flan_jax.store.errors import StoreError, write_errors
from flan_jax.store.parts import PartPlan, open_part
from flan_jax.store.workers import PartResult

_THREADS = 8
_BUFFER = 1 << 20
# What the extra `remote` brings the packages of.
_REMOTE = ("gs", "gcs", "s3", "s3a", "http", "https")


@dataclass(frozen=True)
class _Note:
    """What a result says: what became of a part, and its file's length and checksum."""

    task: str
    error: str
    fatal: bool
    length: int
    crc32: int


class Exchange:
    """A place for parts.

    Args:
      address: a folder, or what fsspec knows, such as `gs://bucket/folder`.
      attempts: how often a request is made that fails in a way that may pass.
      wait: seconds before the second attempt, about twice as long before each further one.

    Raises:
      StoreError: the address is none, nobody knows its scheme, or a package is missing for it.
    """

    def __init__(self, address: str | Path, *, attempts: int = ATTEMPTS, wait: float = FIRST_WAIT):
        self.address = _absolute(str(address))
        self._fs, self._root = _file_system(self.address)
        self._attempts = attempts
        self._wait = wait

    def check(self) -> None:
        """Writes, reads and deletes a file, and makes the folder if it is one of this machine.

        Raises:
          StoreError: one of these is not possible; says which.
        """
        from fsspec.implementations.local import LocalFileSystem

        probe = f".flan-jax-{uuid.uuid4().hex}"
        with self._errors("write to"):
            if isinstance(self._fs, LocalFileSystem):
                Path(self._root).mkdir(parents=True, exist_ok=True)
            self._retried(lambda: self._fs.pipe_file(self._at(probe), b"probe"))
        with self._errors("read from"):
            self._retried(lambda: self._fs.cat_file(self._at(probe)))
        with self._errors("delete in"):
            self._delete(probe)

    def exists(self, plan: PartPlan) -> bool:
        """Whether the part is there, as far as its length tells.

        Raises:
          StoreError: the storage does not answer.
        """
        note = self._note(plan)
        if note is None or note.error:
            return False
        with self._errors("read", plan.file):
            try:
                found = self._retried(lambda: self._fs.info(self._at(plan.file)))
            except FileNotFoundError:
                return False
        return found["size"] == note.length

    def put(self, plan: PartPlan, result: PartResult, folder: Path) -> None:
        """Sends the part that lies in `folder`, if it was built, and then its result.

        Raises:
          StoreError: the storage refuses it or does not answer.
        """
        length = crc = 0
        if not result.error:
            path = folder / plan.file
            length, crc = _measured(path)
            with self._errors("write", plan.file):
                self._retried(lambda: self._fs.put_file(str(path), self._at(plan.file)))
        note = _Note(result.task, result.error, result.fatal, length, crc)
        text = json.dumps(asdict(note)).encode("utf-8")
        with self._errors("write", _result_of(plan)):
            self._retried(lambda: self._fs.pipe_file(self._at(_result_of(plan)), text))

    def take(
        self, plans: Sequence[PartPlan], folder: Path
    ) -> Iterator[tuple[PartPlan, PartResult | None]]:
        """Brings parts into `folder`, several at a time; they stay here too.

        Gives what became of each: None if there is no result, or not the part that it tells of.

        Raises:
          StoreError: the storage does not answer, or `folder` is full.
        """
        there = self._names()
        pool = ThreadPoolExecutor(_THREADS)

        def take(plan: PartPlan) -> PartResult | None:
            return self._take(plan, folder) if _result_of(plan) in there else None

        try:
            yield from zip(plans, pool.map(take, plans), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)

    def clear(self, plans: Sequence[PartPlan]) -> None:
        """Deletes what there is of some parts, and nothing else.

        Raises:
          StoreError: the storage refuses it or does not answer.
        """
        there = self._names()
        names = [name for plan in plans for name in (_result_of(plan), plan.file) if name in there]
        with self._errors("delete in"), ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(self._delete, names):
                pass

    def _take(self, plan: PartPlan, folder: Path) -> PartResult | None:
        note = self._note(plan)
        if note is None:
            return None
        if note.error:
            return PartResult(plan.task, note.error, note.fatal)
        with write_errors(folder):
            descriptor, partial = tempfile.mkstemp(dir=folder, suffix=".tmp")
            os.close(descriptor)
        try:
            with self._errors("read", plan.file):
                self._retried(lambda: self._fs.get_file(self._at(plan.file), partial))
            if _measured(Path(partial)) != (note.length, note.crc32):
                return None
            if open_part(Path(partial)) is None:
                return None
            os.replace(partial, folder / plan.file)
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        finally:
            Path(partial).unlink(missing_ok=True)
        return PartResult(plan.task)

    def _note(self, plan: PartPlan) -> _Note | None:
        """What the result of a part says; None if there is none, or half of one."""
        with self._errors("read", _result_of(plan)):
            try:
                text = self._retried(lambda: self._fs.cat_file(self._at(_result_of(plan))))
            except FileNotFoundError:
                return None
        try:
            return _Note(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def _names(self) -> set[str]:
        with self._errors("list"):
            self._fs.invalidate_cache()
            try:
                found = self._retried(lambda: self._fs.ls(self._root, detail=False))
            except FileNotFoundError:  # a bucket has no empty folders
                return set()
        return {path.rsplit("/", 1)[-1] for path in found}

    def _delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._retried(lambda: self._fs.rm_file(self._at(name)))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _retried(self, ask: Callable[[], Any]) -> Any:
        return retried(ask, self._attempts, self._wait)

    @contextlib.contextmanager
    def _errors(self, action: str, name: str = "") -> Iterator[None]:
        where = f"{self.address}/{name}" if name else self.address
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # each file system has errors of its own
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                with write_errors(where):
                    raise
            hint = ""
            if isinstance(error, FileNotFoundError):
                hint = " (is there such a bucket or folder, and does this machine reach it?)"
            raise StoreError(
                f"cannot {action} {where}: {type(error).__name__}: {error}{hint}"
            ) from error


def _result_of(plan: PartPlan) -> str:
    return f"{plan.file}.json"


def _measured(path: Path) -> tuple[int, int]:
    """Length and checksum of a file."""
    length = crc = 0
    with write_errors(path), path.open("rb") as file:
        while data := file.read(_BUFFER):
            length += len(data)
            crc = zlib.crc32(data, crc)
    return length, crc


def _absolute(address: str) -> str:
    address = address.removeprefix("file://")
    scheme, mark, place = address.partition("://")
    if not address or (mark and not (scheme and place.strip("/"))):
        raise StoreError(f"{address!r} names no bucket or folder for an exchange")
    if mark:
        return address.rstrip("/")
    return str(Path(address).expanduser().absolute())


def _file_system(address: str) -> tuple[Any, str]:
    import fsspec.core

    try:
        return fsspec.core.url_to_fs(address)
    except ImportError as error:
        advice = f"{error}"
        if address.partition("://")[0] in _REMOTE:
            advice = "pip install 'flan_jax[remote]'"
        raise StoreError(f"{address} needs a package that is not installed: {advice}") from error
    except Exception as error:
        raise StoreError(f"{address}: {error}") from error
