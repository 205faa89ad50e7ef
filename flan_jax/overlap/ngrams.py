"""Which texts of benchmarks a stream of training texts shares a run of n words with.

The benchmarks' runs are hashed to 64 bits and held in memory, sorted; training texts are streamed
past them in batches. A hash that is found is always checked word by word, so nothing is reported
that is not there, and since equal runs have equal hashes, nothing is missed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from flan_jax.draws import stable_hash
from flan_jax.overlap.benchmarks import Item
from flan_jax.overlap.text import COMMON, NGRAM, SHORTEST, words

_CACHED_WORDS = 1_000_000
_BATCH_WORDS = 1 << 16
QUESTION = "question"


@dataclass(frozen=True)
class BenchmarkText:
    """A text that items of a benchmark consist of.

    Attributes:
      benchmark: the benchmark's name.
      part: `question`, or the kind of another text, such as `context`.
      items: the ids of the items that have it.
      text: its words, with spaces between them.
    """

    benchmark: str
    part: str
    items: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Match:
    """A run of words, `shared`, that a benchmark's text has in common with a field of a row."""

    row: int
    field: str
    found: BenchmarkText
    shared: str


class _WordHashes(dict[str, int]):
    """64-bit hashes of words, those of frequent words kept."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _CACHED_WORDS:
            self.clear()
        value = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")
        self[word] = value
        return value


_HASHES = _WordHashes()


def _hash_words(tokens: Sequence[str]) -> np.ndarray:
    """UInt64[Array, "words"]."""
    return np.fromiter(map(_HASHES.__getitem__, tokens), np.uint64, len(tokens))


@functools.cache
def _multipliers(count: int) -> np.ndarray:
    """Odd, and different for each place of a run: the same words in another order differ."""
    return np.array([stable_hash("n-gram", i) | 1 for i in range(count)], np.uint64)


def run_hashes(tokens: Sequence[str], lengths: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(length, hashes of all runs of so many words) for each of the rising `lengths`.

    Hashes are UInt64[Array, "words-length+1"], empty if there are fewer words.
    """
    hashes = _hash_words(tokens)
    total = np.zeros(len(tokens), np.uint64)
    longest = max(lengths, default=0)
    for place, multiplier in enumerate(_multipliers(longest)):
        total = total[: max(0, len(tokens) - place)]
        total = total + hashes[place:] * multiplier
        if place + 1 in lengths:
            yield place + 1, total


class _Runs:
    """The benchmarks' runs of one length: sorted hashes, and the numbers of the texts they are in.

    Args:
      hashes: UInt64[Array, "runs"].
      owners: Int32[Array, "runs"].
    """

    def __init__(self, hashes: np.ndarray, owners: np.ndarray):
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners = hashes[order], owners[order]
        # A table of the hashes' first bits answers nearly all look-ups with no.
        bits = min(len(hashes), 1 << 22).bit_length() + 3
        self._shift = np.uint64(64 - bits)
        self._first_bits = np.zeros(1 << bits, bool)
        self._first_bits[self._hashes >> self._shift] = True

    def places_of(self, hashes: np.ndarray) -> np.ndarray:
        """Positions in `hashes` of those that are among ours."""
        likely = np.flatnonzero(self._first_bits[hashes >> self._shift])
        found = np.searchsorted(self._hashes, hashes[likely])
        found[found == len(self._hashes)] = 0
        return likely[self._hashes[found] == hashes[likely]]

    def owners_of(self, value: np.uint64) -> list[int]:
        """Numbers of the texts that have the run with this hash."""
        first = np.searchsorted(self._hashes, value, side="left")
        last = np.searchsorted(self._hashes, value, side="right")
        return self._owners[first:last].tolist()


class Index:
    """The runs of words of some benchmarks' items.

    Args:
      ngram: words of a run.
      common: a run does not count that is in more texts of its benchmark than this (a question
        that several items repeat counts for each).

    `add` every benchmark, then `build`, then pass training texts by it with a `Scanner`.
    """

    def __init__(self, ngram: int = NGRAM, common: int = COMMON):
        self.ngram, self.common = ngram, common
        self.texts: list[BenchmarkText] = []
        self.whole: dict[str, list[int]] = {}
        self.runs: dict[int, _Runs] = {}
        self._parts: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(self, benchmark: str, items: Iterable[Item], scaffolding: Iterable[str] = ()) -> int:
        """Adds a benchmark's items; returns how many they are."""
        collected: dict[tuple[str, str], list[str]] = {}
        count = 0
        for count, item in enumerate(items, 1):  # noqa: B007 - their number is the result
            for part, text in ((QUESTION, item.question), *item.others):
                normal = " ".join(words(text))
                if normal:
                    collected.setdefault((part, normal), []).append(item.id)
        by_length: dict[int, list[tuple[int, int, np.ndarray]]] = {}
        for (part, text), ids in collected.items():
            number, times = len(self.texts), len(ids) if part == QUESTION else 1
            self.texts.append(BenchmarkText(benchmark, part, tuple(dict.fromkeys(ids)), text))
            tokens = text.split(" ")
            if len(tokens) < self.ngram and part != QUESTION:
                continue  # a short answer says nothing by itself
            if len(tokens) < min(SHORTEST, self.ngram):
                if times <= self.common:
                    self.whole.setdefault(text, []).append(number)
                continue
            length = min(len(tokens), self.ngram)
            ((_, hashes),) = run_hashes(tokens, [length])
            runs = np.unique(hashes)
            by_length.setdefault(length, []).append((number, times, runs))
        phrases = [words(text) for text in scaffolding]
        for length, found in by_length.items():
            self._parts.setdefault(length, []).append(self._own(found, phrases, length))
        return count

    def _own(
        self,
        found: Sequence[tuple[int, int, np.ndarray]],
        phrases: Sequence[Sequence[str]],
        length: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(hashes, numbers of their texts) of the runs that are no boilerplate."""
        hashes = np.concatenate([runs for _, _, runs in found])
        owners = np.repeat(
            np.array([number for number, _, _ in found], np.int32),
            [len(runs) for _, _, runs in found],
        )
        times = np.repeat([t for _, t, _ in found], [len(runs) for _, _, runs in found])
        _, which = np.unique(hashes, return_inverse=True)
        kept = np.bincount(which, weights=times)[which] <= self.common
        if phrases:
            theirs = [found for phrase in phrases for _, found in run_hashes(phrase, [length])]
            kept &= ~np.isin(hashes, np.concatenate(theirs))
        return hashes[kept], owners[kept]

    def build(self) -> Index:
        """Makes the index ready for use."""
        for length, parts in self._parts.items():
            hashes, owners = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            if len(hashes):
                self.runs[length] = _Runs(hashes, owners)
        self._parts = {}
        return self


class Scanner:
    """Passes texts by an index; `add` and `finish` give the matches.

    Each row's text is reported once for each text of a benchmark that it shares a run with.
    """

    def __init__(self, index: Index):
        self._index = index
        self._texts: list[tuple[int, str, list[str]]] = []
        self._words = 0

    def add(self, row: int, name: str, text: str) -> Iterator[Match]:
        """Takes the text of field `name` of a row; gives matches of texts taken so far."""
        tokens = words(text)
        if not tokens:
            return
        index = self._index
        for number in index.whole.get(" ".join(tokens), ()) if len(tokens) < SHORTEST else ():
            yield Match(row, name, index.texts[number], " ".join(tokens))
        if index.runs and len(tokens) >= min(index.runs):
            self._texts.append((row, name, tokens))
            self._words += len(tokens)
        if self._words >= _BATCH_WORDS:
            yield from self.finish()

    def finish(self) -> Iterator[Match]:
        """The matches of the texts that are still waiting."""
        if self._texts:
            texts, self._texts, self._words = self._texts, [], 0
            yield from self._matches(texts)

    def _matches(self, texts: Sequence[tuple[int, str, list[str]]]) -> Iterator[Match]:
        tokens = [token for _, _, members in texts for token in members]
        lengths = np.array([len(members) for _, _, members in texts])
        ends = np.cumsum(lengths)
        left = np.repeat(ends, lengths) - np.arange(len(tokens))  # words to the text's end
        seen: set[tuple[int, int]] = set()
        for length, hashes in run_hashes(tokens, sorted(self._index.runs)):
            runs = self._index.runs[length]
            places = runs.places_of(hashes)
            for place in places[left[places] >= length].tolist():
                at = int(np.searchsorted(ends, place, side="right"))
                row, name, members = texts[at]
                start = place - int(ends[at] - lengths[at])
                for number in runs.owners_of(np.uint64(hashes[place])):
                    found = self._index.texts[number]
                    if (at, number) in seen:
                        continue
                    shared = _shared(members, start, length, found.text.split(" "))
                    if shared:
                        seen.add((at, number))
                        yield Match(row, name, found, shared)


def _shared(text: Sequence[str], start: int, length: int, other: Sequence[str]) -> str:
    """The longest run of words around `text[start : start + length]` that `other` has as well.

    Empty if `other` does not have these words: only their hashes are equal.
    """
    run = list(text[start : start + length])
    for at in range(len(other) - length + 1):
        if other[at] == run[0] and list(other[at : at + length]) == run:
            before = 0
            while min(start, at) > before and text[start - before - 1] == other[at - before - 1]:
                before += 1
            end = length
            while (
                start + end < len(text)
                and at + end < len(other)
                and text[start + end] == other[at + end]
            ):
                end += 1
            return " ".join(text[start - before : start + end])
    return ""
