"""A model on the current mesh as what answers a job's batches: by generating, or by ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from flan_jax.decoding import DecodeConfig, decode, item_keys, score
from flan_jax.distributed import compile_together
from flan_jax.errors import UserError
from flan_jax.evaluation import job
from flan_jax.evaluation.answering import fetch, least_batch, put_rows
from flan_jax.evaluation.planning import AnyProtocol
from flan_jax.evaluation.ranking import continuation_shape, continuation_tokens
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.store import RANKED, Generation
from flan_jax.models.language_model import LanguageModel


@dataclass(frozen=True)
class Rows:
    """How many items are answered at a time.

    Attributes:
      sharding: how rows are split over the mesh.
      batch_size: outputs at a time, over all devices: paths of an item count each.
      per_device: outputs that a device makes at a time; None for its whole share of a batch. If it
        is set, a row goes through the very same program whatever the batch size and the number of
        devices that share the batch, and its answer has the same bits.
    """

    sharding: NamedSharding
    batch_size: int
    per_device: int | None = None

    def __post_init__(self) -> None:
        parts = least_batch(self.sharding)
        if self.batch_size < 1 or self.batch_size % parts:
            raise UserError(
                f"an evaluation's batch of {self.batch_size} cannot be split over {parts} parts of "
                f"the mesh: make evaluation.GenerationEvaluator.batch_size a multiple of {parts}"
            )
        if self.per_device is not None and self.per_device < 1:
            raise UserError(
                "evaluation.GenerationEvaluator.rows_per_device must be >= 1 or None, found "
                f"{self.per_device}"
            )

    def at_once(self, paths: int) -> int:
        """Items of one call of the model, with so many paths each."""
        if self.per_device is None:
            return self.per_batch(paths)
        return least_batch(self.sharding) * max(1, self.per_device // paths)

    def per_batch(self, paths: int) -> int:
        """Items of a batch, which is stored when all of it is done."""
        unit = least_batch(self.sharding)
        if self.per_device is not None:
            unit = self.at_once(paths)
        return max(unit, self.batch_size // paths // unit * unit)

    def in_turn(self, call: Callable[[slice], Any], items: int, paths: int) -> Any:
        """The results of `call` on parts of so many items, one after the other, joined."""
        step = self.at_once(paths)
        found = [call(slice(start, start + step)) for start in range(0, items, step)]
        return found[0] if len(found) == 1 else jax.tree.map(lambda *x: np.concatenate(x), *found)


def make_answer(
    params: Any,
    protocol: AnyProtocol,
    requests: Sequence[Request],
    rows: Rows,
    model: LanguageModel,
) -> job.Answer:
    """What answers `requests`, batch by batch; all processes pass the same batches and get all.

    Args:
      params: parameters on the mesh.
      protocol: says how answers are made.
      requests: all requests, for one shape to hold the continuations of any.
      rows: how many at a time.
      model: vocabularies, and whether a decoder-only model's prompts see themselves whole.
    """
    if protocol.ranking is not None:
        return _ranking(params, requests, rows, model)
    return job.generating(make_generate(params, protocol, rows, model), model.output_vocabulary)


def make_generate(
    params: Any, protocol: AnyProtocol, rows: Rows, model: LanguageModel
) -> job.Generate:
    """The function that writes what follows a batch of prompts.

    What is drawn depends on the protocol's seed, the item's id and the path alone.
    """
    config = DecodeConfig(
        protocol.max_decode_len or 1,
        num_decodes=protocol.paths,
        temperature=protocol.temperature,
        topk=protocol.topk,
        eos_id=model.output_vocabulary.eos_id,
    )
    options = {"config": config, "inputs_bidirectional_attention": _bidirectional(model)}
    compiled: set[tuple[int, ...]] = set()

    def generate(tokens: np.ndarray, item_ids: np.ndarray) -> job.Generated:
        def call(part: slice) -> tuple[np.ndarray, np.ndarray]:
            inputs = put_rows(tokens[part], rows.sharding)
            keys = None
            if config.temperature > 0:
                keys = item_keys(protocol.seed, put_rows(item_ids[part], rows.sharding))
            if inputs.shape not in compiled:
                compile_together(decode, params, inputs, keys=keys, **options)
                compiled.add(inputs.shape)
            found = decode(params, inputs, keys=keys, **options)
            return fetch(found.ids), fetch(found.logprobs)

        return job.Generated(*rows.in_turn(call, len(tokens), protocol.paths))

    return generate


def _ranking(
    params: Any, requests: Sequence[Request], rows: Rows, model: LanguageModel
) -> job.Answer:
    vocabulary = model.output_vocabulary
    shape = continuation_shape(requests, vocabulary)
    options = {"inputs_bidirectional_attention": _bidirectional(model)}
    compiled: set[tuple[int, ...]] = set()

    def answer(batch: job.Batch) -> list[list[Generation]]:
        targets = continuation_tokens(batch.requests, vocabulary, len(batch.tokens), shape)

        def call(part: slice) -> np.ndarray:
            inputs = put_rows(batch.tokens[part], rows.sharding)
            wanted = put_rows(targets[part], rows.sharding)
            if inputs.shape not in compiled:
                compile_together(score, params, inputs, wanted, **options)
                compiled.add(inputs.shape)
            return fetch(score(params, inputs, wanted, **options).total)

        totals = rows.in_turn(call, len(batch.tokens), 1)
        counts = (targets > 0).sum(axis=2)
        return [
            [_ranked(request, totals[i], counts[i])] for i, request in enumerate(batch.requests)
        ]

    return answer


def _ranked(request: Request, totals: np.ndarray, counts: np.ndarray) -> Generation:
    some = len(request.continuations)
    scores = tuple(float(total) for total in totals[:some])
    return Generation("", RANKED, scores=scores, tokens=tuple(int(n) for n in counts[:some]))


def _bidirectional(model: LanguageModel) -> bool:
    return getattr(model, "inputs_bidirectional_attention", False)
