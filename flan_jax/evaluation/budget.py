"""How much work a plan is, and how long it will take, from what was measured so far.

The work of a batch is taken to be proportional to its tokens: those of its padded prompts, and
those that are decoded, as if every answer were as long as it may be. A pace is measured over
batches of shapes that were compiled before.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flan_jax.evaluation.requests import Request, bucket_of, buckets

Shape = tuple[int, int]  # rows, padded length


@dataclass(frozen=True)
class Cost:
    """What decides the work of a batch beyond its shape.

    Attributes:
      decoded: most tokens of an answer, or all tokens of the continuations that are ranked.
      paths: answers of each prompt.
    """

    decoded: int
    paths: int

    def of(self, shape: Shape) -> int:
        """Tokens of a batch."""
        rows, length = shape
        return rows * (length + self.paths * self.decoded)


@dataclass(frozen=True)
class Budget:
    """The work of a plan.

    Attributes:
      batches: how many of each shape.
      cost: see `Cost`.
    """

    batches: dict[Shape, int]
    cost: Cost

    @property
    def tokens(self) -> int:
        """Tokens of all batches, padding included."""
        return sum(count * self.cost.of(shape) for shape, count in self.batches.items())


def budget(requests: Iterable[Request], batch_size: int, inputs_length: int, cost: Cost) -> Budget:
    """The work of answering `requests`, `batch_size` at a time."""
    lengths = buckets(inputs_length)
    counts = Counter(bucket_of(request.length, lengths) for request in requests)
    batches = {(batch_size, n): -(-counts[n] // batch_size) for n in lengths if counts[n]}
    return Budget(batches, cost)


class Clock:
    """Tells how long a job has taken, and how long the rest of it will."""

    def __init__(self, cost: Cost, shapes: Sequence[Shape]):
        """`shapes`: of all batches to come."""
        self._start = time.monotonic()
        self._cost = cost
        self._left = sum(cost.of(shape) for shape in shapes)
        self._seen: set[Shape] = set()
        self._measured, self._seconds = 0, 0.0

    def seconds(self) -> float:
        """Since the clock was made."""
        return time.monotonic() - self._start

    def count(self, shape: Shape, seconds: float) -> None:
        """Takes note of a batch. The first one of a shape includes compilation: it has no say."""
        work = self._cost.of(shape)
        self._left -= work
        if shape in self._seen:
            self._measured += work
            self._seconds += seconds
        self._seen.add(shape)

    def seconds_left(self) -> float | None:
        """For the batches to come; None before anything was measured."""
        if not self._measured:
            return None
        return self._left * self._seconds / self._measured


def duration(seconds: float) -> str:
    """Such as `40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
