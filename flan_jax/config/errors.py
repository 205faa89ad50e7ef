"""Where a statement stands, what is wrong with it, and the error that lists every problem."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from flan_jax.errors import UserError

# Sort positions of what does not stand in a file: the command line follows all files, and what is
# missing altogether comes last.
_COMMAND_LINE = 1_000_000
_NOWHERE = 2_000_000


@dataclass(frozen=True, order=True)
class Location:
    """A line of a gin file, or a command line flag.

    Attributes:
      order: position of the file among the files read, or of the flag on the command line.
      line: line number from 1; 0 for a flag.
      source: the file as shown to the user, or `command line: --gin.X=1`.
    """

    order: int
    line: int
    source: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source

    @property
    def on_command_line(self) -> bool:
        """Whether it is a flag."""
        return _COMMAND_LINE <= self.order < _NOWHERE


def command_line(flag: str, index: int) -> Location:
    """The location of the `index`-th binding or file flag, written `flag`."""
    shown = " ".join(flag.split())
    if len(shown) > 100:
        shown = shown[:97] + "..."
    return Location(_COMMAND_LINE + index, 0, f"command line: {shown}")


NOWHERE = Location(_NOWHERE, 0, "configuration")


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong, where, and how to fix it, on one line."""

    location: Location
    message: str

    def __post_init__(self) -> None:
        one_line = " ".join(line.strip() for line in self.message.splitlines())
        object.__setattr__(self, "message", one_line)

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"


class ConfigError(UserError, ValueError):
    """Every problem of a configuration, in the order of files and lines.

    Attributes:
      problems: the problems; the message has one line for each.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(set(problems)))
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        lines = [f"{count} {noun} in the gin configuration:", *map(str, self.problems)]
        super().__init__("\n".join(lines))
