"""One fetch of a thing at a time, among all threads and processes of a machine.

A lock is an open file locked by the kernel (`flock`), so it ends with its process, however that
ends, and no stale lock can be left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from flan_jax.sources.fetch.errors import local_errors

_POLL = 0.1  # seconds between looks at a lock that is taken


@contextlib.contextmanager
def locked(path: Path, wait: Callable[[float], None], taken: Callable[[], None]) -> Iterator[None]:
    """Holds the lock `path` while the block runs.

    Args:
      path: the lock's file; made if needed, and removed by whoever held it.
      wait: sleeps for some seconds, or raises to give up.
      taken: called once if another one holds the lock.

    Raises:
      FetchError: the folder cannot be written to.
    """
    with local_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    if descriptor is None:
        taken()
    while descriptor is None:
        wait(_POLL)
        with local_errors():
            descriptor = _acquire(path)
    try:
        yield
    finally:
        # Removed while still locked: whoever opened it before sees in _acquire that it is gone.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
