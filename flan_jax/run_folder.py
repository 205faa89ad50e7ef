"""A run's folder of small files, which may lie in a bucket, where files cannot be appended to.

Metrics, configurations and results are written to a folder on this machine; of a bucket's address,
that is a temporary one: what the bucket holds is brought when the run begins, and what is new or
changed is sent back whole, again and again while it goes on. Checkpoints go to the address itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from flan_jax.errors import UserError
from flan_jax.storage_retries import ATTEMPTS, FIRST_WAIT, retried

SYNC_PERIOD = 30.0  # seconds, between what is sent as metrics come
_CHECKPOINTS = "checkpoint_"
_LARGE = 1 << 30  # bytes; of files like that, none is a run's
_THREADS = 8

Version = tuple[int, int]


class RunFolderError(UserError):
    """A run's folder in a bucket cannot be read or written."""


class RunFolder:
    """A folder of small files at an address.

    As a context manager it begins with `bring` and ends with `sync` and `close`; when an error ends
    the block, what was written is sent all the same.

    Args:
      address: a folder, or what fsspec knows, such as `gs://bucket/folder`.
      process: of the processes with this address, only number 0 brings what is there.
      prefix: only files whose names, relative to the address, begin so are brought.
      setting: what the address was given as, for messages.
      attempts: how often a request is made that fails in a way that may pass.
      wait: seconds before the second attempt, about twice as long before each further one.

    Attributes:
      address: the address.
      local: the folder on this machine in which to read and write.

    Raises:
      RunFolderError: nobody knows the address's scheme, or a package is missing for it.
    """

    def __init__(
        self,
        address: str | Path,
        process: int = 0,
        *,
        prefix: str = "",
        setting: str = "MODEL_DIR",
        attempts: int = ATTEMPTS,
        wait: float = FIRST_WAIT,
    ):
        self.address = str(address)
        self._process, self._prefix, self._setting = process, prefix, setting
        self._attempts, self._wait = attempts, wait
        self._known: dict[str, Version] = {}
        self._tried = time.monotonic()
        self._fs: Any = None
        self.local = Path(self.address)
        if is_address(address):
            self.address = self.address.rstrip("/")
            self._fs, self._root = _file_system(self.address, setting)
            self.local = Path(tempfile.mkdtemp(prefix="flan-jax-"))

    def __enter__(self) -> RunFolder:
        try:
            self.bring()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.sync()
        except RunFolderError as failed:
            kept = f"{failed}\nWhat could not be sent is in {self.local} on this machine"
            if error is None:
                raise RunFolderError(kept) from failed
            print(f"flan-jax: {kept}", file=sys.stderr, flush=True)
            return
        self.close()

    def bring(self) -> None:
        """Makes sure that the address can be written to, and brings its files, checkpoints aside.

        Raises:
          RunFolderError: it cannot be written to or read; says what to change.
        """
        if self._fs is None:
            return
        self._check()
        if self._process != 0:
            return
        with self._errors("read"), ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(self._get, self._names()):
                pass

    def sync(self) -> None:
        """Sends each file that is new or changed, and deletes at the address what was deleted here.

        Files and folders whose names begin with a dot are unfinished, and left out.

        Raises:
          RunFolderError: the storage refuses it or does not answer; what is missing is sent the
            next time.
        """
        if self._fs is None:
            return
        self._tried = time.monotonic()
        found = dict(_versions(self.local))
        with self._errors("delete in"):
            for name in sorted(set(self._known) - set(found)):
                self._delete(name)
                del self._known[name]
        changed = [name for name, version in found.items() if self._known.get(name) != version]
        with self._errors("write to"), ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(lambda name: self._put(name, found[name]), changed):
                pass

    def try_sync(self, say: Callable[[str], None], every: float = 0.0) -> None:
        """As `sync`, but a failure is only told: the next one tries again.

        Args:
          say: told what failed.
          every: seconds that must have passed since the last attempt; else nothing is done.
        """
        if time.monotonic() - self._tried < every:
            return
        try:
            self.sync()
        except RunFolderError as error:
            say(f"{error}\nIt is tried again; until then it is in {self.local}")

    def shown(self, path: Path | str) -> str:
        """How a path below `local` is called at the address."""
        if self._fs is None:
            return str(path)
        return f"{self.address}/{Path(path).relative_to(self.local).as_posix()}"

    def close(self) -> None:
        """Deletes the temporary folder of an address."""
        if self._fs is not None:
            shutil.rmtree(self.local, ignore_errors=True)

    def _check(self) -> None:
        probe = f".flan-jax-{uuid.uuid4().hex}"
        try:
            with self._errors("write to"):
                self._retried(lambda: self._fs.pipe_file(self._at(probe), b"probe"))
            with self._errors("delete in"):
                self._retried(lambda: self._fs.rm_file(self._at(probe)))
        except RunFolderError as error:
            raise RunFolderError(
                f"{error}\nCheck the name in {self._setting}, that the bucket exists and can be "
                "reached from here, and that your credentials (GOOGLE_APPLICATION_CREDENTIALS, or "
                "`gcloud auth application-default login`) may create and delete objects in it; or "
                f"set {self._setting} to another folder"
            ) from error

    def _names(self) -> list[str]:
        """Names of the files at the address, relative to it."""
        self._fs.invalidate_cache()
        try:
            top = self._retried(lambda: self._fs.ls(self._root, detail=True))
        except FileNotFoundError:  # a bucket has no empty folders
            return []
        found: dict[str, Any] = {}
        for info in top:
            name = self._relative(info["name"])
            if name.startswith(_CHECKPOINTS) or not _may_begin(name, self._prefix):
                continue
            if info["type"] == "file":
                found[name] = info
            elif name:
                folder = self._at(name)
                below = self._retried(lambda folder=folder: self._fs.find(folder, detail=True))
                found |= {self._relative(path): each for path, each in below.items()}
        sizes = {name: info["size"] or 0 for name, info in found.items()}
        wanted = [name for name, size in sizes.items() if _is_wanted(name, size)]
        return [name for name in wanted if name.startswith(self._prefix)]

    def _get(self, name: str) -> None:
        try:
            data = self._retried(lambda: self._fs.cat_file(self._at(name)))
        except FileNotFoundError:  # deleted since it was listed
            return
        path = self.local / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._known[name] = _version(path.stat())

    def _put(self, name: str, version: Version) -> None:
        try:
            # Not put_file, which a file that grows meanwhile confuses.
            data = (self.local / name).read_bytes()
        except FileNotFoundError:
            return
        self._retried(lambda: self._fs.pipe_file(self._at(name), data))
        self._known[name] = version

    def _delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._retried(lambda: self._fs.rm_file(self._at(name)))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _relative(self, path: str) -> str:
        return path.strip("/").removeprefix(self._root.strip("/")).strip("/")

    def _retried(self, ask: Callable[[], Any]) -> Any:
        return retried(ask, self._attempts, self._wait)

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each file system has errors of its own
            raise RunFolderError(
                f"cannot {action} {self.address}: {type(error).__name__}: {error}"
            ) from error


def is_address(path: str | Path) -> bool:
    """Whether `path` is for fsspec, and no folder of this machine."""
    return "://" in str(path)


def _file_system(address: str, setting: str) -> tuple[Any, str]:
    import fsspec.core

    scheme, _, place = address.partition("://")
    if not (scheme and place) or scheme == "hf":
        raise RunFolderError(f"{setting} {address!r} names no bucket or folder to write to")
    try:
        fs, root = fsspec.core.url_to_fs(address)
    except ImportError as error:
        extra = "gs" if scheme in ("gs", "gcs") else "remote"
        raise RunFolderError(
            f"{setting} {address} needs a package that is not installed ({error}): "
            f"pip install 'flan_jax[{extra}]'"
        ) from error
    except Exception as error:  # of the scheme, or of the file system's own
        raise RunFolderError(f"{setting} {address}: {error}") from error
    return fs, root.rstrip("/")


def _is_wanted(name: str, size: int) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return bool(name) and not hidden and size <= _LARGE


def _may_begin(name: str, prefix: str) -> bool:
    """Whether `name`, or a name in the folder that it is, can begin with `prefix`."""
    return name.startswith(prefix) or prefix.startswith(name + "/")


def _versions(folder: Path) -> Iterator[tuple[str, Version]]:
    """The files below a folder by their names relative to it, hidden ones left out."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            if name.startswith("."):
                continue
            with contextlib.suppress(FileNotFoundError):
                yield path.relative_to(folder).as_posix(), _version(path.stat())


def _version(found: os.stat_result) -> Version:
    return found.st_size, found.st_mtime_ns
