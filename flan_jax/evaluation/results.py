"""What an evaluation leaves behind: a row for each item, metrics by step, and a summary."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flan_jax import __version__
from flan_jax.evaluation import store as stores
from flan_jax.evaluation.benchmark_scores import BenchmarkResult, benchmark_result
from flan_jax.evaluation.benchmarks import BenchmarkProtocol
from flan_jax.evaluation.planning import AnyProtocol
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.scores import Scores
from flan_jax.evaluation.voting import Path as OutputPath
from flan_jax.evaluation.voting import Settled, settle
from flan_jax.files import write_atomically
from flan_jax.overlap.held_out import Trained, names_of

# Files hold what summing in another order does not change.
_DECIMALS = 3


def write_results(
    folder: Path | str,
    step: int,
    protocol: AnyProtocol,
    requests: Sequence[Request],
    predictions: Mapping[str, str],
    scores: Scores,
    trained: Trained = None,
    settled: Mapping[str, Settled] | None = None,
    benchmark: BenchmarkResult | None = None,
) -> Path:
    """Writes predictions and metrics below `folder`; returns the path of the summary.

    Files: `inference_eval/<protocol>/<task>-<step>.jsonl` and `…/<task>-metrics.jsonl`, which have
    T5X's names and rows, and `summary-<protocol>-<step>.json` with all scores and their intervals.
    Scores in files are in percent, as T5X has them.

    Args:
      folder: where to.
      step: of the checkpoint.
      protocol: what was asked.
      requests: its requests.
      predictions: the text that was judged, by request id.
      scores: of these predictions.
      trained: the mixtures that the model was trained on, None if they are not known.
      settled: how each prediction came about; made of `predictions` if None.
      benchmark: what `judge` gave, if it was called already.
    """
    settled = settled or {r.id: _as_settled(r, predictions[r.id]) for r in requests}
    by_task: dict[str, list[Request]] = {}
    for request in requests:
        by_task.setdefault(request.task, []).append(request)
    tasks_folder = Path(folder) / "inference_eval" / stores.file_safe(str(protocol.name))
    for task, members in by_task.items():
        rows = [_row(r, settled[r.id], scores.items[r.id].value) for r in members]
        stores.write_task_predictions(tasks_folder, task, step, rows)
        metrics = {name: 100 * value for name, value in scores.tasks[task].metrics.items()}
        stores.write_task_metrics(tasks_folder, task, step, metrics)
    content = {
        "protocol": dataclasses.asdict(protocol),
        "protocol_hash": protocol.protocol_hash(),
        "step": step,
        "trained_on": names_of(trained),
        "flan_jax": __version__,
        **scores.as_dict(),
    }
    benchmark = benchmark or judge(protocol, requests, settled, scores, trained)
    if benchmark is not None:
        content["benchmark"] = benchmark.as_dict()
    path = summary_path(folder, str(protocol.name), step)
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def judge(
    protocol: AnyProtocol,
    requests: Sequence[Request],
    settled: Mapping[str, Settled],
    scores: Scores,
    trained: Trained = None,
) -> BenchmarkResult | None:
    """A benchmark's result; None for a protocol of tasks. Arguments as of `write_results`."""
    if not isinstance(protocol, BenchmarkProtocol):
        return None
    return benchmark_result(
        protocol,
        requests,
        {name: found.output for name, found in settled.items()},
        ended={name: found.ended for name, found in settled.items()},
        trained=trained,
        protocol_hash=protocol.protocol_hash(),
        scores=scores,
    )


def summary_path(folder: Path | str, protocol: str, step: int) -> Path:
    """Where the summary of a protocol's results is."""
    return Path(folder) / f"summary-{stores.file_safe(protocol)}-{step:06d}.json"


def _as_settled(request: Request, prediction: str) -> Settled:
    return settle(request, [stores.Generation(prediction)])


def _row(request: Request, settled: Settled, correct: float | None) -> dict[str, Any]:
    """A line of `<task>-<step>.jsonl`: T5X's keys, then an account of prompt and output."""
    row: dict[str, Any] = {
        "input": {
            "inputs_pretokenized": request.prompt,
            "targets_pretokenized": request.target,
        },
        "target": request.answer,
        "output": settled.output,
        "prediction": settled.found.text,
        "id": request.id,
        "correct": correct,
        "parsed": settled.found.parsed,
        "ended": settled.ended,
        "prompt_tokens": request.length,
        "truncated": request.truncated,
        "dropped_exemplars": request.dropped_exemplars,
        "unknown_tokens": request.unknown_tokens,
        "representable": request.representable,
    }
    if settled.paths:
        row["paths"] = [_path(path) for path in settled.paths]
        row["votes"] = settled.votes
    if settled.option_scores is not None:
        row["option_scores"] = settled.option_scores
    return row


def _path(path: OutputPath) -> dict[str, Any]:
    row = {"output": path.output, "prediction": path.prediction, "ended": path.ended}
    logprob = None if path.logprob is None else round(path.logprob, _DECIMALS)
    return row | ({} if logprob is None else {"logprob": logprob})
