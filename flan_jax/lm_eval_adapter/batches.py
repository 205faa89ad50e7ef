"""Token ids through a model in batches of few shapes: log-probabilities, and continuations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np

from flan_jax.decoding import DecodeConfig, decode, item_keys, score
from flan_jax.evaluation.answering import fetch, put_rows
from flan_jax.evaluation.requests import bucket_of, buckets
from flan_jax.lm_eval_adapter.loading import LoadedModel

Ids = tuple[int, ...]
T = TypeVar("T")
# Targets of one prompt are scored in one attention; beyond so many tokens they are split up.
MOST_TARGET_TOKENS = 512
_SHORTEST_TARGET = 8


@dataclass(frozen=True)
class Batches:
    """A model that takes any number of prompts, in any order.

    Results do not depend on what is asked together, as far as the hardware rounds alike.

    Attributes:
      loaded: the model.
      inputs_length: the most tokens of a prompt; what is longer loses its beginning.
      seed: of what is sampled.
    """

    loaded: LoadedModel
    inputs_length: int
    seed: int = 0

    def scores(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
        """Of each (prompt, target): the target's log-probability in nats, and whether every token
        of it is the likeliest one. A prompt is read once for all targets that are asked with it.
        """
        found: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        groups = _together(pairs)
        for batch, tokens in self._batches(groups, lambda group: group[0]):
            # Powers of two, for few shapes to be compiled.
            count = _power(max(len(members) for _, members in batch))
            length = _power(max(len(pairs[i][1]) for _, members in batch for i in members))
            targets = np.zeros((len(tokens), count, max(length, _SHORTEST_TARGET)), np.int32)
            for row, (_, members) in zip(targets, batch, strict=False):
                for j, i in enumerate(members):
                    row[j, : len(pairs[i][1])] = pairs[i][1]
            total, greedy = self._score(tokens, targets)
            for row, (_, members) in enumerate(batch):
                for j, i in enumerate(members):
                    found[i] = float(total[row, j]), bool(greedy[row, j])
        return found

    def continuations(
        self, prompts: Sequence[Ids], names: Sequence[int], config: DecodeConfig
    ) -> list[list[int]]:
        """The best continuation of each prompt, end-of-sequence id included if it has one.

        Args:
          prompts: token ids.
          names: a 32-bit number for each; with `seed` it decides what is sampled.
          config: how to decode.
        """
        found: list[list[int]] = [[]] * len(prompts)
        numbers = list(range(len(prompts)))
        for batch, tokens in self._batches(numbers, lambda number: prompts[number]):
            ids = np.zeros(len(tokens), np.uint32)
            ids[: len(batch)] = [names[number] for number in batch]
            best, lengths = self._decode(tokens, ids, config)
            for row, number in enumerate(batch):
                found[number] = best[row, : lengths[row]].tolist()
        return found

    def _batches(
        self, items: Sequence[T], prompt_of: Callable[[T], Ids]
    ) -> Iterator[tuple[list[T], np.ndarray]]:
        """(items, their prompts int32 [batch_size, bucket]), longest first."""
        lengths = buckets(self.inputs_length)
        by_bucket: dict[int, list[T]] = {}
        for item in items:
            by_bucket.setdefault(bucket_of(len(prompt_of(item)), lengths), []).append(item)
        size = self.loaded.batch_size
        for length in sorted(by_bucket, reverse=True):
            members = by_bucket[length]
            for start in range(0, len(members), size):
                part = members[start : start + size]
                tokens = np.zeros((size, length), np.int32)
                for row, item in zip(tokens, part, strict=False):
                    ids = prompt_of(item)[-self.inputs_length :]
                    row[: len(ids)] = ids
                tokens[len(part) :] = tokens[0]
                yield part, tokens

    @functools.cached_property
    def _bidirectional(self) -> bool:
        return getattr(self.loaded.model, "inputs_bidirectional_attention", False)

    def _put(self, rows: np.ndarray) -> jax.Array:
        return put_rows(rows, self.loaded.batch_sharding)

    def _score(self, tokens: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with self.loaded.partitioner.use(self.loaded.mesh):
            scored = score(
                self.loaded.params,
                self._put(tokens),
                self._put(targets),
                inputs_bidirectional_attention=self._bidirectional,
            )
            return fetch(scored.total), fetch(scored.greedy)

    def _decode(self, tokens: np.ndarray, ids: np.ndarray, config: DecodeConfig) -> Any:
        with self.loaded.partitioner.use(self.loaded.mesh):
            keys = item_keys(self.seed, self._put(ids)) if config.temperature > 0 else None
            decoded = decode(
                self.loaded.params,
                self._put(tokens),
                config,
                keys=keys,
                inputs_bidirectional_attention=self._bidirectional,
            )
            # Beams stand from the worst to the best; there is one sample.
            return fetch(decoded.ids)[:, -1], fetch(decoded.lengths)[:, -1]


def _together(pairs: Sequence[tuple[Ids, Ids]]) -> list[tuple[Ids, list[int]]]:
    """(prompt, positions of its targets), each group small enough for one attention."""
    groups: list[tuple[Ids, list[int]]] = []
    open_groups: dict[Ids, tuple[list[int], int]] = {}
    for i, (prompt, target) in enumerate(pairs):
        members, longest = open_groups.get(prompt, ([], 0))
        longest = max(longest, len(target), _SHORTEST_TARGET)
        if not members or _power(len(members) + 1) * _power(longest) > MOST_TARGET_TOKENS:
            members, longest = [], max(len(target), _SHORTEST_TARGET)
            groups.append((prompt, members))
        members.append(i)
        open_groups[prompt] = members, longest
    return groups


def _power(number: int) -> int:
    """The least power of two that is not less."""
    return 1 << max(0, number - 1).bit_length()
