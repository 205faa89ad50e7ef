"""The evaluation job: checkpoints in, scores out."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gin
import jax
from jax.sharding import NamedSharding
from rich.console import Console

from flan_jax.checkpoints import detect
from flan_jax.checkpoints.initial import restore_params
from flan_jax.checkpoints.manager import RestoreCheckpointConfig, split_step
from flan_jax.checkpoints.tensors import CheckpointError
from flan_jax.config import operative_config_text
from flan_jax.errors import UserError
from flan_jax.evaluation import job
from flan_jax.evaluation.budget import duration
from flan_jax.evaluation.generation import GenerationEvaluator, Outcome, Tell, make_mesh
from flan_jax.evaluation.planning import AnyProtocol, Plan
from flan_jax.evaluation.report import scores_table
from flan_jax.evaluation.requests import summarize
from flan_jax.evaluation.trained_on import trained_on_of
from flan_jax.evaluation.watching import Watch, named_checkpoints
from flan_jax.files import write_atomically
from flan_jax.models.language_model import LanguageModel
from flan_jax.overlap.held_out import Trained
from flan_jax.run_folder import SYNC_PERIOD, RunFolder
from flan_jax.sharding import PjitPartitioner

# With fewer batches to come, measuring their pace would take longer than it is worth.
_WORTH_MEASURING = 16


@gin.configurable(module="eval_script", denylist=["dry_run", "show"])
def evaluate(
    *,
    model: LanguageModel,
    restore_checkpoint_cfg: RestoreCheckpointConfig,
    evaluator: GenerationEvaluator,
    partitioner: PjitPartitioner,
    checkpoint: str | tuple[str, ...] | list[str] | None = None,
    output_dir: str = "",
    trained_on: str | tuple[str, ...] | list[str] | None = None,
    watch: bool = False,
    watch_for: int | None = None,
    watch_timeout: float = 6 * 3600.0,
    dry_run: bool = False,
    show: bool = True,
) -> list[Outcome]:
    """Evaluates checkpoints under the evaluator's protocols; call it on all processes.

    Args:
      model: network and vocabularies.
      restore_checkpoint_cfg: which checkpoints (ours, T5X's, Hugging Face's): a path, several, or a
        run's folder for all of it.
      evaluator: protocols and batch size.
      partitioner: mesh and rules.
      checkpoint: in place of the path in `restore_checkpoint_cfg`.
      output_dir: where results go, a folder or a bucket's (`gs://…`); by default a folder `eval`
        beside the checkpoint. Run again with the same one, what is answered already is not
        answered again.
      trained_on: mixtures that the checkpoint was finetuned on, where it does not say so itself.
      watch: whether to wait for the checkpoints of a training run and evaluate each as it comes.
      watch_for: step with which watching ends; None: with the run.
      watch_timeout: seconds without a new checkpoint after which watching ends, too.
      dry_run: print what would be asked, load nothing.
      show: print the plan and the scores.

    Raises:
      UserError: something is configured wrongly, data are missing, or a checkpoint does not fit.
    """
    restore_checkpoint_cfg = _with_path(restore_checkpoint_cfg, checkpoint)
    paths = None if watch else named_checkpoints(restore_checkpoint_cfg)
    show = (show or dry_run) and jax.process_index() == 0
    plans = evaluator.plan(model.input_vocabulary)
    if show:
        _show_plans(evaluator, plans, model)
    for path in paths if show and paths else ():
        print(f"checkpoint {path}")
    if dry_run:
        return []
    mesh, batch_sharding = make_mesh(partitioner, evaluator.batch_size)
    outcomes = []
    with (
        RunFolder(output_dir, jax.process_index(), setting="EVAL_OUTPUT_DIR") as results,
        partitioner.for_decoding().use(mesh),
    ):
        job_of = _Job(
            model, restore_checkpoint_cfg, evaluator, partitioner, trained_on, show, results
        )
        written = str(results.local) if output_dir else ""
        if paths is not None:
            for path, folder in zip(paths, output_folders(paths, written), strict=True):
                outcomes += job_of.evaluate(path, folder, batch_sharding)
            return outcomes
        for path in _watched(restore_checkpoint_cfg, watch_for, watch_timeout):
            (folder,) = output_folders([path], written)
            outcomes += job_of.evaluate_if_there(path, folder, batch_sharding)
    return outcomes


@dataclass(frozen=True)
class _Job:
    """What is done with each checkpoint."""

    model: LanguageModel
    restore: RestoreCheckpointConfig
    evaluator: GenerationEvaluator
    partitioner: PjitPartitioner
    trained_on: Trained
    show: bool
    results: RunFolder

    def evaluate(self, path: str, folder: Path, batch_sharding: NamedSharding) -> list[Outcome]:
        name, step = checkpoint_name(path)
        trained = trained_on_of(path) if self.trained_on is None else self.trained_on
        plans = self.evaluator.plan(self.model.input_vocabulary, trained)
        params = restore_params(path, self.model, self.partitioner, self.restore)
        if jax.process_index() == 0:
            write_atomically(folder / "config.gin", operative_config_text())
        if self.show or jax.process_count() > 1:
            self._estimate(plans, params, batch_sharding, name, folder)
        outcomes = self.evaluator.run(
            self.model, params, batch_sharding, name, step, folder,
            trained=trained, plans=plans, progress=self._synced(progress_line()),
        )  # fmt: skip
        self.results.try_sync(_say)
        console = Console()
        for outcome in outcomes if self.show else ():
            console.print(scores_table(outcome.scores, title=outcome.protocol.describe()))
            console.print(f"written to {self.results.shown(outcome.summary)}", soft_wrap=True)
        return outcomes

    def evaluate_if_there(
        self, path: str, folder: Path, batch_sharding: NamedSharding
    ) -> list[Outcome]:
        """As `evaluate`; nothing if the run deleted the checkpoint meanwhile."""
        try:
            return self.evaluate(path, folder, batch_sharding)
        except (CheckpointError, OSError):
            if detect.exists(path) or jax.process_count() > 1:
                raise
            _say(f"{path} was deleted before it could be evaluated (KEEP_CHECKPOINTS)")
            return []

    def _synced(self, line: Tell) -> Tell:
        """`line`, and answers are sent as they come: a job that is cut off goes on from there."""

        def tell(protocol: AnyProtocol, progress: job.Progress) -> None:
            line(protocol, progress)
            self.results.try_sync(_say, every=SYNC_PERIOD)

        return tell

    def _estimate(
        self,
        plans: Sequence[Plan],
        params: Any,
        batch_sharding: NamedSharding,
        name: str,
        folder: Path,
    ) -> None:
        """Says how long the job will take, from one measured batch, if that is worth knowing."""
        evaluator, vocabulary = self.evaluator, self.model.output_vocabulary
        left = [plan for plan in evaluator.left(plans, name, folder) if plan.requests]
        budgets = [evaluator.budget(plan, vocabulary) for plan in left]
        if sum(sum(each.batches.values()) for each in budgets) < _WORTH_MEASURING:
            return
        pace = evaluator.pace(left, self.model, params, batch_sharding)
        if self.show:
            count = sum(len(plan.requests) for plan in left)
            seconds = pace * sum(each.tokens for each in budgets)
            print(
                f"{count:,} requests left of {sum(len(p.requests) for p in plans):,}: about "
                f"{duration(seconds)} and compilation, judged by one batch"
            )


def _with_path(
    restore: RestoreCheckpointConfig, checkpoint: str | Sequence[str] | None
) -> RestoreCheckpointConfig:
    """The configuration with the path that is given under either name."""
    if not checkpoint:
        return restore
    path = checkpoint if isinstance(checkpoint, str) else tuple(checkpoint)
    if restore.path and restore.path != path:
        raise UserError(
            f"CHECKPOINT {path!r} and CHECKPOINT_PATH {restore.path!r} are two names of one thing: "
            "set one of them"
        )
    return replace(restore, path=path)


def _watched(
    restore: RestoreCheckpointConfig, last_step: int | None, timeout: float
) -> Iterator[str]:
    """The checkpoints of a run as they come."""
    if not isinstance(restore.path, str):
        raise UserError(f"WATCH needs one run's folder, found {restore.path!r}")
    return Watch(restore.path.rstrip("/"), last_step, timeout, say=_say).checkpoints()


def _show_plans(
    evaluator: GenerationEvaluator, plans: Sequence[Plan], model: LanguageModel
) -> None:
    for plan in plans:
        protocol = plan.protocol
        print(protocol.describe())
        longest = None if protocol.ranking else protocol.max_decode_len
        print(summarize(plan.requests, evaluator.inputs_length, longest))
    budgets = [evaluator.budget(plan, model.output_vocabulary) for plan in plans]
    batches = sum(sum(budget.batches.values()) for budget in budgets)
    tokens = sum(budget.tokens for budget in budgets)
    print(
        f"together {sum(len(plan.requests) for plan in plans):,} requests in {batches:,} batches: "
        f"at most {tokens:,} tokens, padding and answers included"
    )


def output_folders(paths: Sequence[str], output_dir: str) -> list[Path]:
    """Where the results of each checkpoint go.

    Files are named by step. Where that does not tell the checkpoints apart, each has a subfolder.

    Raises:
      UserError: no folder is given, and a checkpoint is not on this machine.
    """
    folders = []
    steps = [split_step(path) for path in paths]
    named = [each[1] for each in steps if each]
    apart = len(paths) == 1 or (len(named) == len(paths) == len(set(named)))
    for path in paths:
        if not output_dir and "://" in path:
            raise UserError(f"EVAL_OUTPUT_DIR is not set: where are the results of {path} to go?")
        resolved = Path(path).resolve()
        folder = Path(output_dir) if output_dir else resolved.parent / "eval"
        folders.append(folder if apart else folder / f"{resolved.parent.name}-{resolved.name}")
    return folders


def checkpoint_name(path: str) -> tuple[str, int]:
    """A name that tells checkpoints apart in the store of predictions, and the step (or 0).

    The name holds when the checkpoint was written, so that another one at the same path is not
    taken for it.
    """
    if "://" in path:  # a bucket or hub has no time that is cheap to ask for
        found = split_step(path)
        return re.sub(r"\W+", "-", path), found[1] if found else 0
    folder = Path(path).resolve()
    found = split_step(str(folder))
    written = int(folder.stat().st_mtime)
    return f"{folder.parent.name}-{folder.name}-{written}", found[1] if found else 0


def progress_line(seconds: float = 5.0) -> Tell:
    """A callback that says how far a job is, at most every so many seconds, on standard error."""
    last = [0.0]

    def tell(protocol: AnyProtocol, progress: job.Progress) -> None:
        now = time.monotonic()
        if now - last[0] >= seconds or progress.done == progress.total:
            last[0] = now
            line = f"{protocol.name}: {progress.done}/{progress.total} in {progress.seconds:.0f} s"
            if progress.left is not None and progress.done < progress.total:
                line += f", about {duration(progress.left)} left"
            print(line, file=sys.stderr, flush=True)

    return tell


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)
