"""Reading tasks and mixtures that somebody else registered with SeqIO.

Their examples come tokenised from SeqIO's own pipeline and are packed and batched as ours are.
SeqIO's streams cannot be entered in the middle: going on after n examples reads and throws away n
first, at the speed of the pipeline (5,000 examples of GSM8K a second on two cores: a minute for
300,000). Tasks defined with flan_jax go on at once. Every process reads the whole stream and keeps
its rows of each batch, as with our own tasks.

Nothing here imports TensorFlow: a foreign task exists only where SeqIO is loaded already, by the
module that registered it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import grain
import numpy as np

from flan_jax.data.packing import TokenizedExample
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.errors import UserError
from flan_jax.mixing import get_mixture
from flan_jax.sources.base import SourceError
from flan_jax.suggestions import did_you_mean
from flan_jax.tasks import UnknownTaskError

_FEATURES = ("inputs", "targets")


def foreign_provider(name: str) -> Any | None:
    """The SeqIO task or mixture `name` if only SeqIO knows it, else None. Never imports SeqIO."""
    seqio = sys.modules.get("seqio")
    if seqio is None:
        return None
    try:
        get_mixture(name)
    except UnknownTaskError:
        for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
            if name in registry.names():
                return registry.get(name)
    return None


@dataclass(frozen=True)
class SeqioExamples:
    """The examples of a SeqIO task or mixture.

    Attributes:
      provider: the `seqio.Task` or `seqio.Mixture`.
      inputs_vocabulary, targets_vocabulary: the model's.
      feature_lengths: longest `inputs` and `targets`, in tokens.
      seed: the run's seed.
      split: split to read.

    Raises:
      UserError: its features are not `inputs` and `targets` of token ids, or its vocabularies are
        not the model's.
      SourceError: it has no such split.
    """

    provider: Any
    inputs_vocabulary: Vocabulary
    targets_vocabulary: Vocabulary
    feature_lengths: Mapping[str, int]
    seed: int
    split: str = "train"

    def __post_init__(self) -> None:
        name, features = self.provider.name, self.provider.output_features
        if set(features) != set(_FEATURES):
            raise UserError(
                f"SeqIO's {name!r} has the features {', '.join(sorted(features))}; an "
                "encoder-decoder is trained on exactly `inputs` and `targets`"
            )
        for key, ours in zip(
            _FEATURES, (self.inputs_vocabulary, self.targets_vocabulary), strict=True
        ):
            _check_feature(f"SeqIO's {name!r}: feature {key!r}", features[key], ours)
        splits = tuple(self.provider.splits)
        if self.split not in splits:
            raise SourceError(
                f"SeqIO's {name!r} has no split {self.split!r}, only {', '.join(splits)}"
                + did_you_mean(self.split, splits)
            )

    @property
    def task_names(self) -> tuple[str, ...]:
        """One name for all: SeqIO's mixtures do not say which task an example is from."""
        return (self.provider.name,)

    def stream(
        self, *, shuffle: bool, num_epochs: int | None, skip: int = 0
    ) -> Iterator[TokenizedExample]:
        """Examples in SeqIO's order, endless if `num_epochs` is None, without the first `skip`."""
        dataset = self.provider.get_dataset(
            sequence_length=dict(self.feature_lengths),
            split=self.split,
            shuffle=shuffle,
            seed=self.seed,
            num_epochs=num_epochs,
        )
        # Otherwise a parallel pipeline might repeat and leave out examples after a checkpoint. (The
        # class is taken from the data set, for not to import TensorFlow here.)
        options = type(dataset.options())()
        options.deterministic = True
        dataset = dataset.with_options(options)
        for example in dataset.skip(skip).as_numpy_iterator():
            inputs, targets = (np.asarray(example[name], np.int32) for name in _FEATURES)
            yield TokenizedExample(inputs, targets, 0)

    def first(self, count: int) -> list[TokenizedExample]:
        """The first `count` examples of one epoch in fixed order; fewer if there are no more."""
        stream = self.stream(shuffle=False, num_epochs=1)
        return [example for _, example in zip(range(count), stream, strict=False)]


def _check_feature(where: str, feature: Any, ours: Vocabulary) -> None:
    if feature.rank != 1 or not np.issubdtype(feature.dtype.as_numpy_dtype, np.integer):
        raise UserError(
            f"{where} must be a sequence of token ids, found rank {feature.rank} of "
            f"{feature.dtype.name}"
        )
    theirs = feature.vocabulary
    if theirs.vocab_size != ours.vocab_size:
        raise UserError(
            f"{where} has a vocabulary of {theirs.vocab_size} ids, the model's has "
            f"{ours.vocab_size}: register the task with the model's vocabulary "
            "(`vocabulary.to_seqio()`), or mind `extra_ids`"
        )
    if feature.add_eos and theirs.eos_id != ours.eos_id:
        raise UserError(
            f"{where} ends sequences with id {theirs.eos_id}, the model's vocabulary with "
            f"{ours.eos_id}"
        )


class Window(NamedTuple):
    """Examples that are packed together: window `number` of the stream."""

    number: int
    examples: list[TokenizedExample]


class SeqioWindows(grain.IterDataset):
    """Endless windows of `window` examples each. The iterators' state counts examples read."""

    def __init__(self, examples: SeqioExamples, shuffle: bool, window: int):
        super().__init__()
        self._examples = examples
        self._shuffle = shuffle
        self._window = window

    def __iter__(self) -> grain.DatasetIterator:
        return _SeqioWindowIterator(self._examples, self._shuffle, self._window)

    def __str__(self) -> str:
        return f"SeqioWindows({self._examples.provider.name!r}, {self._examples.split!r})"


class _SeqioWindowIterator(grain.DatasetIterator):
    def __init__(self, examples: SeqioExamples, shuffle: bool, window: int):
        super().__init__()
        self._examples = examples
        self._shuffle = shuffle
        self._window = window
        self._read = 0
        self._stream: Iterator[TokenizedExample] | None = None

    def __next__(self) -> Window:
        if self._stream is None:
            self._stream = self._examples.stream(
                shuffle=self._shuffle, num_epochs=None, skip=self._read
            )
        examples = [example for _, example in zip(range(self._window), self._stream, strict=False)]
        if len(examples) < self._window:
            raise StopIteration
        number = self._read // self._window
        self._read += self._window
        return Window(number, examples)

    def get_state(self) -> dict[str, Any]:
        return {"examples": self._read}

    def set_state(self, state: dict[str, Any]) -> None:
        self._read = state["examples"]
        self._stream = None
