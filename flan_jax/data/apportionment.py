"""Which task comes at which step, so that no task is ever a whole draw from its share.

With k tasks of shares p_i, write c_i(n) for the draws that task i had in the first n. Here
|c_i(n) - n * p_i| <= 1 - 1/(2k) holds for every task and every n: the chairman assignment problem
(Tijdeman, 1980), solved as a schedule of unit jobs with release times and deadlines.

Let d = 1/(2k). Draw number j (from 1) of task i may come at step n, counted from 1, if

    n * p_i >= j - 1 + d    (earlier, the task would be ahead by more than 1 - d), and
    (n - 1) * p_i <= j - d  (later, it would have been behind by more than 1 - d).

*There is such a schedule.* Draws of task i that must lie in steps s+1 … t number fewer than
(t - s) * p_i + 2d, where they number anything. All tasks together have fewer than
t - s + 2dk = t - s + 1 of them, so at most t - s: Hall's condition. Taking the earliest deadline
among the draws released finds such a schedule, and never idles, because by step t more than
t - kd = t - 1/2 draws are released.

*Its state at any step needs no replay.* At step t a task has had its draws whose deadline is past
and perhaps one more, its open draw. Earliest deadline first takes draws by a fixed priority, and
such a schedule has completed, at any time, the greedy basis of the matroid of sets that fit: for
every s, at most t - s of the draws completed by t were released after s. So which open draws are
taken at t follows from the shares alone (`_taken`).

*Order.* Earliest deadline first is regular, and keeps rare tasks back. So it only fixes the counts
at the ends of blocks of steps. A block begins as a feasible schedule in which draws with much time
lie at random in theirs. Then random swaps of two steps are made, each where both draws stay between
their release and their deadline; being symmetric, they lead towards all feasible schedules being
equally likely. Last, the same swaps are made from the middle of each block to the middle of the
next, so that the ends of blocks hardly show. Any step depends on the shares, the seed and the two
blocks around it only.

The arithmetic is on integers: shares are multiples of 2**-62.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeVar

import numpy as np

from flan_jax.draws import Draws, stable_hash

BLOCK = 1 << 16
_UNIT = 1 << 62  # what the integer shares sum to
_KEPT = 2  # blocks; a window may lie across two
_ROUNDS_PER_SCALE = 4  # rounds of swaps for each doubling of the distance
_CHUNK = 1 << 18  # steps looked back at a time
_MARGIN = 1e-6  # where floating point decides, and must err on one side
_T = TypeVar("_T")


class Turns(NamedTuple):
    """Consecutive steps: whose turn it is, and how many that task has had before."""

    tasks: np.ndarray
    counts: np.ndarray


def integer_shares(weights: Sequence[float | Fraction]) -> list[int]:
    """`weights` scaled to integers that sum to 2**62, by largest remainder.

    Raises:
      ValueError: there are no weights, or one is negative, infinite or not a number.
    """
    if not weights or any(not 0 <= weight < float("inf") for weight in weights):
        raise ValueError(f"weights must be finite and at least 0, found {list(weights)!r:.200}")
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact)
    if not total:
        raise ValueError("weights must not all be 0")
    scaled = [weight * _UNIT / total for weight in exact]
    shares = [int(share) for share in scaled]
    by_remainder = sorted(range(len(scaled)), key=lambda i: (shares[i] - scaled[i], i))
    for i in by_remainder[: _UNIT - sum(shares)]:
        shares[i] += 1
    return shares


class _Block(NamedTuple):
    """The draws of consecutive steps, in their order.

    Attributes:
      owner: their tasks, among those that have a share.
      job: their numbers, from 1.
      release: the first step, from 0, of each.
      deadline: the last step of each, or some step beyond the next block.
      counts: per task, its draws so far at the block's end.
    """

    owner: np.ndarray
    job: np.ndarray
    release: np.ndarray
    deadline: np.ndarray
    counts: np.ndarray


class Apportionment:
    """The endless sequence of tasks for given weights. Threads may share one; copies are cheap.

    Attributes:
      shares: the share of each task, exact; from its weight's by less than 2**-62.
    """

    def __init__(
        self,
        weights: Sequence[float | Fraction],
        seed: int = 0,
        *,
        shuffle: bool = True,
        block: int = BLOCK,
    ):
        """Args:
        weights: weight of each task.
        seed: of the order; the bound holds for each.
        shuffle: False for the regular order.
        block: steps that are computed at a time.

        Raises:
          ValueError: a weight is no finite number of at least 0, or `block` is not positive.
        """
        if block < 1:
            raise ValueError(f"block must be at least 1, found {block}")
        shares = integer_shares(weights)
        self.shares = tuple(Fraction(share, _UNIT) for share in shares)
        # A share too small for the unit is one that never has a turn.
        self._tasks = np.array([i for i, share in enumerate(shares) if share], np.int32)
        self._share = np.array([share for share in shares if share], object)
        self._rate = np.array([share / _UNIT for share in self._share])
        self._slack = _UNIT // (2 * len(self._share))  # d
        self._seed = seed
        self._shuffle = shuffle
        self._block = block
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._mended: OrderedDict[int, Turns] = OrderedDict()

    def __getstate__(self) -> dict:
        kept = {"_lock", "_blocks", "_mended"}
        return {name: value for name, value in self.__dict__.items() if name not in kept}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()

    def turns(self, start: int, stop: int) -> Turns:
        """The turns of steps start … stop - 1, counted from 0."""
        half = self._block // 2
        parts = []
        for number in range((start + half) // self._block, -(-(stop + half) // self._block)):
            first = max(number * self._block - half, 0)
            here = slice(max(start - first, 0), max(stop - first, 0))
            with self._lock:
                turns = _remembered(self._mended, number, self._mend)
            parts.append((turns.tasks[here], turns.counts[here]))
        if not parts:
            return Turns(np.zeros(0, np.int32), np.zeros(0, np.int64))
        tasks, counts = zip(*parts, strict=True)
        return Turns(np.concatenate(tasks), np.concatenate(counts))

    def counts_at(self, step: int) -> np.ndarray:
        """Draws before step `step`, by earliest deadline first, of each task that has a share.

        The sequence is built from these counts at the ends of blocks. The time needed grows with
        `step` only up to the interval at which the rarest tasks come.
        """
        due, released = self._due(step), self._released(step)
        counts = due.copy()
        counts[self._taken(step, due, np.flatnonzero(released > due))] += 1
        return counts

    def _make_block(self, number: int) -> _Block:
        first, size = number * self._block, self._block
        previous = self._blocks.get(number - 1)
        before = previous.counts if previous else self.counts_at(first)
        after = self.counts_at(first + size)
        owner, job = _jobs(before, after)
        release = (self._release(owner, job) - 1).astype(np.int64)
        deadline = np.minimum(self._deadline(owner, job) - 1, first + 2 * size).astype(np.int64)
        here = _within(release, deadline, first, size)
        if self._shuffle:
            draws = Draws(self._seed, "turns", number)
            order = _swapped(_scattered(*here, draws, len(before)), *here, draws)
        else:
            order = _earliest_first(*here)
        return _Block(owner[order], job[order], release[order], deadline[order], after)

    def _mend(self, number: int) -> Turns:
        """The steps half a block to either side of where block `number` begins."""
        half = self._block // 2
        parts = []
        if number and half:
            before = _remembered(self._blocks, number - 1, self._make_block)
            parts.append([array[self._block - half :] for array in before[:4]])
        after = _remembered(self._blocks, number, self._make_block)
        parts.append([array[: self._block - half] for array in after[:4]])
        owner, job, release, deadline = map(np.concatenate, zip(*parts, strict=True))
        if number and half and self._shuffle:
            first = number * self._block - half
            slots = np.arange(len(owner))
            release, deadline = _within(release, deadline, first, len(slots))
            draws = Draws(self._seed, "seams", number)
            order = _swapped(slots, release, deadline, draws)
            owner, job = owner[order], job[order]
        return Turns(self._tasks[owner], job.astype(np.int64) - 1)

    # Arrays of Python's integers: a step times a share has more than 64 bits.

    def _due(self, step: int) -> np.ndarray:
        """Per task, the draws whose deadline is `step` or before."""
        return (step * self._share + (self._slack - 1)) // _UNIT

    def _released(self, step: int) -> np.ndarray:
        """Per task, the draws that may come at `step` or before."""
        return (step * self._share - self._slack) // _UNIT + 1

    def _release(self, owner: np.ndarray, job: np.ndarray) -> np.ndarray:
        """The first step, from 1, at which draws `job`, from 1, of tasks `owner` may come."""
        return -(((1 - job) * _UNIT - self._slack) // self._share[owner])

    def _deadline(self, owner: np.ndarray, job: np.ndarray) -> np.ndarray:
        """The last step, from 1, at which draws `job` of tasks `owner` may come."""
        return (job * _UNIT - self._slack) // self._share[owner] + 1

    def _taken(self, step: int, due: np.ndarray, open_: np.ndarray) -> np.ndarray:
        """Those of the tasks `open_` whose open draw earliest deadline first makes by `step`.

        By deadline, an open draw is taken if for every s, with those taken already, at most
        step - s of the draws made by `step` were released after s. To count these exactly one
        goes back from `step`; where too many steps would have to be counted, a bound shows that
        what was left out decides nothing.
        """
        wanted = step - int(due.sum())
        job = due[open_] + 1
        deadline = self._deadline(open_, job)
        ages = (step - self._release(open_, job)).astype(np.int64)
        ties = [
            stable_hash(self._seed, "tie", int(self._tasks[task]), int(number))
            for task, number in zip(open_, job, strict=True)
        ]
        by_priority = sorted(range(len(open_)), key=lambda i: (deadline[i], ties[i]))
        looked = min(step, 2 * len(self._share) + 64)
        while True:
            taken = _greedy(by_priority, ages, self._room(step, looked, due), wanted)
            if self._suffices(step, looked, due, np.sort(ages[taken])):
                return open_[taken]
            looked = min(step, 4 * looked)

    def _room(self, step: int, looked: int, due: np.ndarray) -> np.ndarray:
        """Entry g - 1: of the last g steps, those left by due draws that can only lie there."""
        owner, job = _jobs(np.minimum(self._released(step - looked), due), due)
        ages = (step - self._release(owner, job)).astype(np.int64)
        used = np.bincount(ages, minlength=looked).cumsum()
        return np.arange(1, looked + 1) - used

    def _suffices(self, step: int, looked: int, due: np.ndarray, ages: np.ndarray) -> bool:
        """Whether draws of these ages, ascending, have room in the last g steps for g > looked.

        As `_room`, but faster, in floating point: a yes is certain, a no may be wrong.
        """
        left = ((step * self._share - due * _UNIT) / _UNIT).astype(float)
        delta = self._slack / _UNIT
        end = min(step, _bounded_from(looked, left - delta, self._rate, ages))
        for first in range(looked, end, _CHUNK):
            last = min(first + _CHUNK, end)
            before, after = (
                np.maximum(due - self._released(step - gap), 0) for gap in (first, last)
            )
            owner, nth = _jobs(before, after)  # from the newest of the due draws
            age = (left[owner] + nth.astype(float) - delta) / self._rate[owner] - _MARGIN
            age = np.clip(np.floor(age).astype(np.int64), first, last - 1) - first
            gaps = np.arange(first + 1, last + 1)
            used = int(before.sum()) + np.bincount(age, minlength=last - first).cumsum()
            if (gaps - used < np.searchsorted(ages, gaps)).any():
                return False
        return True


def _bounded_from(looked: int, left: np.ndarray, rate: np.ndarray, ages: np.ndarray) -> int:
    """A number of steps above which draws of these ages, ascending, certainly have room.

    Of the last g steps task i leaves more than min(left_i, g * rate_i) to open draws. The sum
    grows with g and in the end comes within 1/2 of the number of draws.
    """

    def has_room(gap: int, count: int) -> bool:
        return np.minimum(left, (gap + 1) * rate).sum() >= count - 1 + _MARGIN

    gaps, last = np.unique(np.maximum(ages, looked)[::-1], return_index=True)
    end = None
    for gap, count in zip(gaps[::-1].tolist(), (len(ages) - last)[::-1].tolist(), strict=True):
        if not has_room(gap, count):
            if end is None:
                end = gap
                while not has_room(end, count):
                    end *= 2
            return end
        end = gap
    return looked


def _greedy(by_priority: list[int], ages: np.ndarray, room: np.ndarray, wanted: int) -> list[int]:
    """The first `wanted` for which there is room, which they use up."""
    # A draw uses room[age:], so only the least room from each age to the next matters.
    looked = ages[ages < len(room)]
    steps, index = np.unique(np.append(looked, len(room)), return_inverse=True)
    least = np.minimum.reduceat(room, steps[:-1]) if len(looked) else room[:0]
    place = np.full(len(ages), len(least))
    place[ages < len(room)] = index[:-1]
    taken: list[int] = []
    for i in by_priority:
        if len(taken) == wanted:
            break
        later = least[place[i] :]
        if not len(later) or later.min() > 0:
            later -= 1
            taken.append(i)
    return taken


def _remembered(kept: OrderedDict[int, _T], number: int, make: Callable[[int], _T]) -> _T:
    """What `make` gives for `number`, kept for a few numbers."""
    if number not in kept:
        kept[number] = make(number)
        if len(kept) > _KEPT:
            kept.popitem(last=False)
    kept.move_to_end(number)
    return kept[number]


def _within(
    release: np.ndarray, deadline: np.ndarray, first: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same times as slots of `size` steps from `first`."""
    return np.maximum(release - first, 0), np.minimum(deadline - first, size - 1)


def _jobs(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(task, number) of each task's draws number before + 1 … after."""
    number = (after - before).astype(np.int64)
    owner = np.repeat(np.arange(len(number)), number)
    nth = np.arange(1, len(owner) + 1) - np.repeat(number.cumsum() - number, number)
    return owner, before[owner] + nth


def scrambled(values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """64 random bits for each value and key: SplitMix64's finaliser, modulo 2**64."""
    z = values * np.uint64(0x9E3779B97F4A7C15) + keys
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _scattered(release: np.ndarray, deadline: np.ndarray, draws: Draws, tasks: int) -> np.ndarray:
    """Jobs in the order of slots, those with much time at random in theirs.

    They are given random times to be done by, well between release and deadline. Where too many
    coincide a deadline is missed; then only jobs with still more time get them.
    """
    size = len(release)
    bits = scrambled(np.arange(size, dtype=np.uint64), np.array(draws.bits(), np.uint64))
    uniform = (bits >> np.uint64(11)).astype(float) * 2.0**-53
    margin = 32 + 12 * math.isqrt(tasks)  # what coincides by chance grows with the square root
    slots = np.arange(size)
    while True:
        spare = deadline - release - 2 * margin
        drawn = release + margin + (uniform * spare).astype(np.int64)
        times = np.where(spare > 0, drawn, deadline)
        order = _earliest_first(release, times)
        if (deadline[order] >= slots).all():
            return order
        margin *= 4  # in the end the times are the deadlines, which are met


def _earliest_first(release: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Jobs in the order of slots 0, 1 …: of those released the one whose time is earliest."""
    size = len(release)
    by_release = np.argsort(release, kind="stable")
    released_by = np.searchsorted(release[by_release], np.arange(size), side="right").tolist()
    keys = (times * size + np.arange(size))[by_release].tolist()
    heap: list[int] = []
    order = []
    pushed = 0
    for until in released_by:
        if until == pushed:
            order.append(heapq.heappop(heap))
            continue
        for key in keys[pushed : until - 1]:
            heapq.heappush(heap, key)
        order.append(heapq.heappushpop(heap, keys[until - 1]))
        pushed = until
    return np.array(order, np.int64) % size


def _swapped(
    order: np.ndarray, release: np.ndarray, deadline: np.ndarray, draws: Draws
) -> np.ndarray:
    """`order` after random swaps, near and far, that keep every job in its time.

    A round cuts the slots, from a random one on, into pairs of stretches of some width, and pairs
    the slots of the one with those of the other, turned by a random angle.
    """
    size = len(order)
    slots = np.arange(size)
    # Smaller integers, which are faster; in a block no time is larger than its size.
    release, deadline = (np.clip(t[order], 0, size).astype(np.int32) for t in (release, deadline))
    for scale in range((size // 2).bit_length()):
        for _ in range(_ROUNDS_PER_SCALE):
            width = min(draws.between(1 << scale, (2 << scale) - 1), size // 2)
            start = draws.below(min(2 * width, size - 2 * width + 1))
            stretches = slots[start : start + (size - start) // (2 * width) * 2 * width]
            stretches = stretches.reshape(-1, 2, width)
            left = stretches[:, 0].ravel()
            right = np.roll(stretches[:, 1], draws.below(width), axis=1).ravel()
            fits = (release[right] <= left) & (deadline[left] >= right)
            left, right = left[fits], right[fits]
            for array in (order, release, deadline):
                array[left], array[right] = array[right], array[left]
    return order
