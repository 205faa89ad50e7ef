"""What a backend makes of a job: files, and the command lines that create and end it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Argv = tuple[str, ...]


@dataclass(frozen=True)
class Poll:
    """A question asked again and again until the machines are there.

    Attributes:
      argv: prints a state, one word or several separated by newlines.
      ready: the state to wait for.
      lost: states of machines that were taken away, or will not come.
      period: seconds between questions.
      limit: seconds after which to give up.
    """

    argv: Argv
    ready: str
    lost: tuple[str, ...]
    period: float = 30.0
    limit: float = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Processes:
    """Processes on this machine, of one job.

    Attributes:
      argv: of each, by index; `{port}` stands for process 0's port.
      environments: of each, what differs from the launcher's.
      port: of process 0; 0: a free one.
    """

    argv: tuple[Argv, ...]
    environments: tuple[Mapping[str, str], ...]
    port: int = 0


@dataclass(frozen=True)
class Rendered:
    """What is to be done, without anything done.

    Attributes:
      backend: its name.
      name: of what is created.
      folder: of the job's files, on this machine.
      files: text by path, relative to the current folder.
      create: the command that asks for machines, or submits the job; () if nothing is.
      poll: how to wait for the machines; None where the engine does.
      start: what is then done with the machines, in order; the last lasts as long as the job, and
        may be done again when the connection was lost.
      result: prints the job's status on each machine, one a line, or `running`.
      status, logs: what the user can ask.
      delete: what ends the job and gives the machines back.
      processes: of the backend local, instead of commands.
      notes: what the user should know.
    """

    backend: str
    name: str
    folder: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    create: Argv = ()
    poll: Poll | None = None
    start: tuple[Argv, ...] = ()
    result: Argv = ()
    status: Argv = ()
    logs: Argv = ()
    delete: Argv = ()
    processes: Processes | None = None
    notes: tuple[str, ...] = ()

    @property
    def programs(self) -> tuple[str, ...]:
        """Programs that must be on the PATH."""
        commands = (self.create, self.delete, *self.start)
        return tuple(dict.fromkeys(argv[0] for argv in commands if argv))


def shell_line(argv: Argv) -> str:
    """The command as one would type it."""
    return shlex.join(argv)


def wrapped(argv: Argv, width: int = 96, indent: int = 0) -> str:
    """The command as one would type it, broken into lines with backslashes.

    Args:
      argv: the command.
      width: of a line, where words allow it.
      indent: spaces before all lines but the first.
    """
    return wrap_words([shlex.quote(word) for word in argv], width, indent)


def wrap_words(words: Sequence[str], width: int = 96, indent: int = 0) -> str:
    """Words that are quoted already, as `wrapped` lays them out."""
    lines: list[str] = []
    line = ""
    for word in words:
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = f"{' ' * (indent + 2)}{word}"
        else:
            line = f"{line} {word}" if line else word
    return " \\\n".join([*lines, line])
