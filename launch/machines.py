"""Machines that were asked for: waits for them, copies to them, and follows the job on them.

An exit status of gcloud says little here: it leaves out machines that it cannot reach, and ends
with 0. So each machine is asked, and must have answered.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from flan_jax.launch.children import Output
from flan_jax.launch.failures import classify, taken_away
from flan_jax.launch.rendered import Argv, Poll, Rendered, shell_line
from flan_jax.launch.run import CommandError, Runner
from flan_jax.launch.spec import EXIT_AGAIN, EXIT_SIGNALLED, LaunchError, RetryPolicy

CONNECTIONS = 10  # that may end early in a row
_LASTED = 600.0  # seconds after which a connection was a good one
_LONGEST_WAIT = 300.0  # seconds between connections
_ANSWER = re.compile(r"^(running|\d+)$", re.MULTILINE)


class LostError(Exception):
    """The machines were taken away."""


class Machines:
    """The machines of one start.

    Args:
      rendered: with `poll`, `start` and `result`.
      poll: its `poll`.
      retry: how often a call is tried.
      runner: runs programs.
      say: tells the user.
      sleep: waits for so many seconds.
    """

    def __init__(
        self,
        rendered: Rendered,
        poll: Poll,
        retry: RetryPolicy,
        runner: Runner,
        say: Callable[[str], None],
        sleep: Callable[[float], None],
    ):
        self._rendered, self._poll, self._retry = rendered, poll, retry
        self._runner, self._say, self._sleep = runner, say, sleep
        self._said = ""

    # --- States ------------------------------------------------------------------------------

    def wait(self) -> None:
        """Returns when the machines are there.

        Raises:
          LostError: they were taken away.
          LaunchError: they will not come, or have not for days.
        """
        deadline = time.monotonic() + self._poll.limit
        while True:
            state = self._look()
            if state == self._poll.ready:
                return
            if time.monotonic() > deadline:
                raise LaunchError(f"{self._rendered.name!r} is {state} still: given up")
            self._sleep(self._poll.period)

    def _look(self) -> str:
        """The state, told when it has changed."""
        poll, name = self._poll, self._rendered.name
        state = self._runner.run(poll.argv).out.strip()
        if state in poll.lost:
            raise LostError(state)
        if state != self._said:
            self._say(f"{name}: {state or 'in no state'}")
            self._said = state
        if state in poll.failed:
            why = self._runner.once(poll.why, self._retry.timeout).out.strip() if poll.why else ""
            raise LaunchError(
                f"{name!r} is {state}: {why or 'no reason is given'}; its status:"
                f" {shell_line(self._rendered.status)}"
            )
        return state

    def _raise_if_lost(self, output: Output) -> None:
        """What gcloud says of a machine comes before the state, which lags behind."""
        state = taken_away(output.err)
        if state:
            raise LostError(state)
        self._look()

    # --- Copies ------------------------------------------------------------------------------

    def copy(self) -> None:
        """Copies the job's files to all machines.

        Raises:
          LostError: the machines were taken away.
          LaunchError: it cannot be done.
        """
        for argv in self._rendered.start[:-1]:
            self._call(argv)
        if not self._rendered.arrived:
            return
        for attempt in range(self._retry.attempts):
            if attempt:
                self._sleep(min(self._retry.wait * 2**attempt, _LONGEST_WAIT))
                for argv in self._rendered.start[:-1]:
                    self._call(argv)
            answer = self._call(self._rendered.arrived)
            count = answer.out.split().count("ok")
            if count == self._rendered.machines:
                return
            self._raise_if_lost(answer)
            self._say(f"files arrived on {count} of {self._rendered.machines} machines")
        raise LaunchError(
            f"the job's files do not arrive on all {self._rendered.machines} machines of"
            f" {self._rendered.name!r}"
        )

    def _call(self, argv: Argv) -> Output:
        try:
            return self._runner.run(argv)
        except CommandError as error:
            self._raise_if_lost(error.output)
            raise

    # --- The job -----------------------------------------------------------------------------

    def follow(self) -> None:
        """Returns when the job has finished on all machines.

        Raises:
          LostError: the machines were taken away.
          LaunchError: the job failed, or cannot be reached.
        """
        argv = self._rendered.start[-1]
        early = 0
        while True:
            begun = time.monotonic()
            ended = self._runner.once(argv, show=True)
            if ended.status != 0:
                self._raise_if_lost(ended)
            if self._has_finished():
                return
            early = 0 if time.monotonic() - begun >= _LASTED else early + 1
            if early > CONNECTIONS:
                raise LaunchError(
                    f"{self._rendered.name!r} cannot be reached, or some of its machines:"
                    f" {early} connections ended early{_reason(ended)}"
                )
            self._say("the connection was lost, or a machine started anew: connecting again")
            self._sleep(min(self._retry.wait * 2 ** max(0, early - 1), _LONGEST_WAIT))

    def _has_finished(self) -> bool:
        answer = self._runner.once(self._rendered.result, self._retry.timeout)
        answers = _ANSWER.findall(answer.out)
        whole = len(answers) == self._rendered.machines
        if not whole:
            self._raise_if_lost(answer)
        codes = [int(word) for word in answers if word != "running"]
        again = (EXIT_AGAIN, *EXIT_SIGNALLED)
        final = [code for code in codes if code != 0 and code not in again]
        log = shell_line(self._rendered.logs)
        if final:
            raise LaunchError(
                f"the job failed with status {final[0]} on {len(final)} of its machines; its log:"
                f" {log}"
            )
        if not whole or "running" in answers:
            return False
        if any(codes):
            raise LaunchError(
                f"the job lost processes again and again (status {max(codes)}), with no restarts"
                f" left; its log: {log}"
            )
        return True


def _reason(output: Output) -> str:
    failure = classify(output.err, output.out)
    if output.status == 0 or not output.err.strip():
        return ""
    return f" ({failure.reason}){f': {failure.advice}' if failure.advice else ''}"
