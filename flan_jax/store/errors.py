"""What can be wrong with a store, or with the folder that it is built in."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from flan_jax.sources.base import SourceError


class StoreError(SourceError):
    """A store is missing, damaged, or does not fit the tasks' definitions."""


class StoreWriteError(StoreError):
    """A store cannot be written: no room, no permission. It concerns all tasks, not one."""


_ADVICE = {
    errno.ENOSPC: "the disk is full: make room and run the command again, it goes on from here",
    errno.EDQUOT: "the disk quota is used up: make room and run the command again",
    errno.EFBIG: "the file is too long for the file system, or for this user's limit (ulimit -f)",
    errno.EACCES: "no permission: choose another folder for the store, or mend its permissions",
    errno.EPERM: "no permission: choose another folder for the store, or mend its permissions",
    errno.EROFS: "the file system is read-only: choose another folder for the store",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another folder for the store",
    errno.EEXIST: "a file stands where a folder is needed: choose another folder for the store",
}


@contextlib.contextmanager
def write_errors(path: object) -> Iterator[None]:
    """Turns errors of the file system into a StoreWriteError that says what to do."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise StoreWriteError(f"{error.filename or path}: {advice}") from error
