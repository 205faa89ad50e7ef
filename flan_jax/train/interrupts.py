"""Ending in good order when the machine asks for it (SIGTERM, Ctrl-C)."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

import jax


class StopRequest:
    """Inside its context, the first SIGTERM or SIGINT only sets `requested`.

    The loop looks at it between steps, so that the step under way is finished and saved. A second
    SIGINT interrupts at once, for whoever does not want to wait.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def __enter__(self) -> StopRequest:
        # Of several processes one alone must not stop: there, JAX's preemption service hears
        # SIGTERM and lets all stop after the same step (`CheckpointManager.reached_preemption`).
        numbers = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGTERM, signal.SIGINT]
        for number in numbers:
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread: signals are its business
                break
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
