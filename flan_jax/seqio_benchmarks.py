"""The benchmarks' protocols as SeqIO tasks, for T5X's evaluator and whatever else speaks SeqIO.

Task `eval.<protocol>:<subtask>` (`eval.<protocol>.<variant>:<subtask>` for other variants than the
paper's) has the whole prompt as inputs and the right answer as targets; its metrics are our scores,
in percent. Mixture `eval.<protocol>` holds the subtasks of the protocol's mean. Where options are
ranked there is an example for each option, and the metric takes log-likelihoods.

Registering reads no data. TensorFlow is imported when a function here needs it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flan_jax.data.vocabulary import Vocabulary
from flan_jax.errors import UserError
from flan_jax.evaluation.benchmark_requests import continuations, request_to_judge
from flan_jax.evaluation.benchmarks import (
    PAPER,
    BenchmarkItem,
    BenchmarkProtocol,
    ProtocolDefinition,
    known_protocols,
)
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.scorers import get_scorer
from flan_jax.evaluation.voting import cut
from flan_jax.seqio_registry import DefaultVocabulary
from flan_jax.seqio_tasks import tokenize_natively

if TYPE_CHECKING:
    import seqio
    import tensorflow as tf

_FEATURES = ("inputs", "targets")
# The vocabulary of every task that is registered here.
_REGISTERED: dict[str, str] = {}


class Option(NamedTuple):
    """A target where options are ranked: the question, and which of its options this is.

    Attributes:
      request: the question.
      index: of the option.
      length: what its log-likelihood is divided by.
    """

    request: Request
    index: int
    length: int


def seqio_name(definition: ProtocolDefinition, subtask: str | None = None) -> str:
    """The name of a protocol's task for a subtask, or of its mixture."""
    variant = "" if definition.variant == PAPER else f".{definition.variant}"
    return f"eval.{definition.name}{variant}" + (f":{subtask}" if subtask else "")


def register_benchmarks(vocabulary: Vocabulary | None = None) -> None:
    """Adds all protocols to SeqIO's registries; what had another vocabulary gives way.

    Args:
      vocabulary: for inputs and targets; DefaultVocabulary if None.

    Raises:
      UserError: another module has registered one of the names.
    """
    vocabulary = vocabulary or DefaultVocabulary()
    for variants in known_protocols().values():
        for definition in variants.values():
            register_benchmark_tasks(definition, vocabulary)


def register_benchmark_tasks(
    definition: ProtocolDefinition, vocabulary: Vocabulary
) -> seqio.Mixture:
    """Adds one protocol's tasks and mixture; see `register_benchmarks`."""
    import seqio

    name = seqio_name(definition)
    replaced = _make_room(name, vocabulary, seqio.MixtureRegistry)
    subtasks = (*definition.subtasks, *definition.extra_subtasks)
    names = {subtask: seqio_name(definition, subtask) for subtask in subtasks}
    features = _output_features(definition, vocabulary)
    for subtask, task in names.items():
        if _make_room(task, vocabulary, seqio.TaskRegistry):
            _add_task(definition, subtask, task, vocabulary, features)
    if not replaced:
        return seqio.MixtureRegistry.get(name)
    members = [(names[subtask], 1.0) for subtask in definition.subtasks]
    return seqio.MixtureRegistry.add(name, members)


def _make_room(name: str, vocabulary: Vocabulary, registry: Any) -> bool:
    """Whether `name` is to be added to `registry`; removes ours with another vocabulary."""
    known = _REGISTERED.get(name)
    if name in registry.names():
        if known is None:
            raise UserError(f"SeqIO has {name!r} already, made by another module")
        if known == repr(vocabulary):
            return False
        registry.remove(name)
    _REGISTERED[name] = repr(vocabulary)
    return True


def _output_features(definition: ProtocolDefinition, vocabulary: Vocabulary) -> dict[str, Any]:
    import seqio

    # A continuation is ranked by how it begins an answer: no EOS.
    ends = {"inputs": True, "targets": definition.ranking is None}
    native = vocabulary.to_seqio()
    return {name: seqio.Feature(native, add_eos=ends[name]) for name in _FEATURES}


def _add_task(
    definition: ProtocolDefinition,
    subtask: str,
    name: str,
    vocabulary: Vocabulary,
    features: Mapping[str, Any],
) -> None:
    import seqio

    questions = _Questions(definition, subtask, vocabulary)
    source: Any = seqio.FunctionDataSource(  # SeqIO's protocol has more than SeqIO asks for
        # SeqIO looks at the names of these arguments.
        lambda split, shuffle_files, seed=None: questions.dataset(split),
        splits=definition.splits,
        caching_permitted=False,
    )
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            functools.partial(tokenize_natively, vocabularies=dict.fromkeys(_FEATURES, vocabulary)),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=dict(features),
        postprocess_fn=questions.postprocess,
        metric_fns=[_metric_fn(definition, metric) for metric in definition.metrics],
    )


class _Questions:
    """A subtask's items as SeqIO's examples, and the way back from these."""

    def __init__(self, definition: ProtocolDefinition, subtask: str, vocabulary: Vocabulary):
        self._definition = definition
        self._subtask = subtask
        self._vocabulary = vocabulary
        self._requests: dict[str, dict[int, Request]] = {}

    def _items(self, split: str) -> Mapping[int, BenchmarkItem]:
        return {item.index: item for item in self._definition.read(self._subtask, split)}

    def _protocol(self, split: str) -> BenchmarkProtocol:
        return BenchmarkProtocol(self._definition.name, self._definition.variant, split)

    def dataset(self, split: str) -> tf.data.Dataset:
        """Examples with `inputs`, `targets`, `index`, `option` and `split`, in order."""
        import tensorflow as tf

        text, number = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)
        signature = {"inputs": text, "targets": text, "index": number, "option": number}

        def examples() -> Iterator[dict[str, Any]]:
            for index, item in self._items(split).items():
                inputs = self._definition.prompt(self._subtask, item)
                ranked = continuations(self._protocol(split), item)
                for option, targets in enumerate(ranked or [item.target or item.answer]):
                    yield {"inputs": inputs, "targets": targets, "index": index, "option": option}

        dataset = tf.data.Dataset.from_generator(examples, output_signature=signature)
        return dataset.map(lambda example: {**example, "split": split})

    def postprocess(
        self, text: str, example: Mapping[str, Any] | None = None, is_target: bool = False
    ) -> Any:
        """A target becomes the question, or one of its options; an output ends at a stop string."""
        if not is_target or example is None:
            return cut(text, self._definition.stop)[0]
        request = self._request(example["split"].decode(), int(example["index"]))
        if self._definition.ranking is None:
            return request
        option = int(example["option"])
        return Option(request, option, self._length(request.continuations[option]))

    def _request(self, split: str, index: int) -> Request:
        if split not in self._requests:
            protocol = self._protocol(split)
            self._requests[split] = {
                index: dataclasses.replace(
                    request_to_judge(protocol, self._subtask, item),
                    continuations=continuations(protocol, item),
                )
                for index, item in self._items(split).items()
            }
        return self._requests[split][index]

    def _length(self, continuation: str) -> int:
        if self._definition.ranking == "per_token":
            return max(1, len(self._vocabulary.encode(continuation)))
        if self._definition.ranking == "per_character":
            return max(1, len(continuation.strip()))
        return 1


def _metric_fn(
    definition: ProtocolDefinition, name: str
) -> Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]:
    def judged(requests: Sequence[Request], outputs: Sequence[str]) -> dict[str, float]:
        scorer = get_scorer(name)
        rows = [
            scorer.judge(request, output).statistics
            for request, output in zip(requests, outputs, strict=True)
        ]
        return {name: 100 * float(scorer.finish(np.asarray(rows).sum(axis=0), len(rows)))}

    def of_text(targets: Sequence[Request], predictions: Sequence[str]) -> dict[str, float]:
        return judged(targets, predictions)

    # SeqIO tells what a metric takes by the names of its arguments.
    def of_ranks(targets: Sequence[Option], scores: Sequence[float]) -> dict[str, float]:
        best: dict[str, tuple[float, Request, str]] = {}
        for (request, index, length), score in zip(targets, scores, strict=True):
            value = float(score) / length
            if request.id not in best or value > best[request.id][0]:
                best[request.id] = (value, request, request.options[index])
        return judged([r for _, r, _ in best.values()], [o for _, _, o in best.values()])

    metric = of_ranks if definition.ranking else of_text
    metric.__name__ = name
    return metric
