"""How `flan-jax data fetch` shows progress, on standard error: bars on a terminal, else lines."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

from flan_jax.sources.fetch import Observer, Outcome


class Lines(Observer):
    """One line for each file that was fetched or failed."""

    def ended(self, name: str, outcomes: tuple[Outcome, ...]) -> None:
        """Prints the lines."""
        for outcome in outcomes:
            if outcome.status == "fetched":
                size = f" ({outcome.size:,} bytes)" if outcome.size is not None else ""
                print(f"fetched {outcome.name}{size}", file=sys.stderr, flush=True)
            elif outcome.status == "failed":
                print(f"failed {outcome.name}: {outcome.detail}", file=sys.stderr, flush=True)


class Bars(Observer):
    """A bar for each transfer under way; what is out of the ordinary stands above them."""

    def __init__(self, progress: Any):
        self._progress = progress
        self._bars: dict[str, Any] = {}
        self._lock = threading.Lock()

    def began(self, name: str, total: int | None, done: int) -> None:
        """Shows the bar, or sets it to where the transfer goes on."""
        with self._lock:
            if name not in self._bars:
                self._bars[name] = self._progress.add_task(_escaped(name), total=total)
            self._progress.update(self._bars[name], total=total, completed=done)

    def advanced(self, name: str, count: int) -> None:
        """Moves the bar."""
        with self._lock:
            # Gone if another archive of the same name has ended.
            if name in self._bars:
                self._progress.advance(self._bars[name], count)

    def noted(self, name: str, message: str) -> None:
        """Prints a line above the bars."""
        self._progress.console.print(f"[yellow]{_escaped(f'{name}: {message}')}[/]")

    def ended(self, name: str, outcomes: tuple[Outcome, ...]) -> None:
        """Takes the bar away."""
        with self._lock:
            bar = self._bars.pop(name, None)
            if bar is not None:
                self._progress.remove_task(bar)
        for outcome in outcomes:
            if outcome.status == "fetched":
                self._progress.console.print(f"[green]fetched[/] {_escaped(outcome.name)}")
            elif outcome.status == "failed":
                self._progress.console.print(f"[red]failed[/] {_escaped(outcome.name)}")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@contextlib.contextmanager
def shown_progress() -> Iterator[Observer]:
    """The observer that suits standard error."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bars(progress)
