"""Which example comes when: an exact, stateless schedule over weighted tasks.

Time is cut into windows of about `window` examples. Task i with proportion p_i takes its draws
number floor(w * W * p_i + u_i) to floor((w + 1) * W * p_i + u_i) - 1 in window w, with a phase u_i
in [0, 1): after any number of windows every task is within one example of its share, and any
window can be computed without those before it. Sampling at random would drift with the square root
of the number of examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from flan_jax.draws import Draws, stable_hash

WINDOW = 1024
_FEISTEL_ROUNDS = 4


class Draw(NamedTuple):
    """One example to read: position of its task, row, and how often that was read before."""

    task: int
    index: int
    epoch: int


@dataclass(frozen=True)
class Schedule:
    """The order of examples of a run.

    Small tasks begin again when their rows are used up, in another order; `Draw.epoch` counts how
    often. No task ends the schedule, which is endless.

    Attributes:
      proportions: share of each task, summing to 1, by name.
      sizes: rows of each task; None for endless.
      seed: the run's seed.
      shuffle: whether rows of a task come in random order.
      window: examples per window, on average.
    """

    proportions: Mapping[str, float]
    sizes: Mapping[str, int | None]
    seed: int
    shuffle: bool = True
    window: int = WINDOW

    def window_draws(self, number: int) -> list[Draw]:
        """The draws of window `number`, in random order."""
        draws: list[Draw] = []
        for position, (name, share) in enumerate(self.proportions.items()):
            phase = Draws(self.seed, "phase", name).uniform()
            rate = self.window * share
            first = math.floor(number * rate + phase)
            last = math.floor((number + 1) * rate + phase)
            draws.extend(self.draw(name, count, position) for count in range(first, last))
        if self.shuffle:
            draws = Draws(self.seed, "window", number).shuffled(draws)
        return draws

    def draw(self, name: str, count: int, position: int = 0) -> Draw:
        """Draw number `count` (from 0) of task `name`, which is at `position`."""
        size = self.sizes[name]
        if size is None:
            return Draw(position, count, 0)
        epoch, offset = divmod(count, size)
        if self.shuffle:
            offset = permuted(offset, size, stable_hash(self.seed, "order", name, epoch))
        return Draw(position, offset, epoch)


def permuted(index: int, size: int, key: int) -> int:
    """Where a keyed random permutation of range(size) sends `index`, in constant memory.

    A balanced Feistel network on the smallest even number of bits that holds `size`; results
    outside the range are sent on until they fall inside (cycle walking; Black & Rogaway, 2002).
    """
    half = max(1, math.ceil((size - 1).bit_length() / 2))
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(_FEISTEL_ROUNDS):
            left, right = right, left ^ (_mix(right, key + turn) & mask)
        index = (left << half) | right
        if index < size:
            return index


def _mix(value: int, key: int) -> int:
    z = (value * 0x9E3779B97F4A7C15 + key) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)
