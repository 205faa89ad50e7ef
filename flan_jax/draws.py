"""Random draws that are a pure function of a path such as (seed, task, split, index, epoch).

Everything the data pipeline leaves to chance (rows, templates, exemplars, option orders, packing
order) comes from here, so the same seed gives the same bytes on any number of hosts and a run can
be resumed at any example. The generator is SplitMix64 (Steele, Lea & Flood, 2014), whose state is
one counter; it is seeded by BLAKE2b of the path and does not depend on any library's version.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def stable_hash(*path: int | str) -> int:
    """A 64-bit hash of `path`, equal in every process, run and Python version."""
    text = "\x1f".join(
        [
            f"s{part}" if part.__class__ is str else f"{part.__class__.__name__[0]}{part}"
            for part in path
        ]
    )
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


class Draws:
    """A stream of draws keyed by a path of integers and strings.

    ``Draws(0, "task", 7)`` gives the same stream wherever and whenever it is made.
    """

    __slots__ = ("_state",)

    def __init__(self, *path: int | str):
        self._state = stable_hash(*path)

    def bits(self) -> int:
        """The next 64 random bits."""
        self._state = (self._state + _GOLDEN) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        """A uniform integer in [0, n). The bias, n / 2**64, is beyond observation."""
        if n <= 0:
            raise ValueError(f"below(n) needs n >= 1, got {n}")
        return (self.bits() * n) >> 64

    def between(self, low: int, high: int) -> int:
        """A uniform integer in [low, high], both included."""
        return low + self.below(high - low + 1)

    def uniform(self) -> float:
        """A uniform float in [0, 1)."""
        return (self.bits() >> 11) * 2.0**-53

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.uniform() < probability

    def choice(self, items: Sequence[T]) -> T:
        """One of `items`, uniformly."""
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """One of `items` with probability proportional to its weight."""
        point = self.uniform() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            point -= weight
            if point < 0:
                return item
        return items[-1]

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """`k` distinct positions of `items`, in random order."""
        if k > len(items):
            raise ValueError(f"cannot sample {k} of {len(items)} items")
        pool = list(items)
        for i in range(k):
            j = i + self.below(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All of `items` in random order, as a new list."""
        return self.sample(items, len(items))
