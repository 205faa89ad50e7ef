"""Evaluation while training: loss on fixed batches, and answers to questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
from jax.sharding import NamedSharding

from flan_jax.data.reader import Batch, DatasetConfig, eval_batches
from flan_jax.distributed import compile_together
from flan_jax.errors import UserError
from flan_jax.evaluation.trained_on import trained_before
from flan_jax.global_batches import process_rows
from flan_jax.mixing import MixtureDefinition
from flan_jax.models.language_model import LanguageModel
from flan_jax.overlap.held_out import Trained
from flan_jax.train.display import Display
from flan_jax.train.metrics import MetricSums
from flan_jax.train.setup import Setup
from flan_jax.train.step import make_eval_step
from flan_jax.train.writers import MetricsWriter


class InferenceEvaluator(Protocol):
    """Answers questions with a model and scores the answers; see `GenerationEvaluator`."""

    def prepare(self, model: LanguageModel, batch_sharding: NamedSharding) -> None:
        """Raises UserError, before the first step, for what `evaluate` would object to."""
        ...

    def evaluate(
        self,
        model: LanguageModel,
        params: Any,
        batch_sharding: NamedSharding,
        step: int,
        folder: str,
        trained: Trained = None,
    ) -> str:
        """Writes results below `folder`; returns a line for people.

        `trained` is what the model was trained on, which decides what is called held out.
        """
        ...


class Evaluator:
    """Loss on a fixed set of batches, and generated answers, as often as asked."""

    def __init__(
        self,
        setup: Setup,
        dataset: DatasetConfig | None,
        infer_eval: InferenceEvaluator | None,
        eval_steps: int,
        model_dir: str,
        initial_checkpoint: str | None = None,
    ):
        self._setup, self._eval_steps = setup, eval_steps
        self._dataset = None if dataset is None else dataset.for_model(setup.model)
        self._infer_eval, self._model_dir = infer_eval, model_dir
        self._trained: tuple[str | MixtureDefinition, ...] = ()
        if infer_eval is not None:
            mixture = getattr(setup.maker, "mixture", None)
            own = (mixture,) if mixture is not None else setup.maker.task_names
            self._trained = (*own, *trained_before(initial_checkpoint))
            infer_eval.prepare(setup.model, setup.batch_sharding)
        self._writer: MetricsWriter | None = None
        if self._dataset is not None:
            model = setup.model
            self._maker = self._dataset.example_maker(
                model.input_vocabulary, model.output_vocabulary, setup.seed
            )
            self._tasks = self._maker.task_names
            self._step_fn = jax.jit(make_eval_step(model, len(self._tasks)))

    def evaluate(self, step: int, params: Any, display: Display) -> None:
        if self._dataset is not None:
            row = self._loss(params)
            self._write(step, row)
            display.say(f"step {step}  validation loss {row['loss']:.3f}")
        if self._infer_eval is not None:
            sharding = self._setup.batch_sharding
            setup = self._setup
            with setup.partitioner.for_decoding().use(setup.mesh):
                message = self._infer_eval.evaluate(
                    setup.model, params, sharding, step, self._model_dir, self._trained
                )
            display.say(f"step {step}  {message}")

    def _loss(self, params: Any) -> dict[str, Any]:
        assert self._dataset is not None
        sums = MetricSums(self._tasks)
        measured = 0
        for batch in self._local_batches(self._dataset):
            placed = self._setup.put_batch(batch)
            if not measured:
                compile_together(self._step_fn, params, placed)
            sums.add(jax.device_get(self._step_fn(params, placed)))
            measured += 1
        if not measured:
            raise UserError(
                f"nothing to measure loss on: split {self._dataset.split!r} of "
                f"{self._dataset.mixture_or_task_name} gave no batch in {self._eval_steps} "
                "(EVAL_STEPS); set train_script.train.train_eval_dataset_cfg to None to do without"
            )
        return sums.row()

    def _local_batches(self, dataset: DatasetConfig) -> Iterator[Batch]:
        """This process's rows of each evaluation batch."""
        setup = self._setup
        sharding = setup.partitioner.batch_sharding(setup.mesh, dataset.batch_size)
        mine = process_rows(sharding, dataset.batch_size)
        for batch in eval_batches(dataset, self._maker, self._eval_steps):
            yield {name: rows[mine] for name, rows in batch.items()}

    def _write(self, step: int, row: dict[str, Any]) -> None:
        assert self._dataset is not None
        if self._writer is None:
            folder = Path(self._model_dir, "training_eval", self._dataset.mixture_or_task_name)
            self._writer = MetricsWriter(
                folder, resume_step=step - 1, enabled=jax.process_index() == 0
            )
        self._writer.write(step, row)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
