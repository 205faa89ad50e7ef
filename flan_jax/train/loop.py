"""The training run, from top to bottom."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gin
import grain
import jax
import numpy as np

from flan_jax.checkpoints.manager import CheckpointConfig, CheckpointManager, parameter_hash
from flan_jax.checkpoints.vocabulary_record import describe_vocabulary, vocabulary_difference
from flan_jax.config import operative_config_text
from flan_jax.data.counts import (
    TRUNCATION,
    WINDOW,
    Repeats,
    take_counts,
    truncation_metrics,
)
from flan_jax.data.examples import ExampleMaker
from flan_jax.data.packing import padding_fractions
from flan_jax.data.reader import Batch, DatasetConfig, make_schedule, train_dataset
from flan_jax.data.seqio_reader import SeqioExamples
from flan_jax.distributed import barrier, compile_together
from flan_jax.errors import UserError
from flan_jax.evaluation.watching import note_begun, note_finished
from flan_jax.files import write_atomically
from flan_jax.fingerprint import mixture_hash, shares_hash
from flan_jax.global_batches import process_rows, process_share
from flan_jax.mixing import held_out_tasks
from flan_jax.models.architecture import differences, from_document, to_document
from flan_jax.models.language_model import LanguageModel
from flan_jax.realised import tell_missing
from flan_jax.run_folder import SYNC_PERIOD, RunFolder
from flan_jax.sharding import PjitPartitioner
from flan_jax.train.display import Display, make_display
from flan_jax.train.divergence import check_finite
from flan_jax.train.evaluator import Evaluator, InferenceEvaluator
from flan_jax.train.interrupts import StopRequest
from flan_jax.train.metrics import Clock, MetricSums
from flan_jax.train.setup import Setup, make_setup
from flan_jax.train.state import TrainState
from flan_jax.train.step import Trainer, make_train_step
from flan_jax.train.summary import describe
from flan_jax.train.writers import MetricsWriter


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
      step: steps done, those of the initial checkpoint included.
      parameter_hash: SHA-256 of the parameters; equal hashes mean bit-identical models.
      finished: False if the run was asked to stop before its last step.
      checkpoint: the last checkpoint, None if nothing is saved.
    """

    step: int
    parameter_hash: str
    finished: bool
    checkpoint: str | None


@gin.configurable(module="train_script", denylist=["dry_run"])
def train(
    *,
    model: LanguageModel,
    train_dataset_cfg: DatasetConfig,
    model_dir: str,
    total_steps: int,
    partitioner: PjitPartitioner,
    trainer_cls: Callable[[], Trainer] = Trainer,
    train_eval_dataset_cfg: DatasetConfig | None = None,
    infer_eval: InferenceEvaluator | None = None,
    checkpoint_cfg: CheckpointConfig | None = None,
    eval_steps: int = 20,
    eval_period: int = 1000,
    stats_period: int = 10,
    relative_steps: int | None = None,
    run_eval_before_training: bool = False,
    random_seed: int = 0,
    use_hardware_rng: bool = False,
    dry_run: bool = False,
) -> TrainResult | None:
    """Trains until `total_steps`, from the newest checkpoint in `model_dir` if there is one.

    Argument names and meanings are T5X's where it has them.

    Args:
      model: network, vocabularies, optimizer, loss.
      train_dataset_cfg: what to train on.
      model_dir: the run's folder, or a bucket's (`gs://…`): checkpoints, metrics, config.
      total_steps: step to stop at; steps of the initial checkpoint count.
      partitioner: mesh and rules.
      trainer_cls: makes the `Trainer`.
      train_eval_dataset_cfg: what to measure loss on; None for nothing.
      infer_eval: answers questions and scores the answers; None for nothing.
      checkpoint_cfg: when to save, and what to start from.
      eval_steps: batches per measurement of loss.
      eval_period: steps between evaluations; 0 for none.
      stats_period: steps between rows of training metrics.
      relative_steps: steps to do after those of the initial checkpoint; overrides `total_steps`.
      run_eval_before_training: whether to evaluate before the first step.
      random_seed: seed of parameters, data and dropout.
      use_hardware_rng: draw dropout by the chip's generator, faster on TPUs; as deterministic.
      dry_run: resolve and check everything, print a summary, train nothing.

    Returns:
      How it ended; None for a dry run.

    Raises:
      UserError: something is configured wrongly; raised before the first step.
      TrainingDivergedError: the loss is not finite; says where the batch was written.
    """
    _check_periods(stats_period, eval_period, eval_steps)
    _refuse_held_out(train_dataset_cfg)
    train_dataset_cfg = train_dataset_cfg.for_model(model)
    trainer = trainer_cls()
    rng_impl = "rbg" if use_hardware_rng else None
    setup = make_setup(model, trainer, partitioner, train_dataset_cfg, random_seed, rng_impl)
    if dry_run:
        steps = (total_steps, relative_steps)
        print(describe(setup, train_dataset_cfg, model_dir, checkpoint_cfg, *steps))
        return None
    first_process = jax.process_index() == 0
    save = checkpoint_cfg.save if checkpoint_cfg else None
    barrier("set up")  # the first collective does not wait for long
    with (
        RunFolder(model_dir, jax.process_index()) as folder,
        setup.use_mesh(),
        contextlib.closing(CheckpointManager(model_dir, save)) as checkpoints,
    ):
        state, document = _restore_or_start(setup, checkpoints, checkpoint_cfg)
        _check_same_stream(
            document, _stream(train_dataset_cfg, random_seed, setup.maker), model_dir
        )
        document["config"] = operative_config_text()
        _note_model(document, model, model_dir)
        if isinstance(setup.maker, ExampleMaker):
            document["mixture_hash"] = mixture_hash(setup.maker.mixture)
            document["missing_tasks"] = sorted(setup.maker.missing)
        if relative_steps is not None:
            total_steps = document["start_step"] + relative_steps
        first_step = int(state.step)
        _check_steps(first_step, document["start_step"], total_steps)
        if first_process:
            write_atomically(folder.local / "config.gin", document["config"])
            note_begun(folder.local)
            folder.sync()

        batches = _open_batches(train_dataset_cfg, setup, document.get("data_state"))
        tasks = setup.maker.task_names
        step_fn = make_train_step(model, setup.optimizer, trainer, setup.key(1), len(tasks))
        step_fn = jax.jit(step_fn, donate_argnums=0)
        writer = MetricsWriter(folder.local / "train", first_step, enabled=first_process)
        initial = document.get("initial_checkpoint")
        evaluator = Evaluator(
            setup, train_eval_dataset_cfg, infer_eval, eval_steps, str(folder.local), initial
        )
        display = make_display(first_step, total_steps, enabled=first_process)
        repeats = None
        if isinstance(setup.maker, ExampleMaker):
            repeats = Repeats(make_schedule(train_dataset_cfg, setup.maker))
        reporter = _Reporter(setup, folder, writer, display, stats_period, total_steps, repeats)

        with display, StopRequest() as stop, contextlib.closing(writer):
            if isinstance(setup.maker, ExampleMaker) and setup.maker.missing:
                display.say(tell_missing(setup.maker.mixture, setup.maker.missing))
            if run_eval_before_training and first_step == document["start_step"]:
                evaluator.evaluate(first_step, state.params, display)
            step, stopped = first_step, False
            while step < total_steps and not stopped:
                batch = next(batches)
                counts = take_counts(batch)
                placed = setup.put_batch(batch)
                if step == first_step:
                    compile_together(step_fn, state, placed)
                state, metrics = step_fn(state, placed)
                step += 1
                # Reads the step before this one, while this one is being computed.
                reporter.add(step, batch, metrics, counts)
                last = step == total_steps
                stopped = stop.requested or checkpoints.reached_preemption(step)
                if save is not None and (checkpoints.is_due(step) or last or stopped):
                    reporter.flush()  # a state that diverged must not be kept
                    folder.try_sync(display.say)  # a checkpoint has the rows before it
                    document["data_state"] = batches.get_state()
                    checkpoints.save(step, state, document, wait=last or stopped)
                if eval_period and (step % eval_period == 0 or last) and not stopped:
                    reporter.flush()
                    evaluator.evaluate(step, state.params, display)
                    folder.try_sync(display.say)
                    reporter.restart_clock()
            reporter.flush()
            digest = parameter_hash(state.params)
            finished = step >= total_steps
            if finished and first_process:
                note_finished(folder.local, step)
            display.say(_last_words(step, total_steps, finished, digest, save is not None))
        evaluator.close()
    path = checkpoints.path(step) if save is not None else None
    return TrainResult(step, digest, finished, path)


class _Reporter:
    """Checks and writes the metrics of each step, one step late.

    Reading a step's metrics waits for it; a step late, the devices are already at the next one.
    """

    def __init__(
        self,
        setup: Setup,
        folder: RunFolder,
        writer: MetricsWriter,
        display: Display,
        period: int,
        last_step: int,
        repeats: Repeats | None,
    ):
        self._setup, self._folder = setup, folder
        self._writer, self._display = writer, display
        self._period, self._last_step = period, last_step
        share = process_share(setup.batch_sharding)
        self._sums, self._clock = MetricSums(setup.maker.task_names), Clock(float(share))
        self._repeats = repeats
        self._truncation = np.zeros((len(setup.maker.task_names), 3), np.int64)
        self._pending: tuple[int, Batch, Any, Batch] | None = None

    def add(self, step: int, batch: Batch, metrics: Any, counts: Batch) -> None:
        """Takes a step that is being computed, reports the one before."""
        self.flush()
        self._pending = (step, batch, metrics, counts)

    def flush(self) -> None:
        """Waits for the step taken last and reports it. Raises TrainingDivergedError."""
        if self._pending is None:
            return
        step, batch, metrics, counts = self._pending
        self._pending = None
        metrics = check_finite(step, jax.device_get(metrics), batch, self._setup, self._folder)
        newest = {"grad_norm": float(metrics.pop("grad_norm")), **padding_fractions(batch)}
        if "learning_rate" in metrics:  # else the optimizer's own, a constant
            newest["learning_rate"] = float(metrics.pop("learning_rate"))
        self._sums.add(metrics, newest)
        self._clock.count(batch)
        self._truncation += counts[TRUNCATION]
        if step % self._period == 0 or step == self._last_step:
            row = self._sums.row() | self._clock.rates()
            row |= truncation_metrics(self._truncation, self._setup.maker.task_names)
            if self._repeats is not None:
                row |= self._repeats.metrics(int(counts[WINDOW]))
            self._truncation[:] = 0
            self._writer.write(step, row)
            self._display.update(step, row)
            self._folder.try_sync(self._display.say, every=SYNC_PERIOD)

    def restart_clock(self) -> None:
        """Leaves out of the rates what was not training."""
        self._clock.restart()


def _open_batches(
    config: DatasetConfig, setup: Setup, state: dict[str, Any] | None
) -> grain.DatasetIterator[Batch]:
    """This process's batches, from the beginning or from a saved state on."""
    batches = iter(
        train_dataset(
            config,
            setup.maker,
            rows=process_rows(setup.batch_sharding, config.batch_size),
            counted=True,
        )
    )
    if state:
        batches.set_state(state)
    return batches


def _restore_or_start(
    setup: Setup, checkpoints: CheckpointManager, config: CheckpointConfig | None
) -> tuple[TrainState, dict[str, Any]]:
    """The state to go on from and the run's document."""
    latest = checkpoints.latest_step()
    if latest is not None:
        state, run = checkpoints.restore(latest, setup.abstract_state)
        return state, run
    state, origin = setup.initial_state(config)
    return state, {"start_step": int(state.step), "initial_checkpoint": origin}


def _stream(
    config: DatasetConfig, seed: int, maker: ExampleMaker | SeqioExamples
) -> dict[str, Any]:
    """What a position in the training data is a position in."""
    shares = shares_hash(maker.mixture) if isinstance(maker, ExampleMaker) else None
    return {
        "shares_hash": shares,
        "random_seed": seed,
        "mixture_or_task_name": config.mixture_or_task_name,
        "task_feature_lengths": dict(config.task_feature_lengths),
        "row_lengths": dict(config.row_lengths) if config.row_lengths else None,
        "split": config.split,
        "seed": config.seed,
        "shuffle": config.shuffle,
        "pack": config.pack,
        "batch_size": config.batch_size,
    }


def _check_same_stream(document: dict[str, Any], stream: dict[str, Any], model_dir: str) -> None:
    """Raises UserError if a run would be resumed on other data; notes the data of a new one."""
    begun = document.setdefault("stream", stream)
    changed = [
        f"  {name}: {begun.get(name)!r} before, {value!r} now"
        for name, value in stream.items()
        if begun.get(name) != value
    ]
    if changed:
        raise UserError(
            f"the run in {model_dir} was begun on other data, where its position means nothing:\n"
            + "\n".join(changed)
            + "\nGo on with the same values, or start a new MODEL_DIR with INITIAL_CHECKPOINT_PATH"
        )


def _note_model(document: dict[str, Any], model: LanguageModel, model_dir: str) -> None:
    """Notes the architecture and vocabulary. Raises UserError if a run would go on with another."""
    different = vocabulary_difference(document.get("vocabulary"), model.input_vocabulary)
    if different:
        raise UserError(
            f"the run in {model_dir} was begun with the vocabulary {different}: bind VOCABULARY to "
            "that one, or start a new MODEL_DIR"
        )
    begun = document.get("model")
    changed = differences(from_document(begun), model.module) if begun else []
    if changed:
        raise UserError(
            f"the run in {model_dir} was begun with another model:\n  "
            + "\n  ".join(changed)
            + "\nGo on with the same values, or start a new MODEL_DIR with INITIAL_CHECKPOINT_PATH"
        )
    document["model"] = to_document(model.module)
    document["vocabulary"] = describe_vocabulary(model.input_vocabulary)


def _refuse_held_out(config: DatasetConfig) -> None:
    """Raises UserError if held-out tasks would be trained on."""
    held_out = held_out_tasks(config.mixture_or_task_name)
    if held_out:
        shown = ", ".join(held_out[:5]) + (" …" if len(held_out) > 5 else "")
        raise UserError(
            f"MIXTURE_OR_TASK_NAME {config.mixture_or_task_name!r} holds tasks that are held out "
            f"from training ({shown}): take a mixture without them"
        )


def _check_periods(stats_period: int, eval_period: int, eval_steps: int) -> None:
    least = {"stats_period": (stats_period, 1), "eval_period": (eval_period, 0)}
    least["eval_steps"] = (eval_steps, 1)
    for name, (value, minimum) in least.items():
        if value < minimum:
            raise UserError(f"train.{name} must be >= {minimum}, found {value}")


def _check_steps(first_step: int, start_step: int, total_steps: int) -> None:
    # A finished run may be started again: it has nothing to do, and says so.
    if total_steps <= start_step and first_step == start_step:
        raise UserError(
            f"TRAIN_STEPS {total_steps} is not beyond step {start_step} of the initial checkpoint: "
            "as in T5X its steps count; set TRAIN_STEPS higher, or TRAIN_STEPS_RELATIVE"
        )


def _last_words(step: int, total: int, finished: bool, digest: str, saved: bool) -> str:
    if finished:
        return f"finished at step {step}; parameters sha256 {digest}"
    kept = (
        "saved; run the same command to go on" if saved else "not saved (no SaveCheckpointConfig)"
    )
    return f"stopped at step {step} of {total}, {kept}; parameters sha256 {digest}"
