"""What a backend makes of a job: files, and the command lines that create and end it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Argv = tuple[str, ...]

BY_HAND = "by-hand"  # the id of a launch whose commands are typed by a person


@dataclass(frozen=True)
class Poll:
    """A question asked again and again until the machines are there.

    Attributes:
      argv: prints a state, one word or several separated by newlines.
      ready: the state to wait for.
      lost: states of machines that were taken away.
      failed: states of machines that will not come.
      why: prints what is known of a failed state.
      period: seconds between questions.
      limit: seconds after which to give up.
    """

    argv: Argv
    ready: str
    lost: tuple[str, ...]
    failed: tuple[str, ...] = ()
    why: Argv = ()
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
      prepare: done before `create`; may be done again, and leaves nothing that costs money.
      clear: deletes what `prepare` made.
      create: the command that asks for machines, or submits the job; () if nothing is.
      exists: prints something if what `create` makes is there already; () if there is no such
        question. Asked before `create` is tried again after an attempt without an answer.
      owner: prints the id of the launch that made what is there by this name (see `labelled`); ()
        where it has none.
      poll: how to wait for the machines; None where the engine does.
      start: what is then done with the machines, in order; the last lasts as long as the job, and
        may be done again when the connection was lost.
      arrived: prints `ok` on each machine that has all that was copied.
      result: prints the job's status on each machine, one a line, or `running`.
      machines: how many answer to `arrived` and `result`.
      status, logs: what the user can ask.
      delete: what ends the job and gives the machines back.
      processes: of the backend local, instead of commands.
      notes: what the user should know.
    """

    backend: str
    name: str
    folder: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    prepare: Argv = ()
    clear: Argv = ()
    create: Argv = ()
    exists: Argv = ()
    owner: Argv = ()
    poll: Poll | None = None
    start: tuple[Argv, ...] = ()
    arrived: Argv = ()
    result: Argv = ()
    machines: int = 0
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

    def labelled(self, launch: str) -> Argv:
        """`create`, with the id of a launch in the place of `BY_HAND`."""
        return tuple(word.replace(f"={BY_HAND}", f"={launch}") for word in self.create)


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
