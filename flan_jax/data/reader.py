"""Batches for training and for measuring loss, read with Grain.

Training reads an endless, exactly weighted stream: window after window of the schedule is rendered,
tokenised, packed and cut into global batches, of which each process keeps its rows. Every process
computes the same plan, so the bytes of a global batch do not depend on the number of processes, and
the iterator's state is a window number and a position in it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import multiprocessing.connection
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import absl.flags
import gin
import grain
import grain.experimental
import numpy as np

from flan_jax.data.counts import NOT_TRAINED_ON, WINDOWS, count_batch
from flan_jax.data.examples import ExampleMaker
from flan_jax.data.flat_rows import FlatExamples, flatten
from flan_jax.data.packing import Row, TokenizedExample
from flan_jax.data.row_format import RowFormat, row_format
from flan_jax.data.schedule import WINDOW, Draw, Schedule
from flan_jax.data.seqio_reader import SeqioExamples, SeqioWindows, foreign_provider
from flan_jax.data.token_store import stored_examples
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.mixing import MixtureDefinition, get_mixture
from flan_jax.models.language_model import LanguageModel, RowKind
from flan_jax.objectives import Objective
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.realised import RealisedMixture, only, realise
from flan_jax.sources.base import check_split
from flan_jax.store import Store, open_store
from flan_jax.tasks import TaskDefinition

Batch = dict[str, np.ndarray]
_ENDLESS = 1 << 40  # windows; Grain wants a length
_PACKED_PER_ROW = 4  # examples rendered for each packed row of an evaluation set

gin.external_configurable(FewShotPolicy, module="prompts")


@gin.configurable(module="utils", denylist=["row_kind"])
@dataclass(frozen=True)
class DatasetConfig:
    """What to read. Argument names are T5X's.

    Attributes:
      mixture_or_task_name: a registered mixture or task.
      task_feature_lengths: tokens that an example may have, for `inputs` and `targets`; what is
        longer is cut.
      split: split to read.
      batch_size: rows in a global batch.
      shuffle: whether to shuffle rows and their order.
      seed: seed of everything drawn; None for the run's own.
      use_cached: T5X's switch for SeqIO's offline caches, which are not read here.
      pack: whether several examples share a row.
      module: module to import first because it registers the mixture.
      few_shot: exemplars of few-shot prompts.
      objective: such as `@objectives.SpanCorruption()`, to pre-train on the inputs' text; None to
        learn the tasks' own targets.
      num_workers: reader processes; 0 reads in a thread.
      row_lengths: tokens per row, if more than an example may have: rows longer than their longest
        example fill better (`flan-jax data stats` recommends a pair). A row of a decoder-only model
        has inputs and targets together, in any shares.
      allow_missing: go on without the tasks whose data are not on this machine.
      store: folder or address of a store that `flan-jax data build` made, to take the rows from;
        None to read the datasets as they were published.
      token_store: folder or address of what `flan-jax data render` made, to take the token ids
        from; the rows are not needed then. None to render while training.
      row_kind: what rows look like, which is up to the model: see `for_model`.
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
    objective: Objective | None = None
    num_workers: int = 0
    row_lengths: Mapping[str, int] | None = None
    allow_missing: bool = False
    store: str | None = None
    token_store: str | None = None
    row_kind: RowKind = "encoder_decoder"

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
        rows = lengths if self.row_lengths is None else self.row_lengths
        if not isinstance(rows, Mapping) or set(rows) != set(lengths):
            raise UserError(
                f"ROW_LENGTHS must be None or like TASK_FEATURE_LENGTHS, found {rows!r}"
            )
        if any(rows[name] < lengths[name] for name in lengths):
            raise UserError(
                f"ROW_LENGTHS {dict(rows)!r} must be at least TASK_FEATURE_LENGTHS "
                f"{dict(lengths)!r}: a row must hold any example"
            )

    @property
    def capacity(self) -> tuple[int, int]:
        """(inputs, targets) length of a row."""
        lengths = self.task_feature_lengths if self.row_lengths is None else self.row_lengths
        return lengths["inputs"], lengths["targets"]

    @property
    def row_format(self) -> RowFormat:
        """Which examples share a row, and the arrays of rows."""
        return row_format(self.row_kind, self.capacity, self.pack)

    def for_model(self, model: LanguageModel) -> DatasetConfig:
        """The same data, in the rows that the model reads."""
        return dataclasses.replace(self, row_kind=model.row_kind)

    def example_maker(
        self, inputs: Vocabulary, targets: Vocabulary, seed: int
    ) -> ExampleMaker | SeqioExamples:
        """The maker of this dataset's examples. `seed` is used if the config has none.

        A name that only SeqIO knows gives SeqIO's examples, if `module` has registered it there.

        Raises:
          UnknownTaskError: nothing has this name; with a suggestion.
          SourceError: a task has no such split.
          MixtureMissingError: data of some tasks are missing, and `allow_missing` is not set.
          StoreError: a store is missing or damaged, or was built of other definitions.
        """
        lengths = dict(self.task_feature_lengths)
        seed = seed if self.seed is None else self.seed
        provider = foreign_provider(self.mixture_or_task_name)
        if provider is not None:
            if self.objective is not None:
                raise UserError(
                    f"{self.mixture_or_task_name!r} is registered with SeqIO, where objectives are "
                    "preprocessors: set objective to None and add the preprocessor to the task "
                    "(flan_jax.objectives.seqio_preprocessors has them)"
                )
            return SeqioExamples(provider, inputs, targets, lengths, seed, self.split)
        few_shot = dataclasses.replace(self.few_shot, max_tokens=lengths["inputs"])
        mixture = get_mixture(self.mixture_or_task_name)
        settings = (inputs, targets, lengths, seed, self.split, few_shot, self.objective)
        if self.token_store is not None:
            return stored_examples(self.token_store, mixture, self.allow_missing, *settings)
        realised, definitions = self._realise(mixture)
        mixture = _with_split(realised.mixture, definitions, self.split)
        tasks = tuple(definitions[name] for name in mixture.rates) if self.store else ()
        return ExampleMaker(mixture, *settings, realised.missing, tasks, self.row_kind)

    def _realise(
        self, mixture: MixtureDefinition
    ) -> tuple[RealisedMixture, dict[str, TaskDefinition]]:
        """What is there of a mixture, and its tasks by name, which may read from the store."""
        if self.store is None:
            realised = realise(mixture, allow_missing=self.allow_missing)
            return realised, {task.name: task for task in realised.mixture.tasks()}
        store = open_store(self.store)
        realised = realise(
            mixture,
            allow_missing=self.allow_missing,
            why_missing=lambda task: _not_stored(store, task.name),
            remedy=f"`flan-jax data build {mixture.name} --out {store.path}` stores what is there",
        )
        return realised, {task.name: store.apply(task) for task in realised.mixture.tasks()}


def _not_stored(store: Store, name: str) -> str | None:
    if name in store.manifest.tasks:
        return None
    why = store.manifest.failed.get(name)
    return f"not in the store {store.path}" + (f" ({why})" if why else "")


def _with_split(
    mixture: MixtureDefinition, definitions: Mapping[str, TaskDefinition], split: str
) -> MixtureDefinition:
    """`mixture`; to measure on a split that some of its tasks lack, those that have it.

    Raises:
      SourceError: no task has the split, or one lacks `train`.
    """
    sources = {name: definitions[name].source for name in mixture.rates}
    having = {name for name, source in sources.items() if split in source.splits()}
    if split == "train" or not having:
        for source in sources.values():
            check_split(source, split)
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
    for position, name in enumerate(maker.task_names):
        sizes[name] = maker.num_examples(position)
        if sizes[name] == 0:
            raise UserError(f"task {name} has no rows in split {config.split!r}")
    return Schedule(maker.mixture.proportions(), sizes, maker.seed, config.shuffle, WINDOW)


def _window_rows(config: DatasetConfig, examples: FlatExamples, seed: int, number: int) -> Batch:
    """The rows of window `number`, which holds `examples`, stacked: a worker process sends every
    array in shared memory of its own, too much for single rows.
    """
    groups = window_groups(config, examples.lengths, seed, number)
    rows = config.row_format.rows(examples, groups)
    return {**rows, WINDOWS: np.full(len(groups), number, np.int64)}


def window_groups(
    config: DatasetConfig,
    lengths: Sequence[tuple[int, int]] | np.ndarray,
    seed: int,
    number: int,
) -> list[list[int]]:
    """Which examples of window `number` share a row, by position, row after row.

    `lengths` has the (inputs, targets) length of each example, none above the config's.
    """
    groups = config.row_format.groups(lengths)
    if not (config.pack and config.shuffle):
        return groups
    return Draws(seed, "rows", number).shuffled(groups)


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

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _end_with_parent()

    def __getitem__(self, index: Any) -> Batch:
        number = int(index)
        examples = self._maker.flat(self._schedule.window_draws(number))
        return _window_rows(self._config, examples, self._schedule.seed, number)

    def __repr__(self) -> str:
        return f"Windows({self._config.mixture_or_task_name!r}, {self._config.split!r})"


@functools.cache
def _end_with_parent() -> None:
    """In a reader process: ends it with the one that started it, which may be killed outright.

    Grain's workers would live on, and keep memory and the output's pipes.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_exit, args=(parent.sentinel,), daemon=True).start()


def _wait_and_exit(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


@dataclass
class _Flatten(grain.experimental.FlatMapTransform):
    max_fan_out: int = WINDOW * 2

    def flat_map(self, element: Batch) -> list[Row]:
        count = len(element["decoder_target_tokens"])
        return [{name: array[i] for name, array in element.items()} for i in range(count)]


def train_dataset(
    config: DatasetConfig,
    maker: ExampleMaker | SeqioExamples,
    *,
    process_index: int = 0,
    process_count: int = 1,
    rows: np.ndarray | None = None,
    counted: bool = False,
) -> grain.IterDataset:
    """Endless batches of this process: its share of the rows of each global batch.

    Its share is `rows`, the numbers of the rows in the global batch (a mesh has a say in that:
    `flan_jax.global_batches`); without them, the `process_index`-th of `process_count` equal parts.

    With `counted`, a batch also has what `flan_jax.data.counts` names TRUNCATION and WINDOW, of all
    rows of the global batch. `take_counts` takes them out again.

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
    mine = slice(process_index * share, (process_index + 1) * share) if rows is None else rows
    dataset = grain.experimental.FlatMapIterDataset(_windows(config, maker), _Flatten())
    dataset = dataset.batch(config.batch_size, drop_remainder=True)
    tasks = len(maker.task_names)

    def share_of(batch: Batch) -> Batch:
        counts = count_batch(batch, tasks) if counted else {}
        kept = {name: array[mine] for name, array in batch.items() if name not in NOT_TRAINED_ON}
        return kept | counts

    return dataset.map(share_of)


def _windows(config: DatasetConfig, maker: ExampleMaker | SeqioExamples) -> grain.IterDataset:
    """Window after window of stacked rows."""
    if isinstance(maker, SeqioExamples):
        if config.num_workers:
            raise UserError(
                f"num_workers={config.num_workers}: {config.mixture_or_task_name!r} is read by "
                "SeqIO, which has threads of its own; set it to 0"
            )
        windows = SeqioWindows(maker, config.shuffle, WINDOW).map(
            lambda window: _window_rows(config, flatten(window.examples), maker.seed, window.number)
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
        part += [config.row_format.row([])] * (config.batch_size - len(part))
        yield _stack(part)


def _eval_rows(config: DatasetConfig, maker: ExampleMaker | SeqioExamples, limit: int) -> list[Row]:
    wanted = limit * (_PACKED_PER_ROW if config.pack else 1)
    if isinstance(maker, SeqioExamples):
        examples = maker.first(wanted)
    else:
        examples = _first_in_turn(config, maker, wanted)
    rows = config.row_format
    groups = rows.groups([(len(e.inputs), len(e.targets)) for e in examples])
    if config.pack:
        # Packing puts long examples first: without shuffling, the rows kept would be theirs.
        groups = Draws(maker.seed, "eval rows").shuffled(groups)
    return [rows.row([examples[i] for i in group]) for group in groups[:limit]]


def _first_in_turn(
    config: DatasetConfig, maker: ExampleMaker, wanted: int
) -> list[TokenizedExample]:
    """About `wanted` examples, fewer if there are no more: row 0 of every task, row 1 …"""
    sizes = [maker.num_examples(position) for position in range(len(maker.task_names))]
    examples: list[TokenizedExample] = []
    index = 0
    while len(examples) < wanted:
        turn = [p for p, size in enumerate(sizes) if size is None or index < size]
        if not turn:
            break
        examples += [maker.tokenized(Draw(position, index, 0)) for position in turn]
        index += 1
    return examples
