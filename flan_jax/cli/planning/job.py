"""What `flan-jax plan` reads from gin files, in its own process and in those that compile."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flan_jax.cli.content import load_content
from flan_jax.cli.gin_command import CONFIGURABLE_MODULES, run_configured
from flan_jax.config import LoadedConfig, load
from flan_jax.errors import UserError

if TYPE_CHECKING:
    from flan_jax.plan.steps import PlannedRun, StepKind
    from flan_jax.plan.traced_step import TracedStep

# What runs need and their steps do not depend on, where files only say that it is required.
PLACEHOLDERS: dict[str, Any] = {
    "MODEL_DIR": "",
    "INITIAL_CHECKPOINT_PATH": None,
    "CHECKPOINT_PATH": "",
    "EVAL_OUTPUT_DIR": "",
    "MIXTURE_OR_TASK_NAME": "",
    "TRAIN_STEPS": 0,
}
# Configurables that have a model and a mesh, in the order in which they are looked for.
ROOTS = ("train_script.train", "infer_script.infer", "eval_script.evaluate")
_VOCABULARIES = ("input_vocabulary", "output_vocabulary", "vocabulary")


@dataclass(frozen=True)
class Job:
    """A configuration and what flags say beside it; goes to other processes as JSON.

    Attributes:
      gin_files, bindings, search_paths: see `flan_jax.config.GinFlags`.
      modules: that register tasks.
      step: "train", "eval" or "decode".
      batch_size, inputs_length, max_decode_len: of a decoding step; None for what gin says.
      num_tasks: tasks that the loss is split by; None for those of the mixture.
    """

    gin_files: tuple[str, ...]
    bindings: tuple[str, ...] = ()
    search_paths: tuple[str, ...] = (".",)
    modules: tuple[str, ...] = ()
    step: StepKind = "train"
    batch_size: int | None = None
    inputs_length: int | None = None
    max_decode_len: int | None = None
    num_tasks: int | None = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Job:
        tuples = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(**{**fields, **tuples})

    def for_step(self, step: StepKind) -> Job:
        return dataclasses.replace(self, step=step)

    def bound(self, bindings: Mapping[str, str]) -> Job:
        """The job with further bindings: macros or parameters, and values as gin writes them."""
        more = tuple(f"{name} = {value}" for name, value in bindings.items())
        return dataclasses.replace(self, bindings=(*self.bindings, *more))


def build(devices: Sequence[Any], **fields: Any) -> TracedStep:
    """The program of a job, given by its fields, on these devices; called where it is compiled.

    Raises:
      UserError: the configuration is at fault, or the mesh does not fit.
    """
    from flan_jax.plan.steps import trace_step

    job = Job.from_json(fields)
    run = planned_run(job, load_job(job))
    try:
        mesh = run.partitioner.make_mesh(devices)
    except ValueError as error:
        raise UserError(str(error)) from error
    return trace_step(run, job.step, mesh)


def load_job(job: Job) -> LoadedConfig:
    """Loads and binds a job's configuration as `train` would, leaving out what steps do without.

    Raises:
      ConfigError: listing all mistakes in files and flags.
      UserError: nothing in the files has a model.
    """
    for module in CONFIGURABLE_MODULES:
        importlib.import_module(module)
    load_content(job.modules)
    flags = (job.gin_files, job.bindings, job.search_paths)
    config = load(*flags, placeholders=PLACEHOLDERS)
    root = _root(config)
    config = load(*flags, placeholders=PLACEHOLDERS, required=(root,))
    import gin

    with gin.unlock_config():
        for binding in config.bindings:
            # A vocabulary's file need not be here: the model's own size is what counts.
            if not binding.is_macro and binding.parameter in _VOCABULARIES:
                gin.bind_parameter(binding.key, None)
    return config


def planned_run(job: Job, config: LoadedConfig) -> PlannedRun:
    """The parts of the configured run that its steps depend on; `load_job` comes first.

    Raises:
      UserError: a value is refused by what it was meant for.
    """
    root = _root(config)

    def make() -> PlannedRun:
        return _planned_run(job, config, root)

    return run_configured(make)


def _root(config: LoadedConfig) -> str:
    bound = {binding.key for binding in config.bindings}
    for root in ROOTS:
        if f"{root}.model" in bound:
            return root
    names = ", ".join(f"{root}.model" for root in ROOTS)
    raise UserError(
        f"the gin files bind none of {names}: give a run's file too, such as "
        "--gin_file=runs/finetune.gin"
    )


def _planned_run(job: Job, config: LoadedConfig, root: str) -> PlannedRun:
    from flan_jax.plan.steps import PlannedRun
    from flan_jax.train.step import Trainer

    def value(name: str, default: Any = None) -> Any:
        return _parameter(config, f"{root}.{name}", default)

    training = root == ROOTS[0]
    dataset = value("train_dataset_cfg") if training else None
    make_trainer = value("trainer_cls", Trainer) if training else Trainer
    return PlannedRun(
        model=value("model"),
        trainer=make_trainer(),
        partitioner=value("partitioner"),
        dataset=dataset,
        eval_dataset=value("train_eval_dataset_cfg") if training else None,
        decode=_decode_shape(job, config, dataset or value("dataset_cfg")),
        num_tasks=job.num_tasks or _count_tasks(dataset),
        total_steps=value("relative_steps") or value("total_steps") or 0,
        rng_impl="rbg" if value("use_hardware_rng") else None,
    )


def _parameter(config: LoadedConfig, key: str, default: Any = None) -> Any:
    """What gin binds to a parameter, references called; `default` if nothing."""
    import gin

    if key not in config.values():
        return default
    # gin calls the references in a value when it is copied.
    return copy.deepcopy(gin.query_parameter(key))


def _decode_shape(job: Job, config: LoadedConfig, dataset: Any) -> Any:
    """Flags first, then what evaluation and inference are configured with, then the data's rows."""
    from flan_jax.plan.steps import DecodeShape

    lengths = dict(dataset.task_feature_lengths) if dataset is not None else {}

    def first(flag: int | None, keys: Sequence[str], otherwise: int | None) -> int | None:
        bound = (_parameter(config, key) for key in keys)
        return next((value for value in (flag, *bound, otherwise) if value), None)

    evaluator = "evaluation.GenerationEvaluator"
    rows = dataset.batch_size if dataset is not None else None
    rows = first(job.batch_size, [f"{evaluator}.batch_size"], rows)
    inputs = first(job.inputs_length, [f"{evaluator}.inputs_length"], lengths.get("inputs"))
    longest = ["evaluation.EvalProtocol.max_decode_len", "decoding.DecodeConfig.max_decode_len"]
    answers = first(job.max_decode_len, longest, lengths.get("targets"))
    return DecodeShape(rows, inputs, answers) if rows and inputs and answers else None


def _count_tasks(dataset: Any) -> int:
    from flan_jax.data.seqio_reader import foreign_provider
    from flan_jax.mixing import get_mixture

    name = dataset.mixture_or_task_name if dataset is not None else ""
    if not name or foreign_provider(name) is not None:
        return 1
    return len(get_mixture(name).tasks())
