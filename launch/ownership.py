"""Whose a thing is that has the job's name: each launch has an id, and leaves it as a label.

The ids of all launches of a job are kept beside its files, so that a later one can tell its own
earlier ones from another person's.
"""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

from flan_jax.launch.children import Output
from flan_jax.launch.failures import already_exists
from flan_jax.launch.rendered import Rendered
from flan_jax.launch.run import CommandError, Runner
from flan_jax.launch.spec import LaunchError

_FILE = "launches"


class Ownership:
    """Of one launch.

    Args:
      rendered: what is launched.
      runner: runs programs.
    """

    def __init__(self, rendered: Rendered, runner: Runner):
        self._rendered, self._runner = rendered, runner
        self._path = Path(rendered.folder) / _FILE
        self._earlier = _read(self._path)
        self.launch = uuid.uuid4().hex[:12]
        self.is_anothers = False  # whether what was there turned out to be of another launch

    def keep(self) -> None:
        """Writes this launch's id down, before anything has it.

        Raises:
          LaunchError: the file cannot be written.
        """
        if not self._rendered.owner:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{self.launch}\n")
        except OSError as error:
            raise LaunchError(f"cannot write {self._path}: {error.strerror}") from error

    def has_been_created(self, output: Output | None) -> bool:
        """Whether an attempt without an answer has created it, as `Runner.run` asks.

        Raises:
          CommandError: the engine cannot say.
        """
        if output is None:
            return self._exists() if self._rendered.exists else False
        if not already_exists(f"{output.err}\n{output.out}", self._rendered.name):
            return False
        if not self._rendered.owner:
            return True
        owner = self._owner()
        self.is_anothers = owner not in ("", self.launch)  # without a label nobody can tell
        return owner == self.launch

    def is_an_earlier_launch(self) -> bool:
        """Whether what is there is of a launch from this folder."""
        if not self._rendered.owner:
            return False
        with contextlib.suppress(CommandError):
            return self._owner() in self._earlier
        return False  # what cannot be told is not said

    def _exists(self) -> bool:
        return bool(self._runner.run(self._rendered.exists).out.strip())

    def _owner(self) -> str:
        return self._runner.run(self._rendered.owner).out.strip()


def _read(path: Path) -> frozenset[str]:
    try:
        return frozenset(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError):
        return frozenset()
