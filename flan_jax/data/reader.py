"""Batches for training and for measuring loss, read with Grain.

Training reads an endless, exactly weighted stream: window after window of the schedule is rendered,
tokenised, packed and cut into global batches, of which each process keeps its rows. Every process
computes the same plan, so the bytes of a global batch do not depend on the number of processes, and
the iterator's state is a window number and a position in it.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import absl.flags
import gin
import grain
import grain.experimental
import numpy as np

from flan_jax.data.examples import ExampleMaker
from flan_jax.data.packing import Row, TokenizedExample, build_row, pack_best_fit
from flan_jax.data.schedule import WINDOW, Draw, Schedule
from flan_jax.data.seqio_reader import SeqioExamples, SeqioWindows, foreign_provider
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.mixing import MixtureDefinition, get_mixture
from flan_jax.objectives import SpanCorruption
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.realised import only, realise
from flan_jax.sources.base import check_split

Batch = dict[str, np.ndarray]
_ENDLESS = 1 << 40  # windows; Grain wants a length
_PACKED_PER_ROW = 4  # examples rendered for each packed row of an evaluation set

gin.external_configurable(FewShotPolicy, module="prompts")


@gin.configurable(module="utils")
@dataclass(frozen=True)
class DatasetConfig:
    """What to read. Argument names are T5X's.

    Attributes:
      mixture_or_task_name: a registered mixture or task.
      task_feature_lengths: tokens per row, for `inputs` and `targets`.
      split: split to read.
      batch_size: rows in a global batch.
      shuffle: whether to shuffle rows and their order.
      seed: seed of everything drawn; None for the run's own.
      use_cached: T5X's switch for SeqIO's offline caches, which are not read here.
      pack: whether several examples share a row.
      module: module to import first because it registers the mixture.
      few_shot: exemplars of few-shot prompts.
      objective: `@objectives.SpanCorruption()` to pre-train on the inputs' text; None to learn the
        tasks' own targets.
      num_workers: reader processes; 0 reads in a thread.
      allow_missing: go on without the tasks whose data are not on this machine.
    """

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int]
    split: str = "train"
    batch_size: int = 128
    shuffle: bool = True
    seed: int | None = None
    use_cached: bool = False
    pack: bool = True
    module: str | None = None
    few_shot: FewShotPolicy = FewShotPolicy()
    objective: SpanCorruption | None = None
    num_workers: int = 0
    allow_missing: bool = False

    def __post_init__(self) -> None:
        if self.use_cached:
            raise UserError(
                "use_cached=True (USE_CACHED_TASKS): SeqIO's offline caches are not read; prompts "
                "are rendered while training, which needs no cache: set it to False"
            )
        if self.module:
            _import(self.module)
        lengths = self.task_feature_lengths
        if not isinstance(lengths, Mapping) or set(lengths) != {"inputs", "targets"}:
            raise UserError(
                "TASK_FEATURE_LENGTHS must be like {'inputs': 512, 'targets': 128}, "
                f"found {lengths!r}"
            )
        if min(lengths.values()) < 2:
            raise UserError(f"TASK_FEATURE_LENGTHS must be at least 2, found {dict(lengths)!r}")

    @property
    def capacity(self) -> tuple[int, int]:
        """(inputs, targets) length of a row."""
        return self.task_feature_lengths["inputs"], self.task_feature_lengths["targets"]

    def example_maker(
        self, inputs: Vocabulary, targets: Vocabulary, seed: int
    ) -> ExampleMaker | SeqioExamples:
        """The maker of this dataset's examples. `seed` is used if the config has none.

        A name that only SeqIO knows gives SeqIO's examples, if `module` has registered it there.

        Raises:
          UnknownTaskError: nothing has this name; with a suggestion.
          SourceError: a task has no such split.
          MixtureMissingError: data of some tasks are missing, and `allow_missing` is not set.
        """
        lengths = dict(self.task_feature_lengths)
        seed = seed if self.seed is None else self.seed
        provider = foreign_provider(self.mixture_or_task_name)
        if provider is not None:
            if self.objective is not None:
                raise UserError(
                    f"{self.mixture_or_task_name!r} is registered with SeqIO, where objectives are "
                    "preprocessors: set objective to None and add the preprocessor to the task"
                )
            return SeqioExamples(provider, inputs, targets, lengths, seed, self.split)
        realised = realise(get_mixture(self.mixture_or_task_name), allow_missing=self.allow_missing)
        return ExampleMaker(
            _with_split(realised.mixture, self.split),
            inputs,
            targets,
            lengths,
            seed,
            self.split,
            dataclasses.replace(self.few_shot, max_tokens=self.capacity[0]),
            self.objective,
            realised.missing,
        )


def _with_split(mixture: MixtureDefinition, split: str) -> MixtureDefinition:
    """`mixture`; to measure on a split that some of its tasks lack, those that have it.

    Raises:
      SourceError: no task has the split, or one lacks `train`.
    """
    having = {task.name for task in mixture.tasks() if split in task.source.splits()}
    if split == "train" or not having:
        for task in mixture.tasks():
            check_split(task.source, split)
    return only(mixture, having)


def _import(module: str) -> None:
    """Imports a module that registers tasks. Raises UserError if it, or a parent, is missing."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"module {module!r} (MIXTURE_OR_TASK_MODULE), which is to register the tasks, cannot "
            f"be imported: there is no {error.name!r} on Python's path"
        ) from error


def make_schedule(config: DatasetConfig, maker: ExampleMaker) -> Schedule:
    """The order of a dataset's examples. Raises SourceError if a task cannot be read."""
    sizes = {}
    for task in maker.mixture.tasks():
        sizes[task.name] = task.source.num_examples(config.split)
        if sizes[task.name] == 0:
            raise UserError(f"task {task.name} has no rows in split {config.split!r}")
    return Schedule(maker.mixture.proportions(), sizes, maker.seed, config.shuffle, WINDOW)


def _window_rows(
    config: DatasetConfig, examples: Sequence[TokenizedExample], seed: int, number: int
) -> Batch:
    """The rows of window `number`, which holds `examples`, stacked: a worker process sends every
    array in shared memory of its own, too much for single rows.
    """
    lengths = [(len(e.inputs), len(e.targets)) for e in examples]
    groups = window_groups(config, lengths, seed, number)
    rows = (
        build_row([examples[i] for i in group], config.capacity, packed=config.pack)
        for group in groups
    )
    return _stack(list(rows))


def window_groups(
    config: DatasetConfig, lengths: Sequence[tuple[int, int]], seed: int, number: int
) -> list[list[int]]:
    """Which examples of window `number` share a row, by position, row after row.

    `lengths` has the (inputs, targets) length of each example, none above the config's.
    """
    if not config.pack:
        return [[position] for position in range(len(lengths))]
    groups = pack_best_fit(lengths, config.capacity)
    return Draws(seed, "rows", number).shuffled(groups) if config.shuffle else groups


def _stack(rows: Sequence[Row]) -> Batch:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


class _Windows:
    """Grain source whose element n is the packed rows of window n."""

    def __init__(self, config: DatasetConfig, schedule: Schedule, maker: ExampleMaker):
        self._config = config
        self._schedule = schedule
        self._maker = maker

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: Any) -> Batch:
        number = int(index)
        examples = [self._maker.tokenized(draw) for draw in self._schedule.window_draws(number)]
        return _window_rows(self._config, examples, self._schedule.seed, number)

    def __repr__(self) -> str:
        return f"Windows({self._config.mixture_or_task_name!r}, {self._config.split!r})"


@dataclass
class _Flatten(grain.experimental.FlatMapTransform):
    max_fan_out: int = WINDOW * 2

    def flat_map(self, element: Batch) -> list[Row]:
        count = len(element["encoder_input_tokens"])
        return [{name: array[i] for name, array in element.items()} for i in range(count)]


def train_dataset(
    config: DatasetConfig,
    maker: ExampleMaker | SeqioExamples,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Endless batches of this process: its share of the rows of each global batch.

    The iterator's `get_state()` is a small JSON-like dictionary; `set_state` on a new iterator with
    the same `num_workers` goes on with the very next batch. The batches do not depend on
    `num_workers`.

    Raises:
      UserError: the batch does not divide over the processes, or the dataset is at fault.
    """
    if config.batch_size % process_count:
        raise UserError(
            f"BATCH_SIZE {config.batch_size} must be a multiple of the {process_count} processes"
        )
    share = config.batch_size // process_count
    mine = slice(process_index * share, (process_index + 1) * share)
    dataset = grain.experimental.FlatMapIterDataset(_windows(config, maker), _Flatten())
    dataset = dataset.batch(config.batch_size, drop_remainder=True)
    return dataset.map(lambda batch: {name: rows[mine] for name, rows in batch.items()})


def _windows(config: DatasetConfig, maker: ExampleMaker | SeqioExamples) -> grain.IterDataset:
    """Window after window of stacked rows."""
    if isinstance(maker, SeqioExamples):
        if config.num_workers:
            raise UserError(
                f"num_workers={config.num_workers}: {config.mixture_or_task_name!r} is read by "
                "SeqIO, which has threads of its own; set it to 0"
            )
        windows = SeqioWindows(maker, config.shuffle, WINDOW).map(
            lambda window: _window_rows(config, window.examples, maker.seed, window.number)
        )
        return grain.experimental.ThreadPrefetchIterDataset(windows, prefetch_buffer_size=2)
    source = _Windows(config, make_schedule(config, maker), maker)
    dataset = grain.MapDataset.source(source).to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    )
    if config.num_workers:
        # Workers take windows in turn, so rows and batches come out as with no worker at all; cut
        # into batches by the workers, they would not.
        if not absl.flags.FLAGS.is_parsed():  # Grain asks for its flags, absl wants them parsed
            absl.flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=config.num_workers)
        dataset = dataset.mp_prefetch(options)
    return dataset


def eval_batches(
    config: DatasetConfig, maker: ExampleMaker | SeqioExamples, num_batches: int
) -> Iterator[Batch]:
    """The first `num_batches` global batches of a fixed evaluation set, the same every time.

    Tasks take turns, each in the order of its rows; a finite set may give fewer batches. Rows that
    are missing in the last batch are padding and weigh nothing.
    """
    rows = _eval_rows(config, maker, num_batches * config.batch_size)
    for start in range(0, len(rows), config.batch_size):
        part = rows[start : start + config.batch_size]
        part += [build_row([], config.capacity, packed=config.pack)] * (
            config.batch_size - len(part)
        )
        yield _stack(part)


def _eval_rows(config: DatasetConfig, maker: ExampleMaker | SeqioExamples, limit: int) -> list[Row]:
    wanted = limit * (_PACKED_PER_ROW if config.pack else 1)
    if isinstance(maker, SeqioExamples):
        examples = maker.first(wanted)
    else:
        examples = _first_in_turn(config, maker, wanted)
    if not config.pack:
        return [build_row([e], config.capacity, packed=False) for e in examples[:limit]]
    groups = pack_best_fit([(len(e.inputs), len(e.targets)) for e in examples], config.capacity)
    # Packing puts long examples first: without shuffling, the rows kept would be theirs.
    groups = Draws(maker.seed, "eval rows").shuffled(groups)
    return [build_row([examples[i] for i in group], config.capacity) for group in groups[:limit]]


def _first_in_turn(
    config: DatasetConfig, maker: ExampleMaker, wanted: int
) -> list[TokenizedExample]:
    """About `wanted` examples, fewer if there are no more: row 0 of every task, row 1 …"""
    sizes = [task.source.num_examples(config.split) for task in maker.mixture.tasks()]
    examples: list[TokenizedExample] = []
    index = 0
    while len(examples) < wanted:
        turn = [p for p, size in enumerate(sizes) if size is None or index < size]
        if not turn:
            break
        examples += [maker.tokenized(Draw(position, index, 0)) for position in turn]
        index += 1
    return examples
