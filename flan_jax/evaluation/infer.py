"""The inference job: prompts in, answers out, of a task in T5X's files or of a file in another."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
import jax

from flan_jax.checkpoints.initial import resolve_path, restore_params
from flan_jax.checkpoints.manager import RestoreCheckpointConfig
from flan_jax.config import operative_config_text
from flan_jax.data.reader import DatasetConfig
from flan_jax.decoding import DecodeConfig
from flan_jax.errors import UserError
from flan_jax.evaluation.answer_job import Work, answer_into, say
from flan_jax.evaluation.answering import Answerer, Row, least_batch
from flan_jax.evaluation.evaluate import checkpoint_name
from flan_jax.evaluation.generation import make_mesh
from flan_jax.evaluation.prompt_files import Prompt, prompts_digest, read_prompts
from flan_jax.evaluation.protocol import EvalProtocol
from flan_jax.evaluation.requests import Request, plan
from flan_jax.files import write_atomically
from flan_jax.models.language_model import LanguageModel
from flan_jax.run_folder import SYNC_PERIOD, RunFolder, is_address
from flan_jax.sharding import PjitPartitioner

MODES = ("predict", "score")
# Told `ask`, which answers one prompt; returns when the user has had enough.
Conversation = Callable[[Callable[[str], Row]], None]


@gin.configurable(
    module="infer_script",
    denylist=["prompts", "prompts_file", "output", "overwrite", "conversation", "dry_run"],
)
def infer(
    *,
    model: LanguageModel,
    dataset_cfg: DatasetConfig,
    restore_checkpoint_cfg: RestoreCheckpointConfig,
    partitioner: PjitPartitioner,
    decoding: DecodeConfig,
    output_dir: str = "",
    mode: str = "predict",
    seed: int = 0,
    variant: str = "zs_opt",
    shots: int = 0,
    num_examples: int | None = None,
    prompts: Sequence[str] = (),
    prompts_file: str | None = None,
    output: str | None = None,
    overwrite: bool = False,
    conversation: Conversation | None = None,
    dry_run: bool = False,
) -> list[Row]:
    """Answers prompts: those given, those of a file, those typed in, or those of a task or mixture.

    Args:
      model: network and vocabularies.
      dataset_cfg: how long prompts may be and how many are answered at a time; and which rows of
        which task, if no prompts are given.
      restore_checkpoint_cfg: which checkpoint, of any format.
      partitioner: mesh and rules.
      decoding: how to decode.
      output_dir: a folder, or a bucket's (`gs://…`). Answers to a mixture go to
        `<task>-predict.jsonl-00000-of-00001` (`-score` for scores), with an empty `.COMPLETED`
        file beside each when it is whole.
      mode: "predict", or "score": the log-probabilities of given targets.
      seed: of what is sampled.
      variant, shots, num_examples: how a dataset's prompts are made, and how many of each task.
      prompts: texts to answer, on screen alone.
      prompts_file: file to answer (`prompt_files.read_prompts`), into `output`.
      output: the file, of this machine or in a bucket, for the answers to `prompts_file`; by
        default in `output_dir`.
      overwrite: begin anew where answers are there already.
      conversation: see `Conversation`.
      dry_run: print the first prompts, load nothing.

    Returns:
      A row for each prompt, see `Answerer`; none after a conversation.

    Raises:
      UserError: something is configured wrongly, or the checkpoint or the files do not fit.
    """
    if mode not in MODES:
        raise UserError(f"infer.mode must be one of {MODES}, found {mode!r}")
    path = resolve_path(restore_checkpoint_cfg)
    if path is None:
        raise UserError("CHECKPOINT_PATH is not set: which checkpoint is to answer?")
    tasks: dict[str, list[Request]] = {}
    asked: list[Prompt] = [Prompt(number, text) for number, text in enumerate(prompts)]
    if prompts_file is not None:
        asked = read_prompts(prompts_file)
        output = output or _default_output(prompts_file, output_dir, mode)
    elif not prompts and conversation is None:
        tasks = _plan(model, dataset_cfg, decoding, output_dir, variant, shots, num_examples)
        asked = [_as_prompt(0, r) for requests in tasks.values() for r in requests]
    if mode == "score":
        _check_targets(asked, conversation)
    if dry_run:
        print("\n\n".join(f"{p.id or p.number}\n{p.text}" for p in asked[:20]))
        return []
    batch_size = dataset_cfg.batch_size
    mesh, sharding = make_mesh(partitioner, batch_size)
    results = _results(output, output_dir if tasks else "")
    with results, partitioner.for_decoding().use(mesh):
        params = restore_params(path, model, partitioner, restore_checkpoint_cfg)
        if prompts or conversation is not None:
            batch_size = least_batch(sharding) * max(1, -(-len(prompts) // least_batch(sharding)))
        answerer = Answerer(
            params, model, decoding, sharding, batch_size, dataset_cfg.capacity[0], seed
        )
        if conversation is not None:
            conversation(_ask(answerer))
            return []
        work = answerer.answers if mode == "predict" else answerer.scores
        if prompts:
            return sorted((r for rows in work(asked) for r in rows), key=lambda r: r["number"])
        settings = _settings(answerer, checkpoint_name(path)[0], mode, asked)
        into = functools.partial(
            answer_into,
            work=_sent_as_they_come(work, results),
            settings=settings,
            overwrite=overwrite,
            shown=results.shown,
        )
        if output:
            return into(results.local / _split(output)[1], asked)
        return _answer_tasks(results, tasks, mode, into)


def _split(output: str) -> tuple[str, str]:
    """The folder and the name of a file, which may be a bucket's."""
    if not is_address(output):
        return str(Path(output).parent), Path(output).name
    folder, _, name = output.rpartition("/")
    if not name or folder.endswith(":/"):
        raise UserError(f"--output {output} names no file")
    return folder, name


def _results(output: str | None, output_dir: str) -> RunFolder:
    """The folder that answers go to; if nothing is written, one that nothing is sent from."""
    if not output:
        return RunFolder(output_dir, jax.process_index(), setting="INFER_OUTPUT_DIR")
    folder, name = _split(output)
    return RunFolder(folder, jax.process_index(), prefix=name, setting="--output")


def _sent_as_they_come(work: Work, results: RunFolder) -> Work:
    """`work`; a job that is cut off goes on from what the bucket has."""

    def answers(prompts: Sequence[Prompt]) -> Iterator[list[Row]]:
        for rows in work(prompts):
            yield rows
            results.try_sync(say, every=SYNC_PERIOD)

    return answers


def _ask(answerer: Answerer) -> Callable[[str], Row]:
    asked = 0

    def ask(text: str) -> Row:
        nonlocal asked
        ((row,),) = answerer.answers([Prompt(asked, text)])
        asked += 1
        return row

    return ask


def _plan(
    model: LanguageModel,
    dataset: DatasetConfig,
    decoding: DecodeConfig,
    output_dir: str,
    variant: str,
    shots: int,
    num_examples: int | None,
) -> dict[str, list[Request]]:
    """The requests of each task of the dataset."""
    if not dataset.mixture_or_task_name:
        raise UserError(
            "nothing to answer: give --prompts FILE, --prompt TEXT or --interactive, or bind"
            " MIXTURE_OR_TASK_NAME"
        )
    if not output_dir:
        raise UserError("INFER_OUTPUT_DIR is not set: where are the answers to go?")
    protocol = EvalProtocol(
        name="infer",
        mixture_or_tasks=(dataset.mixture_or_task_name,),
        variant=variant,
        shots=shots,
        split=dataset.split,
        num_examples=num_examples,
        seed=dataset.seed or 0,
        max_decode_len=decoding.max_decode_len,
    )
    by_task: dict[str, list[Request]] = {}
    for request in plan(protocol, model.input_vocabulary, dataset.capacity[0]):
        by_task.setdefault(request.task, []).append(request)
    return by_task


def _as_prompt(number: int, request: Request) -> Prompt:
    return Prompt(number, request.prompt, request.id, (request.target,))


def _default_output(prompts_file: str, output_dir: str, mode: str) -> str:
    if not output_dir:
        raise UserError("where are the answers to go? Give --output FILE, or bind INFER_OUTPUT_DIR")
    return f"{output_dir.rstrip('/')}/{Path(prompts_file).stem}-{mode}.jsonl"


def _check_targets(prompts: Sequence[Prompt], conversation: object) -> None:
    without = [prompt.number for prompt in prompts if not prompt.targets]
    if conversation is not None or without:
        what = f"prompts {without[:5]} have none" if without else "a conversation has none"
        raise UserError(f"mode 'score' needs targets, in a field `targets` of JSON lines: {what}")


def _settings(
    answerer: Answerer, checkpoint: str, mode: str, prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """All that decides the answers; what an interrupted job must have been started with."""
    return {
        "checkpoint": checkpoint,
        "mode": mode,
        "prompts": prompts_digest(prompts),
        "decoding": dataclasses.asdict(answerer.config),
        "inputs_length": answerer.inputs_length,
        "seed": answerer.seed,
    }


def _answer_tasks(
    results: RunFolder, tasks: Mapping[str, Sequence[Request]], mode: str, into: Callable[..., Any]
) -> list[Row]:
    """T5X's files: the answers of each task, and an empty file beside them once they are whole."""
    rows: list[Row] = []
    for task, requests in tasks.items():
        prompts = [_as_prompt(i, request) for i, request in enumerate(requests)]
        by_id = {request.id: request for request in requests}
        file = results.local / f"{task}-{mode}.jsonl-00000-of-00001"
        rows += into(file, prompts, to_row=functools.partial(_t5x_row, requests=by_id))
        if jax.process_index() == 0:
            write_atomically(file.with_name(file.name + ".COMPLETED"), "")
        results.try_sync(say)
    if jax.process_index() == 0:
        write_atomically(results.local / "config.gin", operative_config_text())
    return rows


def _t5x_row(row: Row, requests: Mapping[str, Request]) -> Row:
    """A row as T5X writes it."""
    request = requests[row["id"]]
    inputs = {"inputs_pretokenized": request.prompt, "targets_pretokenized": request.target}
    if "scores" in row:
        return {"inputs": inputs, "score": row["scores"][0]}
    several = {"predictions": row["predictions"]} if "predictions" in row else {}
    return {"inputs": inputs, "prediction": row["prediction"], **several}
