"""What a fetch tells while it runs, and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Status = Literal["there", "fetched", "failed", "manual"]


@dataclass(frozen=True)
class Outcome:
    """What became of one download.

    Attributes:
      name: the path below the data folder, or the TFDS builder.
      status: `there` (already), `fetched`, `failed`, or `manual` (has to be got by hand).
      detail: why it failed, how to get it, or how far what is there was checked.
      size: bytes of the file; None if it is not a single file or is missing.
    """

    name: str
    status: Status
    detail: str = ""
    size: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the data are on this machine."""
        return self.status in ("there", "fetched")


@dataclass(frozen=True)
class FetchReport:
    """The outcome of every download, in the order in which they were asked for."""

    outcomes: tuple[Outcome, ...]

    @property
    def complete(self) -> bool:
        """Whether everything is on this machine."""
        return all(outcome.ok for outcome in self.outcomes)

    def counts(self) -> dict[str, int]:
        """How many outcomes there are of each status."""
        return {status: len(self.of(status)) for status in get_args(Status)}

    def of(self, status: Status) -> tuple[Outcome, ...]:
        """The outcomes with this status."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == status)


class Observer:
    """Is told how a fetch goes on; this one takes no notice. Called from several threads at once.

    A transfer may bring several files (members of an archive); it is known by its name, while
    outcomes are those of the files.
    """

    def began(self, name: str, total: int | None, done: int) -> None:
        """A transfer of `total` bytes goes on from `done`; called anew at every attempt."""

    def advanced(self, name: str, count: int) -> None:
        """`count` more bytes have come."""

    def noted(self, name: str, message: str) -> None:
        """Something out of the ordinary: a retry, waiting for another process."""

    def ended(self, name: str, outcomes: tuple[Outcome, ...]) -> None:
        """A transfer is over, well or not."""
