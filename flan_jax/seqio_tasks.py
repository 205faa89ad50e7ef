"""Our definitions in SeqIO's registries, for T5X and whatever else speaks SeqIO.

`register` adds a task or mixture under its own name. What SeqIO then reads is what our reader
reads: the order of a task's rows is `Schedule`'s, the texts are `ExampleMaker`'s, and the ids are
native SentencePiece's. (SeqIO's own `tokenize` goes through tf_text, which breaks ties between
equally likely splits otherwise; ADR 2 has the numbers.)

TensorFlow is imported when a function here needs it, not with the module.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flan_jax.data.examples import ExampleMaker
from flan_jax.data.schedule import Schedule
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.errors import UserError
from flan_jax.mixing import MixtureDefinition, get_mixture
from flan_jax.objectives import Objective
from flan_jax.objectives.seqio_preprocessors import DenoiseDraws
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.sources.base import check_split
from flan_jax.tasks import TaskDefinition, get_task, is_task

if TYPE_CHECKING:
    import seqio
    import tensorflow as tf

_DEFAULT_SEED = 0  # where SeqIO is asked for a dataset without a seed
_ENDLESS = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class _Binding:
    """What a SeqIO task of ours is made of; two that are equal may share a name.

    Attributes:
      task: the task's name.
      variants: weights of the prompt variants, as sorted pairs.
      inputs_vocabulary, targets_vocabulary: their `repr`s.
      few_shot: exemplars of few-shot prompts.
      objective: its `repr`.
    """

    task: str
    variants: tuple[tuple[str, float], ...]
    inputs_vocabulary: str
    targets_vocabulary: str
    few_shot: FewShotPolicy
    objective: str


# What is registered under each name, and whether by default, to give way to a user's registration.
_TASKS: dict[str, tuple[_Binding, bool]] = {}
_MIXTURES: dict[str, tuple[tuple[MixtureDefinition, tuple[str, ...]], bool]] = {}


def register(
    name: str,
    vocabulary: Vocabulary,
    *,
    targets_vocabulary: Vocabulary | None = None,
    few_shot: FewShotPolicy | None = None,
    objective: Objective | None = None,
) -> seqio.Task | seqio.Mixture:
    """Adds our task or mixture `name` to SeqIO's registries, once; a second call gives the first's.

    A task becomes SeqIO task `name`, which draws a variant for every example, and one task
    `name_<variant>` per variant. A mixture becomes a flat SeqIO mixture with our proportions as
    rates. Its members are the tasks by their own names or, if the mixture weighs variants
    otherwise than a task alone does, tasks `<task>_<variant>` where it draws a single one, else
    tasks `<mixture>:<task>`.

    What `flan_jax.seqio_registry.register_all` registered with the default vocabulary gives way.

    Few-shot prompts are kept within the length of `inputs` that SeqIO is asked for. The seed given
    to SeqIO's `get_dataset` is the run's seed of our reader.

    Args:
      name: a task or mixture registered with flan_jax.
      vocabulary: for inputs, and for targets unless they have their own.
      targets_vocabulary: for targets.
      few_shot: exemplars of few-shot prompts, FewShotPolicy's defaults if None; its `max_tokens`
        counts where SeqIO is given no sequence length.
      objective: what makes inputs and targets of the inputs' text, to pre-train; None for the
        tasks' own targets.

    Raises:
      UnknownTaskError: nothing has this name; with a suggestion.
      UserError: SeqIO has another task or mixture of one of these names, or the same with another
        vocabulary, policy or objective; or the vocabulary lacks ids that the objective needs.
    """
    if objective is not None:
        objective.bind(vocabulary)  # says now what it lacks
    builder = SeqioBuilder(
        vocabulary,
        targets_vocabulary or vocabulary,
        few_shot or FewShotPolicy(),
        objective=objective,
    )
    mixture = get_mixture(name)
    if is_task(name):
        return builder.add_with_variants(get_task(name))
    return builder.add_mixture(mixture)


def _taken(name: str, kind: str) -> UserError:
    return UserError(
        f"SeqIO has a {kind} {name!r} already, made by another module or from another definition, "
        "vocabulary or few-shot policy, or with another objective: a name is registered once in a "
        "process; take another name"
    )


class SeqioBuilder:
    """Adds tasks and mixtures that share vocabularies and few-shot policy.

    Args:
      inputs, targets: vocabularies.
      few_shot: exemplars of few-shot prompts.
      by_default: whether what is added gives way to what is registered explicitly.
      objective: what makes inputs and targets of texts; None for the tasks' own targets.
    """

    def __init__(
        self,
        inputs: Vocabulary,
        targets: Vocabulary,
        few_shot: FewShotPolicy,
        *,
        by_default: bool = False,
        objective: Objective | None = None,
    ):
        self._vocabularies = {"inputs": inputs, "targets": targets}
        self._few_shot = few_shot
        self._by_default = by_default
        self._objective = objective
        self._binding_of_all = (repr(inputs), repr(targets), few_shot, repr(objective))

    @functools.cached_property
    def _output_features(self) -> dict[str, Any]:
        import seqio

        return {
            name: seqio.Feature(vocabulary.to_seqio(), add_eos=True)
            for name, vocabulary in self._vocabularies.items()
        }

    def add_with_variants(self, task: TaskDefinition) -> seqio.Task:
        """Adds `task` and its variants; returns the former."""
        for variant in task.variants():
            self.add_task(f"{task.name}_{variant}", task, {variant: 1.0})
        return self.add_task(task.name, task, task.default_variants())

    def add_mixture(self, mixture: MixtureDefinition) -> seqio.Mixture:
        """Adds a mixture and the tasks it is made of."""
        import seqio

        members = {}
        for task in mixture.tasks():
            weights = {v: w for v, w in mixture.variants_of(task).items() if w}
            member, weights = _member(mixture.name, task, weights)
            self.add_task(member, task, weights)
            members[member] = task.name
        name = mixture.name
        if name in seqio.MixtureRegistry.names():
            known = _MIXTURES.get(name)
            # A default one holds the tasks that have just been replaced.
            replaced = known is not None and known[1] and not self._by_default
            if known is not None and known[0] == (mixture, tuple(members)) and not replaced:
                return seqio.MixtureRegistry.get(name)
            if known is None or not known[1] or self._by_default:
                raise _taken(name, "mixture")
            seqio.MixtureRegistry.remove(name)
        if name in seqio.TaskRegistry.names():
            raise _taken(name, "task")
        _MIXTURES[name] = ((mixture, tuple(members)), self._by_default)
        proportions = mixture.proportions()
        rates = [(member, proportions[task]) for member, task in members.items()]
        return seqio.MixtureRegistry.add(name, rates)

    def add_task(
        self, name: str, task: TaskDefinition, variants: Mapping[str, float]
    ) -> seqio.Task:
        """Adds SeqIO task `name`, which draws `variants` of `task`."""
        import seqio

        binding = _Binding(task.name, tuple(sorted(variants.items())), *self._binding_of_all)
        if name in seqio.TaskRegistry.names():
            known = _TASKS.get(name)
            if known is not None and known[0] == binding:
                _TASKS[name] = (binding, known[1] and self._by_default)
                return seqio.TaskRegistry.get(name)
            if known is None or not known[1] or self._by_default:
                raise _taken(name, "task")
            seqio.TaskRegistry.remove(name)
        if name in seqio.MixtureRegistry.names():
            raise _taken(name, "mixture")
        mixture = MixtureDefinition(name, {task.name: 1.0}, dict(variants))
        _TASKS[name] = (binding, self._by_default)
        source: Any = DrawSource(task)  # SeqIO's protocol has more than SeqIO asks for
        return seqio.TaskRegistry.add(
            name,
            source=source,
            preprocessors=[
                _Renderer(task, mixture, self._vocabularies, self._few_shot),
                *self._preprocessors_to_ids(mixture),
            ],
            output_features=self._output_features,
            postprocess_fn=functools.partial(_postprocess, task),
            metric_fns=[_metric_fn(metric) for metric in task.metrics],
            # `Schedule` shuffles whole tasks; SeqIO's buffer of examples would only cost memory.
            shuffle_buffer_size=None,
        )

    def _preprocessors_to_ids(self, mixture: MixtureDefinition) -> list[Any]:
        """What makes ids of the texts of the one task in `mixture`."""
        import seqio

        if self._objective is not None:
            return [DenoiseDraws(mixture, self._vocabularies, self._objective)]
        return [
            functools.partial(tokenize_natively, vocabularies=self._vocabularies),
            seqio.preprocessors.append_eos_after_trim,
        ]


def _member(
    mixture: str, task: TaskDefinition, weights: Mapping[str, float]
) -> tuple[str, Mapping[str, float]]:
    """Name and weights of a mixture's member; under one name they are always the same."""
    own = task.default_variants()
    scale = sum(own.values()) / sum(weights.values())
    if all(math.isclose(weights.get(v, 0.0) * scale, w) for v, w in own.items()):
        return task.name, own
    if len(weights) == 1:
        (variant,) = weights
        return f"{task.name}_{variant}", {variant: 1.0}
    return f"{mixture}:{task.name}", weights


class DrawSource:
    """A SeqIO data source (its `DataSourceInterface`) of which row comes when, without the rows.

    Rendering waits for a preprocessor, because only those know the sequence length, and because
    SeqIO repeats a dataset before them: every epoch is rendered anew. Elements hold `offset`
    (position in an epoch), `rows` (rows of this shard in an epoch, 0 if endless), `seed`, `split`,
    `shuffle`.
    """

    supports_arbitrary_sharding = True
    performs_internal_shuffling = True
    # A cache would freeze the templates drawn for one epoch.
    caching_permitted = False

    def __init__(self, task: TaskDefinition):
        self._task = task

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return self._task.source.splits()

    def num_input_examples(self, split: str) -> int | None:
        """Rows of a split, None if it is endless."""
        return self._task.source.num_examples(split)

    def list_shards(self, split: str) -> Sequence[str]:
        """One name: rows are drawn by index and shared out by stride."""
        return [split]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **_unused: Any,
    ) -> tf.data.Dataset:
        """Draws number i, i + n, i + 2n … of an epoch, for shard i of n."""
        import tensorflow as tf

        check_split(self._task.source, split)
        size = self.num_input_examples(split)
        first, shards = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)
        constants = {
            "rows": np.int64(0 if size is None else len(range(first, size, shards))),
            "seed": np.int64(_DEFAULT_SEED if seed is None else int(seed)),
            "split": np.bytes_(split.encode()),
            "shuffle": np.bool_(shuffle),
        }
        offsets = tf.data.Dataset.range(first, _ENDLESS if size is None else size, shards)
        return offsets.map(lambda offset: {"offset": offset, **constants})

    def __repr__(self) -> str:
        return f"DrawSource({self._task.name!r})"


class _Renderer:
    """Preprocessor from draws to texts, and where they come from."""

    def __init__(
        self,
        task: TaskDefinition,
        mixture: MixtureDefinition,
        vocabularies: Mapping[str, Vocabulary],
        few_shot: FewShotPolicy,
    ):
        self._task = task
        self._mixture = mixture
        self._vocabularies = vocabularies
        self._few_shot = few_shot

    def __call__(
        self, dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None = None
    ) -> tf.data.Dataset:
        import tensorflow as tf

        render = self._render_function(sequence_length)
        texts = ("inputs", "targets", "answer", "answer_text", "variant", "row_id")
        lists = ("options", "option_texts", "references")
        numbers = ("index", "epoch", "template")
        names = (*texts, *lists, *numbers)
        types = [tf.string] * len((*texts, *lists)) + [tf.int64] * len(numbers)

        def to_features(number: tf.Tensor, draw: dict[str, tf.Tensor]) -> dict[str, Any]:
            arguments = [number, *(draw[k] for k in ("offset", "rows", "seed", "split", "shuffle"))]
            features = dict(zip(names, tf.numpy_function(render, arguments, types), strict=True))
            for name, value in features.items():
                value.set_shape([None] if name in lists else [])
            origin = {"task": self._task.name, "split": draw["split"], "seed": draw["seed"]}
            return {**features, **origin}

        return dataset.enumerate().map(to_features)

    def _render_function(self, sequence_length: Mapping[str, int] | None) -> Callable[..., tuple]:
        name = self._task.name
        budget = (sequence_length or {}).get("inputs", self._few_shot.max_tokens)
        few_shot = dataclasses.replace(self._few_shot, max_tokens=budget)

        @functools.cache
        def engine(seed: int, split: str, shuffle: bool) -> tuple[Schedule, ExampleMaker]:
            size = self._task.source.num_examples(split)
            maker = ExampleMaker(
                self._mixture,
                self._vocabularies["inputs"],
                self._vocabularies["targets"],
                dict(sequence_length or {}),
                seed,
                split,
                few_shot,
            )
            return Schedule({name: 1.0}, {name: size}, seed, shuffle), maker

        def render(
            number: int, offset: int, rows: int, seed: int, split: bytes, shuffle: bool
        ) -> tuple[Any, ...]:
            schedule, maker = engine(int(seed), split.decode(), bool(shuffle))
            epochs = int(number) // int(rows) if rows else 0
            count = int(offset) + epochs * (schedule.sizes[name] or 0)
            example = maker.example(schedule.draw(name, count))
            return (
                example.inputs.encode(),
                example.targets.encode(),
                example.answer.encode(),
                example.answer_text.encode(),
                example.variant.encode(),
                example.row_id.encode(),
                _encoded(example.options),
                _encoded(example.option_texts),
                _encoded(example.references),
                np.int64(example.index),
                np.int64(example.epoch),
                np.int64(example.template),
            )

        return render


def _encoded(texts: Sequence[str]) -> np.ndarray:
    return np.asarray([text.encode() for text in texts], object)


def tokenize_natively(
    dataset: tf.data.Dataset, vocabularies: Mapping[str, Vocabulary]
) -> tf.data.Dataset:
    """SeqIO's `tokenize` by native SentencePiece: the same ids as `Vocabulary.encode`, always.

    Args:
      dataset: examples with a text in every feature that `vocabularies` names.
      vocabularies: by feature.

    Returns:
      Examples with Int32 ids in those features and the texts in `<feature>_pretokenized`.
    """
    import tensorflow as tf

    def encoder(vocabulary: Vocabulary) -> Callable[[bytes], np.ndarray]:
        return lambda text: np.asarray(vocabulary.encode(text.decode()), np.int32)

    encoders = {name: encoder(vocabulary) for name, vocabulary in vocabularies.items()}

    def tokenize(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        result = dict(example)
        for name, encode in encoders.items():
            result[f"{name}_pretokenized"] = example[name]
            result[name] = tf.numpy_function(encode, [example[name]], tf.int32)
            result[name].set_shape([None])
        return result

    return dataset.map(tokenize)


def _postprocess(
    task: TaskDefinition,
    text: str,
    example: Mapping[str, Any] | None = None,
    is_target: bool = False,
) -> Any:
    """A target becomes the question with its references, as our metrics want it."""
    from flan_jax.evaluation.requests import Request

    if not is_target or example is None:
        return text

    def texts(name: str) -> tuple[str, ...]:
        return tuple(text.decode() for text in example[name])

    return Request(
        id=f"{task.name}/{int(example['index'])}",
        task=task.name,
        cluster=task.cluster,
        held_out=task.held_out,
        metrics=task.metrics,
        prompt=example["inputs_pretokenized"].decode(),
        target=example["targets_pretokenized"].decode(),
        answer=example["answer"].decode(),
        answer_text=example["answer_text"].decode(),
        options=texts("options"),
        option_texts=texts("option_texts"),
        references=texts("references"),
        tokens=tuple(int(token) for token in example["inputs"]),
    )


def _metric_fn(name: str) -> Callable[[Sequence[Any], Sequence[str]], dict[str, float]]:
    def metric(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
        from flan_jax.evaluation.scorers import get_scorer

        scorer = get_scorer(name)
        judged = [
            scorer.judge(request, prediction).statistics
            for request, prediction in zip(targets, predictions, strict=True)
        ]
        return {name: float(scorer.finish(np.asarray(judged).sum(axis=0), len(judged)))}

    metric.__name__ = name
    return metric
