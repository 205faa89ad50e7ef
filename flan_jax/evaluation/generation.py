"""Answering protocols' questions with a model on the current mesh, and scoring the answers."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gin
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from flan_jax.checkpoints.manager import parameter_hash
from flan_jax.errors import UserError
from flan_jax.evaluation import job
from flan_jax.evaluation.benchmark_scores import BenchmarkResult
from flan_jax.evaluation.budget import Budget, Cost, budget
from flan_jax.evaluation.model_answers import Rows, make_answer
from flan_jax.evaluation.planning import AnyProtocol, Plan, labelled, plan_all
from flan_jax.evaluation.ranking import continuation_shape
from flan_jax.evaluation.requests import Request, Vocabulary
from flan_jax.evaluation.results import judge, write_results
from flan_jax.evaluation.scores import Scores, score
from flan_jax.evaluation.store import Generation, PredictionStore
from flan_jax.evaluation.voting import Settled, settle
from flan_jax.models.language_model import LanguageModel
from flan_jax.overlap.held_out import Trained
from flan_jax.sharding import PjitPartitioner

Tell = Callable[[AnyProtocol, job.Progress], None]


@dataclass(frozen=True)
class Outcome:
    """What one protocol gave.

    Attributes:
      protocol: what was asked.
      requests: the questions.
      predictions: the texts that were judged, by request id.
      scores: the scores.
      summary: path of the summary file.
      settled: how each prediction came about.
      benchmark: a benchmark's result; None for a protocol of tasks.
    """

    protocol: AnyProtocol
    requests: list[Request]
    predictions: dict[str, str]
    scores: Scores
    summary: Path
    settled: dict[str, Settled]
    benchmark: BenchmarkResult | None = None


@gin.configurable(module="evaluation")
@dataclass(frozen=True)
class GenerationEvaluator:
    """Examines a model under protocols.

    Attributes:
      protocols: one or several, of tasks or of benchmarks.
      inputs_length: most tokens of a prompt.
      batch_size: outputs made at a time, over all devices.
      rows_per_device: outputs that a device makes at a time; None for its share of a batch. See
        `model_answers.Rows`.
      strict_length: whether a question that does not fit `inputs_length` even without exemplars is
        refused; else it loses its end, which is counted.
    """

    protocols: tuple[AnyProtocol, ...] | list[AnyProtocol]
    inputs_length: int
    batch_size: int = 64
    rows_per_device: int | None = None
    strict_length: bool = False
    # What was planned last, and for which vocabulary: rendering a suite's prompts takes a while.
    _planned: list[tuple[Vocabulary, list[Plan]]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        names = [protocol.name for protocol in self.protocols]
        if not names or len(set(names)) != len(names):
            raise UserError(
                f"evaluation.GenerationEvaluator needs protocols of different names, found {names}"
            )

    def plan(self, vocabulary: Vocabulary, trained: Trained = None) -> list[Plan]:
        """What all protocols ask. Raises UserError with all that is missing or wrong."""
        if not self._planned or self._planned[0][0] is not vocabulary:
            plans = plan_all(
                self.protocols, vocabulary, self.inputs_length, strict_length=self.strict_length
            )
            self._planned[:] = [(vocabulary, plans)]
        return [labelled(plan, trained) for plan in self._planned[0][1]]

    def prepare(self, model: LanguageModel, batch_sharding: NamedSharding) -> None:
        """For the training loop: finds out before the first step what `evaluate` would object to.

        Raises:
          UserError: data are missing, or the batch does not fit the mesh.
        """
        Rows(batch_sharding, self.batch_size, self.rows_per_device)
        self.plan(model.input_vocabulary)

    def budget(self, plan: Plan, vocabulary: Vocabulary) -> Budget:
        """The work of a plan."""
        items = max(1, self.batch_size // plan.protocol.paths)
        return budget(plan.requests, items, self.inputs_length, cost_of(plan, vocabulary))

    def left(self, plans: Sequence[Plan], checkpoint: str, folder: Path | str) -> list[Plan]:
        """Those parts of `plans` that are not stored yet; call it on all processes."""
        return [Plan(plan.protocol, _left(plan, checkpoint, folder)) for plan in plans]

    def pace(
        self,
        plans: Sequence[Plan],
        model: LanguageModel,
        params: Any,
        batch_sharding: NamedSharding,
    ) -> float:
        """Seconds a token of work, measured on one batch of the largest plan; stores nothing."""
        rows = Rows(batch_sharding, self.batch_size, self.rows_per_device)
        plan = max(plans, key=lambda plan: self.budget(plan, model.output_vocabulary).tokens)
        items = rows.per_batch(plan.protocol.paths)
        pad_id = model.input_vocabulary.pad_id
        batch = job.typical_batch(plan.requests, items, self.inputs_length, pad_id)
        answer = make_answer(params, plan.protocol, plan.requests, rows, model)
        answer(batch)  # compiles
        begun = time.monotonic()
        answer(batch)
        work = cost_of(plan, model.output_vocabulary).of(batch.tokens.shape)
        return (time.monotonic() - begun) / work

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
        plans: Sequence[Plan] | None = None,
        progress: Tell | None = None,
    ) -> list[Outcome]:
        """Answers and scores all protocols; call it on all processes, under the mesh.

        Args:
          model: vocabularies and dimensions.
          params: parameters on the mesh.
          batch_sharding: how rows are split over the mesh.
          checkpoint: names the parameters in the store; what it holds is not generated again.
          step: the parameters' step.
          folder: where results are written, by the first process.
          trained: the mixtures that the parameters were trained on; None if not known.
          plans: what `plan` gave, if it was called already.
          progress: told after every batch.

        Returns:
          An outcome for each protocol; on all processes but the first, nothing.
        """
        rows = Rows(batch_sharding, self.batch_size, self.rows_per_device)
        plans = self.plan(model.input_vocabulary, trained) if plans is None else plans
        outcomes = []
        for each in plans:
            found = answer_requests(
                each, params, rows, model, checkpoint, folder,
                inputs_length=self.inputs_length, progress=progress,
            )  # fmt: skip
            if found is not None:
                outcomes.append(_outcome(each, found, step, folder, trained))
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
        return "  ".join(f"{o.protocol.name}: {headline(o)}" for o in outcomes)


def answer_requests(
    plan: Plan,
    params: Any,
    rows: Rows,
    model: LanguageModel,
    checkpoint: str,
    folder: Path | str,
    *,
    inputs_length: int,
    progress: Tell | None = None,
) -> dict[str, tuple[Generation, ...]] | None:
    """All outputs by request id, kept below `folder`/predictions; call it on all processes.

    The first process has the store and tells the others what is left; they return None.

    Args:
      plan: what to ask, the same on all processes.
      params: parameters on the mesh.
      rows: how many items at a time.
      model: has the vocabulary that decodes answers.
      checkpoint: names the parameters in the store; what it holds is not generated again.
      folder: where results are written.
      inputs_length: most tokens of a prompt.
      progress: told after every batch.

    Raises:
      UserError: the processes were given different questions.
    """
    protocol, requests = plan.protocol, plan.requests
    first = jax.process_index() == 0
    _check_same_questions(plan)
    with contextlib.ExitStack() as stack:
        store: PredictionStore | None = None
        if first:
            store = job.open_store(Path(folder) / "predictions", checkpoint, protocol)
            stack.enter_context(store)
        result = job.run(
            requests,
            make_answer(params, protocol, requests, rows, model),
            store,
            rows.per_batch(protocol.paths),
            inputs_length,
            paths=protocol.paths,
            pad_id=model.input_vocabulary.pad_id,
            cost=cost_of(plan, model.output_vocabulary),
            progress=functools.partial(progress, protocol) if progress and first else None,
            share=_of_first if jax.process_count() > 1 else None,
        )
    return result.generations if first else None


def _left(plan: Plan, checkpoint: str, folder: Path | str) -> list[Request]:
    store = None
    if jax.process_index() == 0:
        store = job.open_store(Path(folder) / "predictions", checkpoint, plan.protocol)
    share = _of_first if jax.process_count() > 1 else None
    return job.missing(plan.requests, store, plan.protocol.paths, share)


def _outcome(
    plan: Plan,
    found: dict[str, tuple[Generation, ...]],
    step: int,
    folder: Path | str,
    trained: Trained,
) -> Outcome:
    """Judges what was generated and writes it down."""
    protocol, requests = plan.protocol, plan.requests
    settled = {r.id: settle(r, found[r.id], protocol.stop, protocol.ranking) for r in requests}
    predictions = {name: each.output for name, each in settled.items()}
    scores = score(requests, predictions)
    result = judge(protocol, requests, settled, scores, trained)
    path = write_results(
        folder, step, protocol, requests, predictions, scores, trained, settled, result
    )
    return Outcome(protocol, requests, predictions, scores, path, settled, result)


def cost_of(plan: Plan, vocabulary: Vocabulary) -> Cost:
    """What decides the work of a plan's batches."""
    if plan.protocol.ranking is not None and plan.requests:
        several, longest = continuation_shape(plan.requests, vocabulary)
        return Cost(several * longest, 1)
    return Cost(plan.protocol.max_decode_len or 1, plan.protocol.paths)


def _of_first(missing: np.ndarray) -> np.ndarray:
    """The first process's array on all processes."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(missing))


def _check_same_questions(plan: Plan) -> None:
    """Raises UserError if the processes read different data."""
    if jax.process_count() == 1:
        return
    digest = hashlib.blake2b(digest_size=8)
    for request in plan.requests:
        digest.update(f"{request.id} {request.digest}\n".encode())
    mine = np.frombuffer(digest.digest(), np.uint8)
    if (_of_first(mine) != mine).any():
        raise UserError(
            f"process {jax.process_index()} would ask other questions of {plan.protocol.name} than "
            "process 0: all hosts need the same data folder (FLAN_JAX_DATA) and vocabulary"
        )


def make_mesh(partitioner: PjitPartitioner, batch_size: int) -> tuple[Mesh, NamedSharding]:
    """The mesh, and how a batch's rows are split over it. Raises UserError if they do not fit."""
    try:
        mesh = partitioner.make_mesh()
        return mesh, partitioner.batch_sharding(mesh, batch_size)
    except ValueError as error:
        raise UserError(str(error)) from error


def headline(outcome: Outcome) -> str:
    """Such as `held in 41.2%, held out 12.0%`, or a benchmark's score."""
    scores = outcome.scores
    if outcome.benchmark is not None:
        return f"{outcome.benchmark.score:.1f}%"
    parts = {
        "held in": scores.held_in,
        "held out": scores.held_out,
        "unknown whether held out": scores.unknown,
    }
    return ", ".join(f"{name} {found.value:.1%}" for name, found in parts.items() if found)
