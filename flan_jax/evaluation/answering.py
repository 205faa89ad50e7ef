"""A model that answers prompts: tokenised, batched by length, decoded, with an account of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from flan_jax.decoding import DecodeConfig, Decoded, Scored, decode, item_keys, score
from flan_jax.draws import stable_hash
from flan_jax.evaluation.prompt_files import Prompt
from flan_jax.evaluation.requests import bucket_of, buckets, fit_tokens
from flan_jax.models.language_model import LanguageModel

Row = dict[str, Any]


@dataclass(frozen=True)
class Answerer:
    """Answers prompts with one model on the current mesh.

    What is drawn for a prompt depends on `seed` and its id (without one, its number) alone. All
    processes must ask the same prompts; each gets all answers.

    Attributes:
      params: parameters on the mesh.
      model: their definition, with the vocabularies.
      config: how to decode.
      batch_sharding: how rows are split over the mesh.
      batch_size: prompts at a time.
      inputs_length: most tokens of a prompt, end-of-sequence id included.
      seed: of what is sampled.
    """

    params: Any
    model: LanguageModel
    config: DecodeConfig
    batch_sharding: NamedSharding
    batch_size: int
    inputs_length: int
    seed: int = 0

    def answers(self, prompts: Sequence[Prompt]) -> Iterator[list[Row]]:
        """A row for each prompt, batch by batch, longest prompts first.

        A row has `number`, `id` (if the prompt has one), `prompt`, `prediction` (text), `tokens`
        (generated ids, the end-of-sequence id included), `ended` ("eos", or "length" if
        `max_decode_len` ended it), `logprob` (sum over the generated tokens, nats, before
        temperature and filters), `prompt_tokens`, and `prompt_tokens_lost` if some had to go. With
        `num_decodes` > 1, `predictions` has a list of such accounts, the best first.
        """
        for batch, tokens, lost in self._batches(prompts):
            decoded = self._decode(tokens, batch)
            yield [
                self._row(prompt, tokens[i], lost[i], decoded, i) for i, prompt in enumerate(batch)
            ]

    def scores(self, prompts: Sequence[Prompt]) -> Iterator[list[Row]]:
        """Log-probabilities of each prompt's targets, batch by batch.

        A row has `number`, `id`, `prompt` and the counts of `answers`; `targets` (the texts), and
        for each of them, in order: `scores` (nats, summed over its tokens and the end-of-sequence
        id), `target_tokens` (how many that are) and `token_scores`.
        """
        most = max(len(prompt.targets) for prompt in prompts) if prompts else 0
        for batch, tokens, lost in self._batches(prompts):
            targets = self._targets(batch, most)
            scored = score(
                self.params,
                put_rows(tokens, self.batch_sharding),
                put_rows(targets, self.batch_sharding),
                inputs_bidirectional_attention=self._bidirectional,
            )
            scored = jax.tree.map(fetch, scored)
            yield [
                self._about(prompt, tokens[i], lost[i]) | _scores(prompt, targets[i], scored, i)
                for i, prompt in enumerate(batch)
            ]

    def _targets(self, batch: Sequence[Prompt], most: int) -> np.ndarray:
        """Int32 ids [batch_size, most, length] with end-of-sequence ids, padded by 0.

        The length is a power of two, for few shapes to be compiled.
        """
        vocabulary = self.model.output_vocabulary
        ids = [[[*vocabulary.encode(t), vocabulary.eos_id] for t in p.targets] for p in batch]
        longest = max(len(each) for row in ids for each in row)
        length = 1 << max(3, (longest - 1).bit_length())
        targets = np.zeros((self.batch_size, most, length), np.int32)
        for i, row in enumerate(ids):
            for j, each in enumerate(row):
                targets[i, j, : len(each)] = each
        return targets

    @property
    def _bidirectional(self) -> bool:
        return getattr(self.model, "inputs_bidirectional_attention", False)

    def _batches(
        self, prompts: Sequence[Prompt]
    ) -> Iterator[tuple[list[Prompt], np.ndarray, list[int]]]:
        """(prompts, their ids int32 [batch_size, bucket], tokens that each lost)."""
        lengths = buckets(self.inputs_length)
        vocabulary = self.model.input_vocabulary
        by_bucket: dict[int, list[tuple[Prompt, tuple[int, ...], int]]] = {}
        for prompt in prompts:
            ids = [*vocabulary.encode(prompt.text), vocabulary.eos_id]
            kept, lost = fit_tokens(ids, self.inputs_length)
            by_bucket.setdefault(bucket_of(len(kept), lengths), []).append((prompt, kept, lost))
        for length in sorted(by_bucket, reverse=True):
            members = by_bucket[length]
            for start in range(0, len(members), self.batch_size):
                part = members[start : start + self.batch_size]
                tokens = np.full((self.batch_size, length), vocabulary.pad_id, np.int32)
                for row, (_, kept, _) in zip(tokens, part, strict=False):
                    row[: len(kept)] = kept
                tokens[len(part) :] = tokens[
                    0
                ]  # filler; over padding alone attention means nothing
                yield [prompt for prompt, _, _ in part], tokens, [lost for _, _, lost in part]

    def _decode(self, tokens: np.ndarray, batch: Sequence[Prompt]) -> Decoded:
        keys = None
        if self.config.temperature > 0:
            ids = np.zeros(len(tokens), np.uint32)
            ids[: len(batch)] = [_item_id(prompt) for prompt in batch]
            keys = item_keys(self.seed, put_rows(ids, self.batch_sharding))
        found = decode(
            self.params,
            put_rows(tokens, self.batch_sharding),
            self.config,
            keys=keys,
            inputs_bidirectional_attention=self._bidirectional,
        )
        return jax.tree.map(fetch, found)

    def _row(self, prompt: Prompt, tokens: np.ndarray, lost: int, decoded: Decoded, i: int) -> Row:
        order = list(range(self.config.num_decodes))
        if self.config.method == "beam":
            order.reverse()  # beams stand from the worst to the best
        found = [self._account(decoded, i, j) for j in order]
        row = self._about(prompt, tokens, lost) | found[0]
        return row | ({"predictions": found} if len(found) > 1 else {})

    def _about(self, prompt: Prompt, tokens: np.ndarray, lost: int) -> Row:
        row: Row = {"number": prompt.number}
        row |= {} if prompt.id is None else {"id": prompt.id}
        row["prompt"] = prompt.text
        row["prompt_tokens"] = int((tokens != self.model.input_vocabulary.pad_id).sum())
        return row | ({"prompt_tokens_lost": lost} if lost else {})

    def _account(self, decoded: Decoded, i: int, j: int) -> Row:
        length = int(decoded.lengths[i, j])
        ids = decoded.ids[i, j, :length].tolist()
        account: Row = {
            "prediction": self.model.output_vocabulary.decode(ids),
            "tokens": ids,
            "ended": "eos" if decoded.ended[i, j] else "length",
            "logprob": float(decoded.logprobs[i, j]),
        }
        if self.config.method == "beam":
            account["score"] = float(decoded.scores[i, j])
        return account


def _scores(prompt: Prompt, targets: np.ndarray, scored: Scored, i: int) -> Row:
    counts = [int(count) for count in (targets > 0).sum(axis=1)[: len(prompt.targets)]]
    return {
        "targets": list(prompt.targets),
        "scores": [float(total) for total in scored.total[i, : len(counts)]],
        "target_tokens": counts,
        "token_scores": [scored.per_token[i, j, :n].tolist() for j, n in enumerate(counts)],
    }


def _item_id(prompt: Prompt) -> int:
    name = prompt.number if prompt.id is None else prompt.id
    return stable_hash("item", name) & 0xFFFFFFFF


def put_rows(rows: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array of which every process holds all rows, split over the mesh."""
    return jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__)


def fetch(array: jax.Array) -> np.ndarray:
    """The whole array on this process; with several, call it on all."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def least_batch(sharding: NamedSharding) -> int:
    """The fewest rows that can be split over the mesh."""
    (rows,) = sharding.shard_shape((sharding.num_devices,))
    return sharding.num_devices // rows
