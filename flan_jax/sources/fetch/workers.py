"""Running jobs in threads that an interrupt need not wait for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

# After an interrupt, the time that threads have to write down where they are. One that waits for a
# silent server takes longer than anyone wants to; its part is good at every moment.
_GRACE = 1.0
# A wait without limit could not be interrupted on all systems.
_TICK = 0.5


def run_jobs(
    pools: Sequence[tuple[Sequence[Callable[[], T]], int]], stop: threading.Event
) -> Iterator[T]:
    """Runs jobs and yields their results in the order in which they finish.

    Args:
      pools: jobs, and how many of them run at a time; jobs must not raise.
      stop: set when the consumer stops or is interrupted; jobs should then end soon.
    """
    results: queue.SimpleQueue[T] = queue.SimpleQueue()
    threads: list[threading.Thread] = []
    for jobs, size in pools:
        todo: queue.SimpleQueue[Callable[[], T]] = queue.SimpleQueue()
        for job in jobs:
            todo.put(job)
        for _ in range(min(size, len(jobs))):
            # Daemons: the process may end although one hangs.
            thread = threading.Thread(target=_work, args=(todo, results, stop), daemon=True)
            threads.append(thread)
    try:
        for thread in threads:
            thread.start()
        for _ in range(sum(len(jobs) for jobs, _ in pools)):
            yield _next(results)
    finally:
        stop.set()
        for thread in threads:
            thread.join(_GRACE / len(threads))


def _work(
    todo: queue.SimpleQueue[Callable[[], T]],
    results: queue.SimpleQueue[T],
    stop: threading.Event,
) -> None:
    while not stop.is_set():
        try:
            job = todo.get_nowait()
        except queue.Empty:
            return
        results.put(job())


def _next(results: queue.SimpleQueue[T]) -> T:
    while True:
        try:
            return results.get(timeout=_TICK)
        except queue.Empty:
            continue
