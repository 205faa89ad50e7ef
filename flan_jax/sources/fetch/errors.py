"""What can go wrong with one download, by what should be done about it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from flan_jax.sources.base import SourceError


class FetchError(SourceError):
    """A download failed, and trying again would not help."""


class TransientError(FetchError):
    """A download failed in a way that may pass: it is tried again.

    Attributes:
      retry_after: seconds that the server asks to wait; None if it does not say.
      unreachable: whether there was no connection, so that no other file of the host will come.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, unreachable: bool = False
    ):
        super().__init__(message)
        self.retry_after = retry_after
        self.unreachable = unreachable


class MismatchError(FetchError):
    """What came is not what was expected: it is fetched once more from the start."""


class StoppedError(FetchError):
    """The fetch was interrupted; what has come so far is kept."""


_ADVICE = {
    errno.ENOSPC: "the disk is full: make room and run the command again, it goes on from here",
    errno.EDQUOT: "the disk quota is used up: make room and run the command again",
    errno.EFBIG: "the file is too long for the file system, or for this user's limit (ulimit -f)",
    errno.EACCES: "no permission: choose another data folder, or mend its permissions",
    errno.EPERM: "no permission: choose another data folder, or mend its permissions",
    errno.EROFS: "the file system is read-only: choose another data folder",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away",
    errno.EEXIST: "a file stands where a folder is needed: move it away",
    errno.EISDIR: "a folder stands where the file belongs: move it away",
}


@contextlib.contextmanager
def local_errors(path: object = None) -> Iterator[None]:
    """Turns errors of this machine's file system into a FetchError that says what to do.

    Args:
      path: the file, for errors that do not name it.
    """
    try:
        yield
    except OSError as error:
        name = error.filename or path
        where = f"{name}: " if name else ""
        advice = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise FetchError(f"{where}{advice}") from error
