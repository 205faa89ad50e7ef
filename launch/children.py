"""Programs that the launcher runs and waits for: their output, and their end when it must end.

Ended before their time, they take their own children with them: gcloud's ssh would go on otherwise.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from flan_jax.launch.rendered import Argv

_GRACE = 3.0  # seconds between SIGTERM and SIGKILL
_KEPT = 64 * 1024  # characters of an output that is shown


@dataclass(frozen=True)
class Output:
    """What a program left behind."""

    status: int
    out: str
    err: str


def run_child(
    argv: Argv, environment: Mapping[str, str], timeout: float | None, show: bool
) -> Output:
    """Runs a program to its end.

    Args:
      argv: the program, which must be there.
      environment: variables besides the launcher's own.
      timeout: seconds; None for as long as it takes.
      show: let its output go to the terminal; `out` is then empty, `err` the last of what it said.
    """
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=None if show else subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
    )
    try:
        if show:
            return _shown(child)
        out, err = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _end(child)
        return Output(124, "", f"no answer: timed out after {timeout:.0f} s")
    except BaseException:
        _end(child)
        raise
    return Output(child.returncode, out, err)


def _shown(child: subprocess.Popen[str]) -> Output:
    assert child.stderr is not None
    tail = _Tail(child.stderr)
    child.wait()
    # Grandchildren may hold the pipe for longer than the program lives.
    tail.join(_GRACE)
    return Output(child.returncode, "", tail.text)


class _Tail(threading.Thread):
    """Passes an error output on, and keeps its end."""

    def __init__(self, stream: IO[str]):
        super().__init__(daemon=True)
        self._stream, self.text = stream, ""
        self.start()

    def run(self) -> None:
        for line in self._stream:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(line)
                sys.stderr.flush()
            self.text = (self.text + line)[-_KEPT:]


def _end(child: subprocess.Popen[str]) -> None:
    """Ends a program and what it has started."""
    family = [child.pid, *_descendants(child.pid)]
    _signal(family, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    while time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.02)
    _signal([pid for pid in family if pid != child.pid or child.poll() is None], signal.SIGKILL)
    child.wait()


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _descendants(pid: int) -> list[int]:
    """Children and theirs, where the system says so (Linux)."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *_descendants(child)]
    return found
