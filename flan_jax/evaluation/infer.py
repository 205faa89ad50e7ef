"""The inference job: prompts in, answers out, in T5X's files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import gin
import jax
import numpy as np

from flan_jax.checkpoints.initial import resolve_path, restore_params
from flan_jax.checkpoints.manager import RestoreCheckpointConfig
from flan_jax.config import operative_config_text
from flan_jax.data.examples import encode_with_eos
from flan_jax.data.reader import DatasetConfig
from flan_jax.errors import UserError
from flan_jax.evaluation import job
from flan_jax.evaluation.evaluate import checkpoint_name, progress_line
from flan_jax.evaluation.generation import answer_requests, make_generate, make_mesh
from flan_jax.evaluation.protocol import EvalProtocol
from flan_jax.evaluation.requests import Request, plan
from flan_jax.files import write_atomically
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.sharding import PjitPartitioner


@gin.configurable(module="infer_script", denylist=["prompts", "dry_run"])
def infer(
    *,
    model: EncoderDecoderModel,
    dataset_cfg: DatasetConfig,
    restore_checkpoint_cfg: RestoreCheckpointConfig,
    partitioner: PjitPartitioner,
    output_dir: str,
    variant: str = "zs_opt",
    shots: int = 0,
    num_examples: int | None = None,
    max_decode_len: int | None = None,
    temperature: float = 0.0,
    topk: int = 0,
    prompts: Sequence[str] = (),
    dry_run: bool = False,
) -> list[str]:
    """Answers prompts: those given, or those of a task or mixture.

    Args:
      model: network and vocabularies.
      dataset_cfg: which rows, how long, how many at a time.
      restore_checkpoint_cfg: which checkpoint; ours, T5X's or Hugging Face's.
      partitioner: mesh and rules.
      output_dir: answers to a mixture go to `<task>-predict.jsonl-00000-of-00001`, with an empty
        `.COMPLETED` file beside each when it is whole. Given prompts are answered on screen alone.
      variant, shots: how the dataset's prompts are made.
      num_examples: rows of each task; None for all of a finite split.
      max_decode_len: most tokens of an answer; None for the length of the targets.
      temperature, topk: how tokens are drawn; temperature 0 takes the likeliest.
      prompts: texts to answer instead of the dataset's.
      dry_run: print the prompts, load nothing.

    Returns:
      The answers.
    """
    inputs_length, targets_length = dataset_cfg.capacity
    protocol = EvalProtocol(
        name="infer",
        mixture_or_tasks=(dataset_cfg.mixture_or_task_name,),
        variant=variant,
        shots=shots,
        split=dataset_cfg.split,
        num_examples=num_examples,
        seed=dataset_cfg.seed or 0,
        max_decode_len=max_decode_len or targets_length,
        temperature=temperature,
        topk=topk,
    )
    path = resolve_path(restore_checkpoint_cfg)
    if path is None:
        raise UserError("CHECKPOINT_PATH is not set: which checkpoint is to answer?")
    requests = [] if prompts else plan(protocol, model.input_vocabulary, inputs_length)
    if dry_run:
        print("\n\n".join(f"{r.id} ({r.length} tokens)\n{r.prompt}" for r in requests[:20]))
        return []
    mesh, batch_sharding = make_mesh(partitioner, dataset_cfg.batch_size)
    with partitioner.use(mesh):
        params = restore_params(path, model, partitioner)
        answer = make_generate(params, protocol, batch_sharding)
        if prompts:
            return _answer(prompts, answer, model, dataset_cfg)
        predictions = answer_requests(
            requests,
            answer,
            protocol,
            model,
            checkpoint_name(path)[0],
            output_dir,
            batch_size=dataset_cfg.batch_size,
            inputs_length=inputs_length,
            progress=progress_line(),
        )
    if jax.process_index() == 0:
        write_atomically(Path(output_dir) / "config.gin", operative_config_text())
        _write(Path(output_dir), requests, predictions)
    return [predictions[request.id] for request in requests]


def _answer(
    prompts: Sequence[str],
    answer: job.Generate,
    model: EncoderDecoderModel,
    dataset: DatasetConfig,
) -> list[str]:
    """Answers to free prompts, all padded to the length of the inputs."""
    inputs_length, _ = dataset.capacity
    answers: list[str] = []
    for start in range(0, len(prompts), dataset.batch_size):
        part = prompts[start : start + dataset.batch_size]
        tokens = np.zeros((dataset.batch_size, inputs_length), np.int32)
        for row, text in zip(tokens, part, strict=False):
            ids = encode_with_eos(model.input_vocabulary, text, inputs_length)
            row[: len(ids)] = ids
        tokens[len(part) :] = tokens[0]  # filler; a row of padding has nothing to attend to
        ids = np.arange(start, start + dataset.batch_size, dtype=np.uint32)
        output = answer(tokens, ids)[: len(part)]
        answers += [model.output_vocabulary.decode(row.tolist()) for row in output]
    return answers


def _write(folder: Path, requests: Sequence[Request], predictions: Mapping[str, str]) -> None:
    """T5X's files: the answers of each task, and an empty file beside them once they are whole."""
    by_task: dict[str, list[str]] = {}
    for request in requests:
        inputs = {"inputs_pretokenized": request.prompt, "targets_pretokenized": request.target}
        row = {"inputs": inputs, "prediction": predictions[request.id]}
        by_task.setdefault(request.task, []).append(json.dumps(row, ensure_ascii=False) + "\n")
    for task, lines in by_task.items():
        path = folder / f"{task}-predict.jsonl-00000-of-00001"
        write_atomically(path, "".join(lines))
        write_atomically(path.with_name(path.name + ".COMPLETED"), "")
        print(f"wrote {len(lines)} answers to {path}")
