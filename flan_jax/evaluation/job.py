"""Answers requests with a model: batches of few shapes, resumable, in any order.

`generate` is the only thing that knows of the model. It sees fixed shapes
([batch_size, bucket length] for a handful of buckets), so that a jitted one compiles a handful of
times.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from flan_jax import __version__
from flan_jax.draws import stable_hash
from flan_jax.evaluation import store as stores
from flan_jax.evaluation.extraction import extracted_answer
from flan_jax.evaluation.protocol import EvalProtocol
from flan_jax.evaluation.requests import Request, Vocabulary, bucket_of, buckets, fit_tokens
from flan_jax.evaluation.scores import Scores
from flan_jax.files import write_atomically

# (encoder_input_tokens int32 [batch, length], item_ids uint32 [batch]) -> int32 [batch, decoded].
# The item ids are for sampling: keyed by them, an answer does not depend on its batch.
Generate = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a job is; passed to its `progress` callback after every batch."""

    done: int
    total: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class JobResult:
    """What a job did.

    Attributes:
      predictions: text by request id, of all requests.
      generated: requests answered now.
      reused: requests found in the store.
      truncated: requests whose prompt lost its end.
      batches: calls of `generate`.
      shapes: distinct shapes it saw, which is how often a jitted one compiled.
      seconds: wall-clock time.
    """

    predictions: dict[str, str]
    generated: int
    reused: int
    truncated: int
    batches: int
    shapes: tuple[tuple[int, int], ...]
    seconds: float


def run(
    requests: Sequence[Request],
    generate: Generate,
    store: stores.PredictionStore,
    batch_size: int,
    inputs_length: int,
    *,
    vocabulary: Vocabulary,
    progress: Callable[[Progress], None] | None = None,
    agree: Callable[[np.ndarray], np.ndarray] | None = None,
) -> JobResult:
    """Answers `requests`, taking from `store` what it holds already and adding the rest to it.

    The result does not depend on the order of `requests`, nor on `batch_size`, as far as
    `generate` treats rows independently.

    Args:
      requests: what to ask; ids must differ.
      generate: the model, see `Generate`. Rows may be longer or shorter than others' calls; what
        follows the first EOS is ignored.
      store: keeps finished batches.
      batch_size: rows per call; the last batch of a length is filled up with copies.
      inputs_length: most tokens of a prompt.
      vocabulary: decodes the answers.
      progress: called after every batch.
      agree: where several processes must call `generate` in step: takes which requests this
        process finds stored, bool [requests], and returns those that all processes do.

    Raises:
      ValueError: ids repeat, or `generate` returned another number of rows than it was given.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, found {batch_size}")
    if len({request.id for request in requests}) != len(requests):
        raise ValueError("requests repeat ids: plan each protocol on its own")
    start = time.monotonic()
    predictions = _stored(requests, store, agree)
    reused = len(predictions)
    todo = [request for request in requests if request.id not in predictions]
    shapes: dict[tuple[int, int], int] = {}
    for batch, length in _batches(todo, batch_size, inputs_length):
        tokens, item_ids = _pad(batch, batch_size, length, vocabulary.pad_id)
        outputs = np.asarray(generate(tokens, item_ids))
        if outputs.ndim != 2 or outputs.shape[0] != batch_size:
            raise ValueError(
                f"generate returned shape {outputs.shape} for tokens of shape {tokens.shape}; "
                f"expected ({batch_size}, decoded length)"
            )
        answers = [decode_row(row, vocabulary) for row in outputs[: len(batch)]]
        store.append(zip(batch, answers, strict=True))
        predictions.update((r.id, text) for r, text in zip(batch, answers, strict=True))
        shapes[tokens.shape] = shapes.get(tokens.shape, 0) + 1
        if progress is not None:
            elapsed = time.monotonic() - start
            progress(Progress(len(predictions), len(requests), elapsed))
    return JobResult(
        predictions={request.id: predictions[request.id] for request in requests},
        generated=len(todo),
        reused=reused,
        truncated=sum(r.truncated > 0 or r.length > inputs_length for r in requests),
        batches=sum(shapes.values()),
        shapes=tuple(sorted(shapes)),
        seconds=time.monotonic() - start,
    )


def _stored(
    requests: Sequence[Request],
    store: stores.PredictionStore,
    agree: Callable[[np.ndarray], np.ndarray] | None,
) -> dict[str, str]:
    """Stored predictions by request id."""
    found = [store.get(request) for request in requests]
    usable = np.array([text is not None for text in found], bool)
    if agree is not None:
        usable &= np.asarray(agree(usable), bool)
    triples = zip(requests, found, usable.tolist(), strict=True)
    return {r.id: text for r, text, use in triples if use and text is not None}


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


def _pad(
    batch: Sequence[Request], batch_size: int, length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """(int32 tokens [batch_size, length], uint32 item ids [batch_size])."""
    tokens = np.full((batch_size, length), pad_id, np.int32)
    item_ids = np.zeros(batch_size, np.uint32)
    for i in range(batch_size):
        # Copies rather than rows of padding, over which attention may give NaN.
        request = batch[i if i < len(batch) else 0]
        row, _ = fit_tokens(request.tokens, length)
        tokens[i, : len(row)] = row
        item_ids[i] = stable_hash("item", request.id) & 0xFFFFFFFF
    return tokens, item_ids


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
    folder: Path | str, checkpoint: str, protocol: EvalProtocol
) -> stores.PredictionStore:
    """The store of `checkpoint` under `protocol` below `folder`."""
    return stores.PredictionStore(folder, checkpoint, protocol.protocol_hash(), protocol.decoding())


def write_results(
    folder: Path | str,
    step: int,
    protocol: EvalProtocol,
    requests: Sequence[Request],
    predictions: Mapping[str, str],
    scores: Scores,
    trained_on: Sequence[str] | None = None,
) -> Path:
    """Writes predictions and metrics below `folder`; returns the path of the summary.

    Files: `inference_eval/<protocol>/<task>-<step>.jsonl` and `…/<task>-metrics.jsonl`, which have
    T5X's names and rows, and `summary-<protocol>-<step>.json` with all scores and their intervals.
    Scores in files are in percent, as T5X has them. `trained_on` names the mixtures that the model
    was trained on, None if they are not known.
    """
    by_task: dict[str, list[Request]] = {}
    for request in requests:
        by_task.setdefault(request.task, []).append(request)
    tasks_folder = Path(folder) / "inference_eval" / stores.file_safe(protocol.name)
    for task, members in by_task.items():
        rows = [
            {
                "input": {"inputs_pretokenized": r.prompt, "targets_pretokenized": r.target},
                "target": r.answer,
                "output": predictions[r.id],
                "prediction": extracted_answer(r, predictions[r.id]),
                "id": r.id,
                "correct": scores.items[r.id].value,
            }
            for r in members
        ]
        stores.write_task_predictions(tasks_folder, task, step, rows)
        score = scores.tasks[task]
        stores.write_task_metrics(
            tasks_folder, task, step, {name: 100 * v for name, v in score.metrics.items()}
        )
    content = {
        "protocol": dataclasses.asdict(protocol),
        "protocol_hash": protocol.protocol_hash(),
        "step": step,
        "trained_on": None if trained_on is None else list(trained_on),
        "flan_jax": __version__,
        **scores.as_dict(),
    }
    path = Path(folder) / f"summary-{stores.file_safe(protocol.name)}-{step:06d}.json"
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path
