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
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flan_jax.data.examples import ExampleMaker
from flan_jax.data.schedule import Schedule
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.errors import UserError
from flan_jax.mixing import EQUAL_VARIANTS, MixtureDefinition, get_mixture
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.sources.base import check_split
from flan_jax.tasks import TaskDefinition, get_task

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
    """

    task: str
    variants: tuple[tuple[str, float], ...]
    inputs_vocabulary: str
    targets_vocabulary: str
    few_shot: FewShotPolicy


_TASKS: dict[str, _Binding] = {}
_MIXTURES: dict[str, tuple[MixtureDefinition, tuple[str, ...]]] = {}


def register(
    name: str,
    vocabulary: Vocabulary,
    *,
    targets_vocabulary: Vocabulary | None = None,
    few_shot: FewShotPolicy | None = None,
) -> seqio.Task | seqio.Mixture:
    """Adds our task or mixture `name` to SeqIO's registries, once; a second call gives the first's.

    A task becomes SeqIO task `name`, which draws a variant for every example, and one task
    `name_<variant>` per variant. A mixture becomes a flat SeqIO mixture with our proportions as
    rates. Its members are the tasks by their own names or, if the mixture weighs variants
    otherwise than a task alone does, tasks `<mixture>:<task>` that draw variants as it asks.

    Few-shot prompts are kept within the length of `inputs` that SeqIO is asked for. The seed given
    to SeqIO's `get_dataset` is the run's seed of our reader.

    Args:
      name: a task or mixture registered with flan_jax.
      vocabulary: for inputs, and for targets unless they have their own.
      targets_vocabulary: for targets.
      few_shot: exemplars of few-shot prompts, FewShotPolicy's defaults if None; its `max_tokens`
        counts where SeqIO is given no sequence length.

    Raises:
      UnknownTaskError: nothing has this name; with a suggestion.
      UserError: SeqIO has another task or mixture of one of these names, or the same with another
        vocabulary or policy.
    """
    import seqio

    builder = _Builder(vocabulary, targets_vocabulary or vocabulary, few_shot or FewShotPolicy())
    mixture = get_mixture(name)
    if tuple(mixture.rates) == (name,):
        for variant in get_task(name).variants():
            builder.add_task(f"{name}_{variant}", name, {variant: 1.0})
        return builder.add_task(name, name, mixture.variants)
    prefix = "" if mixture.variants == EQUAL_VARIANTS else f"{name}:"
    members = {prefix + task: task for task in mixture.rates}
    for member, task in members.items():
        builder.add_task(member, task, mixture.variants)
    if name in seqio.MixtureRegistry.names():
        if _MIXTURES.get(name) != (mixture, tuple(members)):
            raise _taken(name, "mixture")
        return seqio.MixtureRegistry.get(name)
    if name in seqio.TaskRegistry.names():
        raise _taken(name, "task")
    _MIXTURES[name] = (mixture, tuple(members))
    proportions = mixture.proportions()
    rates = [(member, proportions[task]) for member, task in members.items()]
    return seqio.MixtureRegistry.add(name, rates)


def _taken(name: str, kind: str) -> UserError:
    return UserError(
        f"SeqIO has a {kind} {name!r} already, made by another module or from another definition, "
        "vocabulary or few-shot policy: a name is registered once in a process; take another name"
    )


class _Builder:
    """Adds tasks that share vocabularies and few-shot policy."""

    def __init__(self, inputs: Vocabulary, targets: Vocabulary, few_shot: FewShotPolicy):
        self._vocabularies = {"inputs": inputs, "targets": targets}
        self._few_shot = few_shot

    @functools.cached_property
    def _output_features(self) -> dict[str, Any]:
        import seqio

        return {
            name: seqio.Feature(vocabulary.to_seqio(), add_eos=True)
            for name, vocabulary in self._vocabularies.items()
        }

    def add_task(self, name: str, task_name: str, variants: Mapping[str, float]) -> seqio.Task:
        import seqio

        binding = _Binding(
            task_name,
            tuple(sorted(variants.items())),
            repr(self._vocabularies["inputs"]),
            repr(self._vocabularies["targets"]),
            self._few_shot,
        )
        if name in seqio.TaskRegistry.names():
            if _TASKS.get(name) != binding:
                raise _taken(name, "task")
            return seqio.TaskRegistry.get(name)
        if name in seqio.MixtureRegistry.names():
            raise _taken(name, "mixture")
        task = get_task(task_name)
        mixture = MixtureDefinition(name, {task_name: 1.0}, dict(variants))
        _TASKS[name] = binding
        source: Any = DrawSource(task)  # SeqIO's protocol has more than SeqIO asks for
        return seqio.TaskRegistry.add(
            name,
            source=source,
            preprocessors=[
                _Renderer(task, mixture, self._vocabularies, self._few_shot),
                functools.partial(tokenize_natively, vocabularies=self._vocabularies),
                seqio.preprocessors.append_eos_after_trim,
            ],
            output_features=self._output_features,
            postprocess_fn=functools.partial(_postprocess, task),
            metric_fns=[_metric_fn(metric) for metric in task.metrics],
            # `Schedule` shuffles whole tasks; SeqIO's buffer of examples would only cost memory.
            shuffle_buffer_size=None,
        )


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
        names = ("inputs", "targets", "answer", "options", "variant", "index", "epoch", "template")
        types = [tf.string] * 5 + [tf.int64] * 3

        def to_features(number: tf.Tensor, draw: dict[str, tf.Tensor]) -> dict[str, Any]:
            arguments = [number, *(draw[k] for k in ("offset", "rows", "seed", "split", "shuffle"))]
            features = dict(zip(names, tf.numpy_function(render, arguments, types), strict=True))
            for name, value in features.items():
                value.set_shape([None] if name == "options" else [])
            return {**features, "task": self._task.name, "split": draw["split"]}

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
                np.asarray([option.encode() for option in example.options], object),
                example.variant.encode(),
                np.int64(example.index),
                np.int64(example.epoch),
                np.int64(example.template),
            )

        return render


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
    split, index = example["split"].decode(), int(example["index"])
    answer = example["answer"].decode()
    fields = task.fields(split, index)
    texts = tuple(fields.get("options") or ())
    return Request(
        id=f"{task.name}/{index}",
        task=task.name,
        cluster=task.cluster,
        held_out=task.held_out,
        metrics=task.metrics,
        prompt=example["inputs_pretokenized"].decode(),
        target=example["targets_pretokenized"].decode(),
        answer=answer,
        references=(answer,) if texts else tuple(fields.get("answers") or (answer,)),
        options=tuple(option.decode() for option in example["options"]),
        option_texts=texts,
        answer_text=fields["answer"],
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
