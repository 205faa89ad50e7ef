"""What a build did, task by task."""

from __future__ import annotations

from dataclasses import dataclass

from flan_jax.store.manifest import Manifest

STATUSES = ("built", "resumed", "unchanged", "failed")


@dataclass(frozen=True)
class TaskOutcome:
    """What became of one task.

    Attributes:
      name: the task.
      status: `built`; `resumed`, built before by a build that was stopped; `unchanged`, taken from
        the store that was there; or `failed`.
      rows: rows stored, of all splits.
      size: bytes stored.
      detail: why it failed.
    """

    name: str
    status: str
    rows: int = 0
    size: int = 0
    detail: str = ""


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
      path: the store's folder.
      outcomes: of each task, by name.
      manifest: of the store; None if it was not written because tasks failed.
    """

    path: str
    outcomes: tuple[TaskOutcome, ...]
    manifest: Manifest | None

    @property
    def failed(self) -> tuple[TaskOutcome, ...]:
        """The tasks that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")

    def counts(self) -> dict[str, int]:
        """How many tasks there are of each status."""
        return {s: sum(o.status == s for o in self.outcomes) for s in STATUSES}
