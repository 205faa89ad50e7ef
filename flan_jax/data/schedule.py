"""Which example comes when: an exact, stateless schedule over weighted tasks.

After every example, each task has had its share of all examples so far to within less than one:
`flan_jax.data.apportionment` says how. Sampling at random would drift with the square root of the
number of examples. A window is the next `window` examples, no more and no fewer; any window is
computed from the schedule's arguments and its number, without those before it, so a reader's state
is a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from flan_jax.data.apportionment import Apportionment, scrambled
from flan_jax.draws import stable_hash

WINDOW = 1024
_FEISTEL_ROUNDS = 4
_KEPT_KEYS = 1 << 13
_ENDLESS = 1 << 62  # rows: more than are ever read


class Draw(NamedTuple):
    """One example to read: position of its task, row, and how often that was read before."""

    task: int
    index: int
    epoch: int


@dataclass(frozen=True)
class Schedule:
    """The order of examples of a run.

    Small tasks begin again when their rows are used up, in another order; `Draw.epoch` counts how
    often. No task ends the schedule, which is endless. Threads may share a schedule; what it keeps
    for speed is not pickled.

    Attributes:
      proportions: share of each task, summing to 1, by name.
      sizes: rows of each task; None for endless.
      seed: the run's seed.
      shuffle: whether rows of a task, and tasks, come in random order.
      window: examples per window.
    """

    proportions: Mapping[str, float]
    sizes: Mapping[str, int | None]
    seed: int
    shuffle: bool = True
    window: int = WINDOW

    def window_draws(self, number: int) -> list[Draw]:
        """The draws of window `number`, in the order in which every prefix has exact shares.

        Raises:
          ValueError: a share is negative or no number, or all are 0.
        """
        first = number * self.window
        tasks, counts = self._apportionment.turns(first, first + self.window)
        sizes = self._sizes[tasks]
        epochs, offsets = np.divmod(counts, sizes)
        if self.shuffle:
            finite = np.flatnonzero(sizes != _ENDLESS)
            keys = self._order_keys(tasks[finite], epochs[finite])
            offsets[finite] = permuted_all(offsets[finite], sizes[finite], keys)
        return [
            Draw(*draw)
            for draw in zip(tasks.tolist(), offsets.tolist(), epochs.tolist(), strict=True)
        ]

    def draw(self, name: str, count: int, position: int = 0) -> Draw:
        """Draw number `count` (from 0) of task `name`, which is at `position`."""
        size = self.sizes[name]
        if size is None:
            return Draw(position, count, 0)
        epoch, offset = divmod(count, size)
        if self.shuffle:
            offset = permuted(offset, size, self._order_key(name, epoch))
        return Draw(position, offset, epoch)

    def __getstate__(self) -> dict:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @cached_property
    def _apportionment(self) -> Apportionment:
        return Apportionment(list(self.proportions.values()), self.seed, shuffle=self.shuffle)

    @cached_property
    def _names(self) -> list[str]:
        return list(self.proportions)

    @cached_property
    def _sizes(self) -> np.ndarray:
        sizes = (self.sizes[name] for name in self.proportions)
        return np.array([_ENDLESS if size is None else size for size in sizes], np.int64)

    @cached_property
    def _known_keys(self) -> dict[int, int]:
        return {}

    def _order_key(self, name: str, epoch: int) -> int:
        return stable_hash(self.seed, "order", name, epoch)

    def _order_keys(self, tasks: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """The key of the permutation of each task's rows in each epoch."""
        codes, place = np.unique(epochs * len(self._names) + tasks, return_inverse=True)
        if len(self._known_keys) > _KEPT_KEYS:
            self._known_keys.clear()
        keys = []
        for code in codes.tolist():
            key = self._known_keys.get(code)
            if key is None:
                epoch, task = divmod(code, len(self._names))
                key = self._known_keys[code] = self._order_key(self._names[task], epoch)
            keys.append(key)
        return np.array(keys, np.uint64)[place]


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


def permuted_all(indices: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """`permuted` of each index, size and key."""
    result = indices.astype(np.uint64)
    sizes, keys = sizes.astype(np.uint64), keys.astype(np.uint64)
    # As (size - 1).bit_length(), rounded up to even and halved; exact below 2**53 rows.
    half = np.maximum((np.frexp((sizes - np.uint64(1)).astype(float))[1] + 1) // 2, 1)
    half = half.astype(np.uint64)
    mask = (np.uint64(1) << half) - np.uint64(1)
    outside = np.arange(len(result))
    while len(outside):
        value, width, low, key = (a[outside] for a in (result, half, mask, keys))
        left, right = value >> width, value & low
        for turn in range(_FEISTEL_ROUNDS):
            left, right = right, left ^ (scrambled(right, key + np.uint64(turn)) & low)
        value = (left << width) | right
        result[outside] = value
        outside = outside[value >= sizes[outside]]
    return result.astype(np.int64)


def _mix(value: int, key: int) -> int:
    z = (value * 0x9E3779B97F4A7C15 + key) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)
