"""Answers requests with a model: batches of few shapes, resumable, in any order.

What answers a batch is the only thing that knows of the model. It sees fixed shapes
([batch_size, bucket length] for a handful of buckets), so that a jitted one compiles a handful of
times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flan_jax.draws import stable_hash
from flan_jax.evaluation import store as stores
from flan_jax.evaluation.budget import Clock, Cost
from flan_jax.evaluation.planning import AnyProtocol
from flan_jax.evaluation.requests import Request, Vocabulary, bucket_of, buckets, fit_tokens
from flan_jax.evaluation.store import EOS, LENGTH, Generation


class Batch(NamedTuple):
    """Requests to be answered together.

    Attributes:
      requests: at most as many as there are rows.
      tokens: int32 [batch_size, length], their prompts, right-padded; rows beyond the requests are
        copies of the first one.
      item_ids: uint32 [batch_size], for sampling: keyed by them, an answer does not depend on its
        batch.
    """

    requests: Sequence[Request]
    tokens: np.ndarray
    item_ids: np.ndarray


class Generated(NamedTuple):
    """What a model wrote for the rows of a batch.

    Attributes:
      ids: int32 [batch, paths, length]; what follows the first end-of-sequence id is ignored.
      logprobs: float32 [batch, paths], of the ids under the model, in nats; None if not known.
    """

    ids: np.ndarray
    logprobs: np.ndarray | None = None


# All outputs (paths) of each request of a batch.
Answer = Callable[[Batch], Sequence[Sequence[Generation]]]
# (tokens, item ids) of a batch -> what the model wrote.
Generate = Callable[[np.ndarray, np.ndarray], Generated]


@dataclass(frozen=True)
class Progress:
    """How far a job is; passed to its `progress` callback after every batch.

    Attributes:
      done, total: requests.
      seconds: since the start.
      left: seconds that the rest will take at the pace so far; None as long as that is not known.
    """

    done: int
    total: int
    seconds: float
    left: float | None = None


@dataclass(frozen=True)
class JobResult:
    """What a job did.

    Attributes:
      generations: all outputs by request id; on processes without a store, nothing.
      generated: requests answered now.
      reused: requests found in the store.
      truncated: requests whose prompt lost its end.
      batches: batches answered.
      shapes: distinct shapes among them, which is how often a jitted model compiled.
      seconds: wall-clock time.
    """

    generations: dict[str, tuple[Generation, ...]]
    generated: int
    reused: int
    truncated: int
    batches: int
    shapes: tuple[tuple[int, int], ...]
    seconds: float

    @property
    def outputs(self) -> dict[str, str]:
        """The raw text of the first path by request id."""
        return {name: found[0].output for name, found in self.generations.items()}


def run(
    requests: Sequence[Request],
    answer: Answer,
    store: stores.PredictionStore | None,
    batch_size: int,
    inputs_length: int,
    *,
    paths: int = 1,
    pad_id: int = 0,
    cost: Cost | None = None,
    progress: Callable[[Progress], None] | None = None,
    share: Callable[[np.ndarray], np.ndarray] | None = None,
) -> JobResult:
    """Answers `requests`, taking from `store` what it holds already and adding the rest to it.

    Neither their order nor `batch_size` changes the result if `answer` keeps rows apart.

    Args:
      requests: what to ask; ids must differ.
      answer: the model; see `generating`.
      store: keeps finished batches; only one of several processes has it.
      batch_size: rows per call; the last batch of a length is filled up with copies.
      inputs_length: most tokens of a prompt.
      paths: outputs of each request.
      pad_id: fills rows up.
      cost: of a batch; by default its tokens.
      progress: called after every batch.
      share: where several processes call `answer` in step: of what each has not stored, bool
        [requests], returns that of the process with the store.

    Raises:
      ValueError: ids repeat, or `answer` returned something of another size.
    """
    _check_requests(requests, batch_size)
    found = {} if store is None else _stored(requests, store, paths)
    todo = missing(requests, store, paths, share)
    batches = list(_batches(todo, batch_size, inputs_length))
    shapes = [(batch_size, length) for _, length in batches]
    clock = Clock(cost or Cost(0, 1), shapes)
    done = len(requests) - len(todo)
    for (members, length), shape in zip(batches, shapes, strict=True):
        begun = time.monotonic()
        answers = answer(_pad(members, batch_size, length, pad_id))
        _check(answers, members, paths)
        clock.count(shape, time.monotonic() - begun)
        if store is not None:
            found |= _keep(members, answers, store)
        done += len(members)
        if progress is not None:
            progress(Progress(done, len(requests), clock.seconds(), clock.seconds_left()))
    return JobResult(
        generations={r.id: found[r.id] for r in requests if r.id in found},
        generated=len(todo),
        reused=len(requests) - len(todo),
        truncated=sum(r.truncated > 0 or r.length > inputs_length for r in requests),
        batches=len(batches),
        shapes=tuple(sorted(set(shapes))),
        seconds=clock.seconds(),
    )


def _stored(
    requests: Sequence[Request], store: stores.PredictionStore, paths: int
) -> dict[str, tuple[Generation, ...]]:
    """Outputs by request id, of requests of which all paths are stored."""
    stored = {}
    for request in requests:
        several = [store.get(request, path) for path in range(paths)]
        whole = tuple(each for each in several if each is not None)
        if len(whole) == paths:
            stored[request.id] = whole
    return stored


def missing(
    requests: Sequence[Request],
    store: stores.PredictionStore | None,
    paths: int = 1,
    share: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[Request]:
    """The requests that are still to be answered; arguments are those of `run`."""
    found = {} if store is None else _stored(requests, store, paths)
    wanted = np.array([request.id not in found for request in requests], bool)
    if share is not None:
        wanted = np.asarray(share(wanted), bool)
    return [request for request, left in zip(requests, wanted, strict=True) if left]


def _keep(
    members: Sequence[Request],
    answers: Sequence[Sequence[Generation]],
    store: stores.PredictionStore,
) -> dict[str, tuple[Generation, ...]]:
    """Stores a batch; returns its outputs by request id. Paths that are stored already stay."""
    store.append(
        (request, path, generation)
        for request, several in zip(members, answers, strict=True)
        for path, generation in enumerate(several)
        if store.get(request, path) is None
    )
    return _stored(members, store, len(answers[0]))


def _check_requests(requests: Sequence[Request], batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, found {batch_size}")
    if len({request.id for request in requests}) != len(requests):
        raise ValueError("requests repeat ids: plan each protocol on its own")


def _check(answers: Sequence[Sequence[Generation]], members: Sequence[Request], paths: int) -> None:
    if len(answers) != len(members) or any(len(several) != paths for several in answers):
        raise ValueError(
            f"{len(members)} requests were answered by {[len(several) for several in answers]} "
            f"outputs; expected {paths} for each"
        )


def _batches(
    requests: Sequence[Request], batch_size: int, inputs_length: int
) -> Iterator[tuple[list[Request], int]]:
    """(requests, padded length), longest first: what does not fit in memory fails at once."""
    lengths = buckets(inputs_length)
    by_bucket: dict[int, list[Request]] = {length: [] for length in reversed(lengths)}
    for request in sorted(requests, key=lambda request: (-request.length, request.id)):
        by_bucket[bucket_of(request.length, lengths)].append(request)
    for length, members in by_bucket.items():
        for first in range(0, len(members), batch_size):
            yield members[first : first + batch_size], length


def typical_batch(
    requests: Sequence[Request], batch_size: int, inputs_length: int, pad_id: int
) -> Batch:
    """A batch of the padded length that most requests have."""
    lengths = buckets(inputs_length)
    by_bucket: dict[int, list[Request]] = {}
    for request in requests:
        by_bucket.setdefault(bucket_of(request.length, lengths), []).append(request)
    length, members = max(by_bucket.items(), key=lambda item: len(item[1]))
    return _pad(members[:batch_size], batch_size, length, pad_id)


def _pad(requests: Sequence[Request], batch_size: int, length: int, pad_id: int) -> Batch:
    tokens = np.full((batch_size, length), pad_id, np.int32)
    item_ids = np.zeros(batch_size, np.uint32)
    for i in range(batch_size):
        # Copies rather than rows of padding, over which attention may give NaN.
        request = requests[i if i < len(requests) else 0]
        row, _ = fit_tokens(request.tokens, length)
        tokens[i, : len(row)] = row
        item_ids[i] = stable_hash("item", request.id) & 0xFFFFFFFF
    return Batch(requests, tokens, item_ids)


def generating(generate: Generate, vocabulary: Vocabulary) -> Answer:
    """An `Answer` that turns what `generate` wrote into text."""

    def answer(batch: Batch) -> list[list[Generation]]:
        ids, logprobs = generate(batch.tokens, batch.item_ids)
        ids = np.asarray(ids)
        if ids.ndim != 3 or len(ids) != len(batch.tokens):
            raise ValueError(
                f"generate returned ids of shape {ids.shape} for tokens of shape "
                f"{batch.tokens.shape}; expected ({len(batch.tokens)}, paths, decoded length)"
            )
        return [
            [
                Generation(
                    decode_row(row, vocabulary),
                    EOS if (row == vocabulary.eos_id).any() else LENGTH,
                    None if logprobs is None else float(logprobs[i, path]),
                )
                for path, row in enumerate(ids[i])
            ]
            for i in range(len(batch.requests))
        ]

    return answer


def decode_row(ids: np.ndarray, vocabulary: Vocabulary) -> str:
    """The text of one row of generated ids [length], up to its first EOS and without padding."""
    kept: list[int] = []
    for token in ids.tolist():
        if token == vocabulary.eos_id:
            break
        if token != vocabulary.pad_id:
            kept.append(token)
    return vocabulary.decode(kept)


def open_store(
    folder: Path | str, checkpoint: str, protocol: AnyProtocol
) -> stores.PredictionStore:
    """The store of `checkpoint` under `protocol` below `folder`."""
    return stores.PredictionStore(folder, checkpoint, protocol.store_name, protocol.decoding())
