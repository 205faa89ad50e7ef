"""The one place that runs programs: engines' own (gcloud, kubectl, sbatch, sky), and our checks."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import tenacity

from flan_jax.launch.children import Output, run_child
from flan_jax.launch.failures import Failure, classify
from flan_jax.launch.rendered import Argv, shell_line
from flan_jax.launch.spec import LaunchError, RetryPolicy


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
          show: let its output go to the terminal; `out` is then empty, and `err` its last words.

        Raises:
          LaunchError: there is no such program.
        """
        if shutil.which(argv[0]) is None:
            raise LaunchError(
                f"{argv[0]!r} is not on the PATH: install it, or leave --run out and do by hand"
                " what is printed"
            )
        return run_child(argv, self.environment, timeout, show)

    def run(self, argv: Argv, there: Callable[[Output | None], bool] | None = None) -> Output:
        """Runs a command until it succeeds, fails for good, or has failed often enough.

        Args:
          argv: the command.
          there: of a command that creates something: whether it has been created after all. Asked
            once an attempt left that open: with None before the next attempt, and with what the
            next attempt printed.

        Raises:
          CommandError: it failed.
        """
        uncertain, tries = False, 0
        output, failure = Output(0, "", ""), Failure(False, "")

        def attempt() -> Output:
            nonlocal uncertain, tries, output, failure
            asked = there if uncertain else None
            if asked is not None and asked(None):
                return Output(0, "", "")
            tries += 1
            output = self.once(argv, self.retry.timeout)
            if _succeeded(output) or (asked is not None and asked(output)):
                return output
            failure = classify(output.err, output.out)
            uncertain = uncertain or not failure.refused
            if failure.passing:
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


def _succeeded(output: Output) -> bool:
    # gcloud leaves out machines that it cannot reach, and ends with 0.
    return output.status == 0 and "Could not prepare all" not in output.err
