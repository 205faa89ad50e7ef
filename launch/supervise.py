"""Watches the processes of a job on this machine: one lost, all end, and the job starts again.

Processes watch each other too (`flan_jax.peers`), and within half a minute say who was lost. The
launcher, their parent, knows at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from flan_jax.launch.rendered import Processes
from flan_jax.launch.spec import EXIT_AGAIN, EXIT_SIGNALLED, LaunchError, RetryPolicy

_LOOK = 0.1  # seconds between looks at the processes
# Seconds for which a process that failed by itself lets others end by themselves: process 0 waits
# for them for six (flan_jax.peers.LINGER).
_LAST_WORDS = 10.0
_GRACE = 2.0  # seconds between SIGTERM and SIGKILL of those that are left


@dataclass(frozen=True)
class Loss:
    """How one process ended too early.

    Attributes:
      index, pid: which.
      code: as `Popen.returncode` has it: negative for signals.
    """

    index: int
    pid: int
    code: int

    @property
    def passing(self) -> bool:
        """Whether a new start may mend it: killed, or another process was lost."""
        return self.code < 0 or self.code in (EXIT_AGAIN, *EXIT_SIGNALLED)

    def describe(self, count: int) -> str:
        how = f"ended with status {self.code}"
        if self.code < 0:
            with contextlib.suppress(ValueError):
                how = f"was killed by {signal.Signals(-self.code).name}"
        return f"process {self.index} of {count} (pid {self.pid}) {how}"


def supervise(
    name: str,
    processes: Processes,
    retry: RetryPolicy,
    folder: Path,
    *,
    say: Callable[[str], None],
) -> int:
    """Runs the processes to their end.

    Args:
      name: of the job.
      processes: what to start.
      retry: `restarts` counts.
      folder: of the logs of all processes but the first, whose output is shown.
      say: tells the user.

    Returns:
      0 if the job finished or was stopped and saved; else the status of what failed for good.

    Raises:
      LaunchError: the port is in use, or no restarts are left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_port(processes.port)
    loss = None
    for start in range(retry.restarts + 1):
        team = _Team(processes, folder)
        with team.passing_signals_on():
            loss = team.run()
        if loss is None or (team.stopped and loss.code in (0, EXIT_AGAIN)):
            return 0
        say(f"lost {loss.describe(len(processes.argv))}")
        team.show_log(loss.index, say)
        if not loss.passing or team.stopped:
            return loss.code if loss.code > 0 else 128 - loss.code
        if start < retry.restarts:
            say(
                f"start {start + 2} of at most {retry.restarts + 1} of {name!r}, from the newest"
                " checkpoint"
            )
    assert loss is not None
    raise LaunchError(
        f"{name!r}: lost {loss.describe(len(processes.argv))}, and no restarts are left"
        f" (--restarts={retry.restarts})"
    )


def check_port(port: int) -> None:
    """Whether process 0 can listen there.

    Raises:
      LaunchError: another program does.
    """
    if port == 0:
        return
    try:
        with socket.create_server(("", port)):
            pass
    except OSError as error:
        raise LaunchError(
            f"--port={port}: {os.strerror(error.errno or 0)}: another job may be running here;"
            " choose another port, or leave --port out for a free one"
        ) from error


def free_port() -> int:
    """A port that nobody listens at just now."""
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _end_with(launcher: int) -> None:
    """In a new process: SIGTERM comes when the launcher dies, be it by SIGKILL."""
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != launcher:  # it died just before
        os._exit(EXIT_AGAIN)


class _Team:
    """The processes of one start."""

    def __init__(self, processes: Processes, folder: Path):
        self._folder = folder
        self.stopped = False
        port = str(processes.port or free_port())
        self._children: list[subprocess.Popen[bytes]] = []
        with contextlib.ExitStack() as logs:
            pairs = zip(processes.argv, processes.environments, strict=True)
            for index, (argv, own) in enumerate(pairs):
                log = None if index == 0 else logs.enter_context(self._log(index).open("ab"))
                self._children.append(self._start(argv, own, port, log))

    def _log(self, index: int) -> Path:
        return self._folder / f"process_{index}.log"

    def _start(self, argv, own, port: str, log: IO[bytes] | None) -> subprocess.Popen[bytes]:
        launcher = os.getpid()
        return subprocess.Popen(
            [word.replace("{port}", port) if "{port}" in word else word for word in argv],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **own},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A group of its own: Ctrl-C reaches the launcher alone, which passes it on as SIGTERM.
            start_new_session=True,
            preexec_fn=lambda: _end_with(launcher),
        )

    @contextlib.contextmanager
    def passing_signals_on(self) -> Iterator[None]:
        """SIGTERM, Ctrl-C and the end of the terminal go to all, once: they save and end."""

        def handle(number: int, frame: object) -> None:
            del number, frame
            if self.stopped:  # the second time is meant
                self._signal_all(signal.SIGKILL)
            self.stopped = True
            self._signal_all(signal.SIGTERM)

        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
            numbers.append(signal.SIGHUP)
        previous = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._signal_all(signal.SIGKILL)
            for child in self._children:
                child.wait()

    def run(self) -> Loss | None:
        """Waits for the end of all; ends all when one fails. None if all ended with 0."""
        while True:
            codes = [child.poll() for child in self._children]
            failed = [index for index, code in enumerate(codes) if code]
            if failed:
                return self._end(failed)
            if None not in codes:
                return None
            time.sleep(_LOOK)

    def _end(self, failed: list[int]) -> Loss:
        """Ends all, and says which process was the cause."""
        losses = [self._loss(index) for index in failed]
        first = next((loss for loss in losses if loss.code < 0), losses[0])
        if first.code > 0:
            # It said why, or that another was lost: whose end that was is known in a moment.
            self._wait_for_all(30.0 if self.stopped else _LAST_WORDS)
            ended = [self._loss(i) for i, c in enumerate(self._children) if c.poll()]
            first = min(ended, key=_blame)
        self._signal_all(signal.SIGTERM)
        self._wait_for_all(_GRACE)
        self._signal_all(signal.SIGKILL)
        return first

    def _loss(self, index: int) -> Loss:
        child = self._children[index]
        return Loss(index, child.pid, child.returncode)

    def _wait_for_all(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(c.poll() is None for c in self._children):
            time.sleep(_LOOK)

    def _signal_all(self, number: int) -> None:
        for child in self._children:
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(number)

    def show_log(self, index: int, say: Callable[[str], None]) -> None:
        """The last lines of a process whose output was not shown."""
        if index == 0:
            return
        log = self._log(index)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        say(f"the end of {log}:")
        print("\n".join(f"  {line}" for line in lines), file=sys.stderr, flush=True)


def _blame(loss: Loss) -> tuple[int, int]:
    """Killed ones first, then those with an error of their own, then those that lost a peer."""
    kind = 0 if loss.code < 0 else 2 if loss.code == EXIT_AGAIN else 1
    return kind, loss.index
