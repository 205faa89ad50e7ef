"""A folder that is there whole or not at all, whatever ends the process that makes it.

It is made under another name beside its place, `.<name>.partial-<host>-<pid>`, and renamed when all
is on disk. What a killed process left behind is removed by the next that makes the same folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from flan_jax.checkpoints.tensors import CheckpointError

_PARTIAL = "partial"
_REPLACED = "replaced"


class Terminated(BaseException):
    """SIGTERM or SIGHUP came: raised where the program is, so that it cleans up on its way out."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stage_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A name for a new folder, which becomes `path` if the block ends well, else nothing.

    Args:
      path: of the folder to be; it must not exist, unless `replace`.
      replace: put it in the place of a folder that exists.

    Raises:
      CheckpointError: the place cannot be written to, or was taken meanwhile.
    """
    made = _make_parents(path.parent)
    _remove_leftovers(path)
    partial = path.parent / f".{path.name}.{_PARTIAL}-{socket.gethostname()}-{os.getpid()}"
    done = False
    try:
        with _signals_raise():
            yield partial
            sync_tree(partial)
            _move(partial, path, replace)
            done = True
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error
    finally:
        if not done:
            shutil.rmtree(partial, ignore_errors=True)
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _make_parents(folder: Path) -> list[Path]:
    """Makes a folder; returns those that were not there, innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise CheckpointError(f"{folder} cannot be written to: permission denied")
    return missing


def _move(partial: Path, path: Path, replace: bool) -> None:
    if not path.exists():
        os.rename(partial, path)
    elif not replace:
        raise CheckpointError(f"{path} was made by someone else meanwhile")
    else:
        old = path.parent / f".{path.name}.{_REPLACED}-{socket.gethostname()}-{os.getpid()}"
        try:
            os.rename(path, old)
            os.rename(partial, path)
        except BaseException:  # signals as well
            if old.exists() and not path.exists():
                os.rename(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync(path.parent)


def _remove_leftovers(path: Path) -> None:
    """Removes what processes of this machine that are gone left of the same folder."""
    for kind in (_PARTIAL, _REPLACED):
        start = f".{path.name}.{kind}-{socket.gethostname()}-"
        for entry in path.parent.iterdir():
            pid = entry.name.removeprefix(start)
            if not entry.name.startswith(start) or not pid.isdigit() or _is_alive(int(pid)):
                continue
            if kind == _REPLACED and not path.exists():
                os.rename(entry, path)  # killed between two renames: the old one was whole
            else:
                shutil.rmtree(entry, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync_tree(folder: Path) -> None:
    """Has the system write all files and folders below to disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            _sync(Path(root) / name)
        _sync(Path(root))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into `Terminated`; SIGINT is Python's KeyboardInterrupt already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    previous = {each: signal.signal(each, handle) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
