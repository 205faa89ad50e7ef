"""Does what was rendered: creates, waits, starts, starts again what was taken away, deletes.

The name of whatever is created, and the command that deletes it, are printed before it is asked
for and with every failure.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flan_jax.files import write_atomically
from flan_jax.launch.failures import already_exists, is_gone
from flan_jax.launch.machines import LostError, Machines
from flan_jax.launch.ownership import Ownership
from flan_jax.launch.rendered import Poll, Rendered, shell_line
from flan_jax.launch.run import CommandError, Runner
from flan_jax.launch.spec import LaunchError, RetryPolicy
from flan_jax.launch.supervise import supervise

Say = Callable[[str], None]

_LONGEST_WAIT = 600.0  # seconds between starts


def to_stderr(line: str) -> None:
    """Says something to the user, who may have closed the terminal."""
    with contextlib.suppress(OSError):
        print(f"flan-jax launch: {line}", file=sys.stderr, flush=True)


def execute(
    rendered: Rendered,
    retry: RetryPolicy,
    *,
    keep: bool = False,
    runner: Runner | None = None,
    say: Say = to_stderr,
    sleep: Callable[[float], None] | None = None,
) -> int:
    """Launches the job.

    Args:
      rendered: by `render`.
      retry: how often to try and to restart.
      keep: whether machines of a job that has finished are kept.
      runner: runs programs.
      say: tells the user.
      sleep: waits for so many seconds; None for `time.sleep`.

    Returns:
      The job's exit status where it is followed to its end (local, tpu_vm), else 0.

    Raises:
      LaunchError: something failed that another attempt would not mend.
    """
    write_files(rendered)
    if rendered.processes is not None:
        folder = _folder(rendered)
        return supervise(rendered.name, rendered.processes, retry, folder, say=say)
    launch = _Launch(rendered, retry, keep, runner or Runner(retry), say, sleep or time.sleep)
    with _signals_interrupt():
        return launch.run()


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM and the end of the terminal are like Ctrl-C: what is left behind is told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    previous = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            previous[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def write_files(rendered: Rendered) -> None:
    """Writes the rendered files.

    Raises:
      LaunchError: one cannot be written.
    """
    for path, text in rendered.files.items():
        try:
            write_atomically(path, text)
        except OSError as error:
            raise LaunchError(f"cannot write {path}: {error.strerror}") from error


def _folder(rendered: Rendered) -> Path:
    return Path(rendered.folder)


class _Launch:
    def __init__(
        self,
        rendered: Rendered,
        retry: RetryPolicy,
        keep: bool,
        runner: Runner,
        say: Say,
        sleep: Callable[[float], None],
    ):
        self._rendered, self._retry, self._keep = rendered, retry, keep
        self._runner, self._say, self._sleep = runner, say, sleep
        self._owners = Ownership(rendered, runner)
        self._create_argv = rendered.labelled(self._owners.launch)
        self._asked = False  # whether something may exist by now
        self._exists = False  # whether it does
        self._prepared = False

    def run(self) -> int:
        delete = shell_line(self._rendered.delete)
        self._say(f"creating {self._rendered.name!r}; it is deleted by: {delete}")
        try:
            self._owners.keep()
            return self._starts()
        except LaunchError as error:
            raise LaunchError(f"{error}\n{self._left_behind()}") from error
        except KeyboardInterrupt:
            self._say(f"interrupted. {self._left_behind()}")
            raise

    def _left_behind(self) -> str:
        name, delete = self._rendered.name, shell_line(self._rendered.delete)
        if not self._asked and self._prepared:
            return f"Left is what was prepared. Delete: {shell_line(self._rendered.clear)}"
        if not self._asked:
            return "Nothing of this launch is left to delete."
        exists = "exists" if self._exists else "may exist"
        status = shell_line(self._rendered.status)
        return f"{name!r} {exists}. Look: {status}\nDelete: {delete}"

    def _starts(self) -> int:
        for start in range(self._retry.restarts + 1):
            if start:
                self._say(f"start {start + 1} of at most {self._retry.restarts + 1}")
            try:
                return self._start()
            except LostError as lost:
                self._say(f"{self._rendered.name!r} was taken away ({lost})")
                self._delete()
                self._sleep(min(self._retry.wait * 2**start, _LONGEST_WAIT))
        raise LaunchError(f"taken away {self._retry.restarts + 1} times: no restarts are left")

    def _start(self) -> int:
        if self._rendered.prepare:
            self._prepared = True
            self._runner.run(self._rendered.prepare)
        self._create()
        if self._rendered.poll is None:
            self._say(f"submitted. status: {shell_line(self._rendered.status)}")
            self._say(f"logs: {shell_line(self._rendered.logs)}")
            return 0
        self._do_the_job(self._rendered.poll)
        if self._keep:
            self._say(f"finished; kept: {shell_line(self._rendered.delete)}")
        else:
            self._delete()
        return 0

    def _do_the_job(self, poll: Poll) -> None:
        machines = Machines(self._rendered, poll, self._retry, self._runner, self._say, self._sleep)
        machines.wait()
        machines.copy()
        machines.follow()

    def _create(self) -> None:
        self._asked = True
        try:
            self._runner.run(self._create_argv, there=self._owners.has_been_created)
        except CommandError as error:
            if error.argv == self._create_argv:
                self._asked = error.uncertain and not self._owners.is_anothers
                if not self._asked:
                    self._raise_if_ours(error)
            raise
        self._exists = True

    def _raise_if_ours(self, error: CommandError) -> None:
        """Tells how to join an earlier launch from here, if it is one that has the name."""
        printed = f"{error.output.err}\n{error.output.out}"
        if not already_exists(printed, self._rendered.name):
            return
        if not self._owners.is_an_earlier_launch():
            return
        raise LaunchError(
            f"{error}\n{self._rendered.name!r} is of an earlier launch from here. Look:"
            f" {shell_line(self._rendered.status)}\n"
            f"Join its job, where it has been started: {shell_line(self._rendered.start[-1])}\n"
            f"Or delete it, to launch anew: {shell_line(self._rendered.delete)}"
        ) from error

    def _delete(self) -> None:
        try:
            self._runner.run(self._rendered.delete)
        except CommandError as error:
            if not is_gone(error.failure):
                raise
        self._asked = self._exists = False
        self._say(f"deleted {self._rendered.name!r}")
