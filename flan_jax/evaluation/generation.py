"""Answering a protocol's questions with a model on the current mesh, and scoring the answers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gin
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from flan_jax.checkpoints.manager import parameter_hash
from flan_jax.decoding import generate, item_keys
from flan_jax.errors import UserError
from flan_jax.evaluation import job
from flan_jax.evaluation.protocol import EvalProtocol
from flan_jax.evaluation.requests import Request, plan
from flan_jax.evaluation.scores import Scores, score
from flan_jax.models.language_model import LanguageModel
from flan_jax.overlap.held_out import Trained, names_of
from flan_jax.sharding import PjitPartitioner


@dataclass(frozen=True)
class Outcome:
    """What one protocol gave.

    Attributes:
      protocol: what was asked.
      requests: the questions.
      predictions: answers by request id.
      scores: the scores.
      summary: path of the summary file; None on all processes but the first.
    """

    protocol: EvalProtocol
    requests: list[Request]
    predictions: dict[str, str]
    scores: Scores
    summary: Path | None


@gin.configurable(module="evaluation")
@dataclass(frozen=True)
class GenerationEvaluator:
    """Examines a model under protocols.

    Attributes:
      protocols: one or several.
      inputs_length: most tokens of a prompt.
      batch_size: prompts answered at a time, over all devices.
    """

    protocols: tuple[EvalProtocol, ...] | list[EvalProtocol]
    inputs_length: int
    batch_size: int = 64

    def __post_init__(self) -> None:
        names = [protocol.name for protocol in self.protocols]
        if not names or len(set(names)) != len(names):
            raise UserError(
                f"evaluation.GenerationEvaluator needs protocols of different names, found {names}"
            )

    def run(
        self,
        model: LanguageModel,
        params: Any,
        batch_sharding: NamedSharding,
        checkpoint: str,
        step: int,
        folder: Path | str,
        *,
        trained: Trained = None,
        progress: Callable[[EvalProtocol, job.Progress], None] | None = None,
    ) -> list[Outcome]:
        """Answers and scores all protocols; call it on all processes, under the mesh.

        Args:
          model: vocabularies and dimensions.
          params: parameters on the mesh.
          batch_sharding: how rows are split over the mesh.
          checkpoint: names the parameters in the store; what it holds is not generated again.
          step: the parameters' step.
          folder: where results are written.
          trained: the mixtures that the parameters were trained on; None if not known.
          progress: told after every batch.
        """
        first = jax.process_index() == 0
        outcomes = []
        for protocol in self.protocols:
            requests = plan(protocol, model.input_vocabulary, self.inputs_length, trained=trained)
            predictions = answer_requests(
                requests,
                make_generate(params, protocol, batch_sharding, model),
                protocol,
                model,
                checkpoint,
                folder,
                batch_size=self.batch_size,
                inputs_length=self.inputs_length,
                progress=progress,
            )
            scores = score(requests, predictions)
            path = None
            if first:
                path = job.write_results(
                    folder, step, protocol, requests, predictions, scores, names_of(trained)
                )
            outcomes.append(Outcome(protocol, requests, predictions, scores, path))
        return outcomes

    def evaluate(
        self,
        model: LanguageModel,
        params: Any,
        batch_sharding: NamedSharding,
        step: int,
        folder: str,
        trained: Trained = None,
    ) -> str:
        """For the training loop: runs all protocols, returns their headline scores in a line."""
        # By the parameters' hash, answers of another run in this folder are not taken for ours.
        name = f"step-{step}-{parameter_hash(params)[:16]}"
        outcomes = self.run(model, params, batch_sharding, name, step, folder, trained=trained)
        return "  ".join(f"{o.protocol.name}: {headline(o.scores)}" for o in outcomes)


def answer_requests(
    requests: Sequence[Request],
    answer: job.Generate,
    protocol: EvalProtocol,
    model: LanguageModel,
    checkpoint: str,
    folder: Path | str,
    *,
    batch_size: int,
    inputs_length: int,
    progress: Callable[[EvalProtocol, job.Progress], None] | None = None,
) -> dict[str, str]:
    """Answers by request id, kept below `folder`/predictions; call it on all processes.

    Args:
      requests: the questions of `protocol`.
      answer: see `make_generate`.
      protocol: says how answers are decoded.
      model: has the vocabulary that decodes them.
      checkpoint: names the parameters in the store; what it holds is not generated again.
      folder: where results are written.
      batch_size: prompts answered at a time, over all devices.
      inputs_length: most tokens of a prompt.
      progress: told after every batch.
    """
    # Each process keeps a store of its own; `_agree` settles what is left to answer.
    process = jax.process_index()
    name = checkpoint if process == 0 else f"{checkpoint}-process{process}"
    with job.open_store(Path(folder) / "predictions", name, protocol) as store:
        result = job.run(
            requests,
            answer,
            store,
            batch_size,
            inputs_length,
            vocabulary=model.output_vocabulary,
            progress=None if progress is None else functools.partial(progress, protocol),
            agree=_agree if jax.process_count() > 1 else None,
        )
    return result.predictions


def _agree(known: np.ndarray) -> np.ndarray:
    """Which requests all processes have answers to: Bool[Array, "requests"]."""
    from jax.experimental import multihost_utils

    return np.logical_and.reduce(np.asarray(multihost_utils.process_allgather(known)), axis=0)


def make_mesh(partitioner: PjitPartitioner, batch_size: int) -> tuple[Mesh, NamedSharding]:
    """The mesh, and how a batch's rows are split over it. Raises UserError if they do not fit."""
    try:
        mesh = partitioner.make_mesh()
        return mesh, partitioner.batch_sharding(mesh, batch_size)
    except ValueError as error:
        raise UserError(str(error)) from error


def headline(scores: Scores) -> str:
    """Such as `held in 41.2%, held out 12.0%`."""
    parts = {
        "held in": scores.held_in,
        "held out": scores.held_out,
        "unknown whether held out": scores.unknown,
    }
    return ", ".join(f"{name} {found.value:.1%}" for name, found in parts.items() if found)


def make_generate(
    params: Any,
    protocol: EvalProtocol,
    batch_sharding: NamedSharding,
    model: LanguageModel | None = None,
) -> job.Generate:
    """The function that answers a batch of prompts, rows split over the mesh.

    Every process passes the same rows and gets all answers. `model` says whether a decoder-only
    model's prompts see themselves whole; without it, attention is causal.
    """
    bidirectional = getattr(model, "inputs_bidirectional_attention", False)

    def answer(tokens: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
        def put(rows: np.ndarray) -> jax.Array:
            return jax.make_array_from_callback(rows.shape, batch_sharding, rows.__getitem__)

        ids = put(item_ids)
        output = generate(
            params,
            put(tokens),
            max_decode_len=protocol.max_decode_len,
            temperature=protocol.temperature,
            topk=protocol.topk,
            keys=item_keys(protocol.seed, ids) if protocol.temperature > 0 else None,
            inputs_bidirectional_attention=bidirectional,
        )
        if output.is_fully_addressable:
            return np.asarray(output)
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(output, tiled=True))

    return answer
