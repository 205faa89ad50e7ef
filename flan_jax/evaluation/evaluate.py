"""The evaluation job: checkpoint in, scores out."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gin
import jax
from rich.console import Console

from flan_jax.checkpoints.initial import resolve_path, restore_params
from flan_jax.checkpoints.manager import RestoreCheckpointConfig, split_step
from flan_jax.config import operative_config_text
from flan_jax.errors import UserError
from flan_jax.evaluation import job
from flan_jax.evaluation.generation import GenerationEvaluator, Outcome, make_mesh
from flan_jax.evaluation.protocol import EvalProtocol
from flan_jax.evaluation.report import scores_table
from flan_jax.evaluation.requests import plan, summarize
from flan_jax.evaluation.trained_on import trained_on_of
from flan_jax.files import write_atomically
from flan_jax.models.language_model import LanguageModel
from flan_jax.sharding import PjitPartitioner


@gin.configurable(module="eval_script", denylist=["dry_run", "show"])
def evaluate(
    *,
    model: LanguageModel,
    restore_checkpoint_cfg: RestoreCheckpointConfig,
    evaluator: GenerationEvaluator,
    partitioner: PjitPartitioner,
    output_dir: str,
    trained_on: str | tuple[str, ...] | list[str] | None = None,
    dry_run: bool = False,
    show: bool = True,
) -> list[Outcome]:
    """Evaluates one checkpoint under the evaluator's protocols.

    Args:
      model: network and vocabularies.
      restore_checkpoint_cfg: which checkpoint; ours, T5X's or Hugging Face's.
      evaluator: protocols and batch size.
      partitioner: mesh and rules.
      output_dir: where predictions, scores and config go. Run again with the same folder, what is
        answered already is not answered again.
      trained_on: names of the mixtures that the checkpoint was finetuned on, where it does not say
        so itself; what is called held out depends on it.
      dry_run: print what would be asked, load nothing.
      show: print the plan and the scores.

    Raises:
      UserError: something is configured wrongly, or the checkpoint does not fit.
    """
    for protocol in evaluator.protocols if show or dry_run else ():
        requests = plan(protocol, model.input_vocabulary, evaluator.inputs_length)
        print(protocol.describe())
        print(summarize(requests, evaluator.inputs_length, protocol.max_decode_len))
    path = resolve_path(restore_checkpoint_cfg)
    if path is None:
        raise UserError("CHECKPOINT_PATH is not set: which checkpoint is to be evaluated?")
    if show or dry_run:
        print(f"checkpoint {path}")
    if dry_run:
        return []
    mesh, batch_sharding = make_mesh(partitioner, evaluator.batch_size)
    with partitioner.for_decoding().use(mesh):
        params = restore_params(path, model, partitioner, restore_checkpoint_cfg)
        if jax.process_index() == 0:
            write_atomically(Path(output_dir) / "config.gin", operative_config_text())
        name, step = checkpoint_name(path)
        trained = trained_on_of(path) if trained_on is None else trained_on
        outcomes = evaluator.run(
            model,
            params,
            batch_sharding,
            name,
            step,
            output_dir,
            trained=trained,
            progress=progress_line(),
        )
    console = Console()
    for outcome in outcomes if show and jax.process_index() == 0 else ():
        console.print(scores_table(outcome.scores, title=outcome.protocol.describe()))
        console.print(f"written to {outcome.summary}", soft_wrap=True)
    return outcomes


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


def progress_line(seconds: float = 5.0) -> Callable[[EvalProtocol, job.Progress], None]:
    """A callback that says how far a job is, at most every so many seconds, on standard error."""
    last = [0.0]

    def tell(protocol: EvalProtocol, progress: job.Progress) -> None:
        now = time.monotonic()
        if now - last[0] >= seconds or progress.done == progress.total:
            last[0] = now
            line = f"{protocol.name}: {progress.done}/{progress.total} in {progress.seconds:.0f} s"
            print(line, file=sys.stderr, flush=True)

    return tell
