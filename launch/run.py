"""The one place that runs programs: engines' own (gcloud, kubectl, sbatch, sky), and our checks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import tenacity

from flan_jax.launch.failures import Failure, already_exists, classify
from flan_jax.launch.rendered import Argv, shell_line
from flan_jax.launch.spec import LaunchError, RetryPolicy


@dataclass(frozen=True)
class Output:
    """What a program left behind."""

    status: int
    out: str
    err: str


class CommandError(LaunchError):
    """A program failed.

    Attributes:
      argv, output, failure: which, what it printed, why.
      uncertain: whether what it was to create may exist all the same.
    """

    def __init__(self, argv: Argv, output: Output, failure: Failure, uncertain: bool, tries: int):
        self.argv, self.output, self.failure, self.uncertain = argv, output, failure, uncertain
        again = f" after {tries} attempts" if tries > 1 else ""
        advice = f"\n{failure.advice[0].upper()}{failure.advice[1:]}." if failure.advice else ""
        super().__init__(
            f"{shell_line(argv[:4])} … failed{again} (status {output.status}):"
            f" {failure.reason}{advice}"
        )


class _PassingError(Exception):
    """A failure that may pass."""


@dataclass
class Runner:
    """Runs commands, those that fail for a passing reason several times.

    Attributes:
      retry: how often, and how long to wait.
      environment: variables besides the launcher's own.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    environment: Mapping[str, str] = field(default_factory=dict)

    def once(self, argv: Argv, timeout: float | None = None, show: bool = False) -> Output:
        """Runs a command.

        Args:
          argv: the command.
          timeout: seconds; None for as long as it takes.
          show: let its output go to the terminal; `out` and `err` are then empty.

        Raises:
          LaunchError: there is no such program.
        """
        if shutil.which(argv[0]) is None:
            raise LaunchError(
                f"{argv[0]!r} is not on the PATH: install it, or leave --run out and do by hand"
                " what is printed"
            )
        pipe = None if show else subprocess.PIPE
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                text=True,
                errors="replace",
                timeout=timeout,
                env={**os.environ, **self.environment},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Output(124, "", f"no answer: timed out after {timeout:.0f} s")
        return Output(done.returncode, done.stdout or "", done.stderr or "")

    def run(self, argv: Argv, creates: bool = False) -> Output:
        """Runs a command until it succeeds, fails for good, or has failed often enough.

        Args:
          argv: the command.
          creates: whether it creates something by name. If an attempt without an answer has created
            it, the next one's complaint that it exists is a success.

        Raises:
          CommandError: it failed.
        """
        uncertain, tries = False, 0
        output, failure = Output(0, "", ""), Failure(False, "")

        def attempt() -> Output:
            nonlocal uncertain, tries, output, failure
            tries += 1
            output = self.once(argv, self.retry.timeout)
            if output.status == 0 or (creates and uncertain and already_exists(output.err)):
                return output
            failure = classify(output.err or output.out)
            if failure.passing:
                uncertain = uncertain or creates
                raise _PassingError
            raise CommandError(argv, output, failure, uncertain, tries)

        def tell(state: tenacity.RetryCallState) -> None:
            wait = state.next_action.sleep if state.next_action else 0
            print(
                f"flan-jax launch: {failure.reason}; again in {wait:g} s"
                f" (attempt {tries + 1} of {self.retry.attempts})",
                file=sys.stderr,
                flush=True,
            )

        try:
            return tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(_PassingError),
                stop=tenacity.stop_after_attempt(self.retry.attempts),
                wait=tenacity.wait_exponential(multiplier=self.retry.wait, max=600),
                before_sleep=tell,
            )(attempt)
        except tenacity.RetryError:
            raise CommandError(argv, output, failure, uncertain, tries) from None
