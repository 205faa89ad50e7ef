"""Does what was rendered: creates, waits, starts, starts again what was taken away, deletes.

The name of whatever is created, and the command that deletes it, are printed before it is asked
for and with every failure.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from flan_jax.files import write_atomically
from flan_jax.launch.rendered import Poll, Rendered, shell_line
from flan_jax.launch.run import CommandError, Runner
from flan_jax.launch.spec import EXIT_AGAIN, EXIT_SIGNALLED, LaunchError, RetryPolicy
from flan_jax.launch.supervise import supervise

Say = Callable[[str], None]

_LONGEST_WAIT = 600.0  # seconds between starts


class _LostError(Exception):
    """The machines were taken away."""


def to_stderr(line: str) -> None:
    """Says something to the user."""
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
    return _Launch(rendered, retry, keep, runner or Runner(retry), say, sleep or time.sleep).run()


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
        self._asked = False  # whether something may exist by now

    def run(self) -> int:
        delete = shell_line(self._rendered.delete)
        self._say(f"creating {self._rendered.name!r}; it is deleted by: {delete}")
        try:
            return self._starts()
        except LaunchError as error:
            raise LaunchError(f"{error}\n{self._left_behind(error)}") from error
        except KeyboardInterrupt:
            self._say(f"interrupted. {self._left_behind(None)}")
            raise

    def _left_behind(self, error: LaunchError | None) -> str:
        name, delete = self._rendered.name, shell_line(self._rendered.delete)
        if not self._asked:
            return "Nothing of this launch is left to delete."
        refused = isinstance(error, CommandError) and error.argv == self._rendered.create
        exists = "may exist" if refused or error is None else "exists"
        status = shell_line(self._rendered.status)
        return f"{name!r} {exists}. Look: {status}\nDelete: {delete}"

    def _starts(self) -> int:
        for start in range(self._retry.restarts + 1):
            if start:
                self._say(f"start {start + 1} of at most {self._retry.restarts + 1}")
            try:
                return self._start()
            except _LostError as lost:
                self._say(f"{self._rendered.name!r} was taken away ({lost})")
                self._delete()
                self._sleep(min(self._retry.wait * 2**start, _LONGEST_WAIT))
        raise LaunchError(f"taken away {self._retry.restarts + 1} times: no restarts are left")

    def _start(self) -> int:
        self._create()
        poll = self._rendered.poll
        if poll is None:
            self._say(f"submitted. status: {shell_line(self._rendered.status)}")
            self._say(f"logs: {shell_line(self._rendered.logs)}")
            return 0
        self._wait(poll)
        *first, last = self._rendered.start
        try:
            for argv in first:
                self._runner.run(argv)
        except CommandError:
            self._raise_if_lost(poll)
            raise
        self._follow(last, poll)
        if self._keep:
            self._say(f"finished; kept: {shell_line(self._rendered.delete)}")
        else:
            self._delete()
        return 0

    def _create(self) -> None:
        was_asked, self._asked = self._asked, True
        try:
            self._runner.run(self._rendered.create, creates=True)
        except CommandError as error:
            # What another has called so is not ours to delete.
            self._asked = error.uncertain or was_asked
            raise

    def _delete(self) -> None:
        self._runner.run(self._rendered.delete)
        self._asked = False
        self._say(f"deleted {self._rendered.name!r}")

    # --- Waiting ---------------------------------------------------------------------------

    def _state(self, poll: Poll) -> str:
        return self._runner.run(poll.argv).out.strip()

    def _wait(self, poll: Poll) -> None:
        """Returns when the machines are there."""
        deadline = time.monotonic() + poll.limit
        said = ""
        while True:
            state = self._state(poll)
            if state != said:
                self._say(f"{self._rendered.name}: {state}")
                said = state
            if state == poll.ready:
                return
            if state in poll.lost:
                raise _LostError(state)
            if time.monotonic() > deadline:
                raise LaunchError(f"{self._rendered.name!r} is {state} still: given up")
            self._sleep(poll.period)

    def _raise_if_lost(self, poll: Poll) -> None:
        state = self._state(poll)
        if state in poll.lost:
            raise _LostError(state)

    def _follow(self, argv: tuple[str, ...], poll: Poll) -> None:
        """Returns when the job has finished.

        Raises:
          _LostError: the machines were taken away.
          LaunchError: the job failed, or cannot be reached.
        """
        for _ in range(self._retry.restarts + 1):
            if self._runner.once(argv, show=True).status == 0:
                return
            self._raise_if_lost(poll)
            self._raise_if_failed()
            self._say("the connection was lost, or a machine started anew: connecting again")
            self._sleep(self._retry.wait)
        raise LaunchError(f"{self._rendered.name!r} cannot be reached")

    def _raise_if_failed(self) -> None:
        answer = self._runner.once(self._rendered.result, self._retry.timeout)
        codes = [int(line) for line in answer.out.split() if line.lstrip("-").isdigit()]
        again = (EXIT_AGAIN, *EXIT_SIGNALLED)
        final = [code for code in codes if code != 0 and code not in again]
        if final:
            raise LaunchError(
                f"the job failed with status {final[0]} on {len(final)} of its machines; its log:"
                f" {shell_line(self._rendered.logs)}"
            )
        if codes and "running" not in answer.out and answer.status == 0 and any(codes):
            raise LaunchError(
                f"the job lost processes again and again (status {max(codes)}), with no restarts"
                f" left; its log: {shell_line(self._rendered.logs)}"
            )
