"""Progress for whoever watches: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Display(Protocol):
    """Shows what training is doing; used as a context manager."""

    def update(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def say(self, message: str) -> None: ...

    def __enter__(self) -> Display: ...

    def __exit__(self, *_: object) -> None: ...


def make_display(first_step: int, last_step: int, *, enabled: bool = True) -> Display:
    """A live bar if standard error is a terminal, plain lines if not, nothing if not enabled."""
    if not enabled:
        return QuietDisplay()
    if sys.stderr.isatty():
        return LiveDisplay(first_step, last_step)
    return PlainDisplay(last_step)


class QuietDisplay:
    """Says nothing: for all processes but the first."""

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        del step, metrics

    def say(self, message: str) -> None:
        del message

    def __enter__(self) -> QuietDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class PlainDisplay:
    """A line at most every few seconds, fit for a log file."""

    def __init__(self, last_step: int, every_seconds: float = 5.0):
        self._last_step = last_step
        self._every_seconds = every_seconds
        self._next = 0.0

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now >= self._next or step == self._last_step:
            self._next = now + self._every_seconds
            self.say(f"step {step}/{self._last_step}  {_summary(metrics)}")

    def say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class LiveDisplay:
    """A rich progress bar with the newest metrics."""

    def __init__(self, first_step: int, last_step: int):
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(
            "", total=last_step, completed=first_step, metrics="compiling …"
        )

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        self._progress.update(self._task, completed=step, metrics=_summary(metrics))

    def say(self, message: str) -> None:
        self._progress.console.print(message, highlight=False, markup=False)

    def __enter__(self) -> LiveDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _summary(metrics: Mapping[str, float]) -> str:
    parts = [f"loss {metrics['loss']:.3f}", f"accuracy {metrics['accuracy']:.3f}"]
    if "tokens_per_second" in metrics:
        parts.append(f"{metrics['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)
