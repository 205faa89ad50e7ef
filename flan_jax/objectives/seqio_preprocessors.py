"""The objectives as SeqIO preprocessors, for tasks that T5X or whatever else speaks SeqIO reads.

`span_corruption`, `prefix_lm`, `ul2`, `ul2r` and `denoise`, which they call, belong after the
preprocessor that tokenises, in any `seqio.Task`:

    preprocessors=[
        functools.partial(seqio.preprocessors.rekey, key_map={"inputs": None, "targets": "text"}),
        seqio.preprocessors.tokenize,
        flan_jax.objectives.seqio_preprocessors.ul2,
        seqio.preprocessors.append_eos,
    ]

Tasks of ours need none of it: `flan_jax.seqio_tasks.register(name, vocabulary, objective=...)`
gives the very ids of our own reader.

TensorFlow is imported when a function here needs it, not with the module.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flan_jax.data.examples import ExampleMaker
from flan_jax.data.schedule import Draw
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.mixing import MixtureDefinition
from flan_jax.objectives.denoiser import BoundObjective, Objective, Room, pieces
from flan_jax.objectives.language_modeling import PrefixLM
from flan_jax.objectives.mixture_of_denoisers import MixtureOfDenoisers
from flan_jax.objectives.span_corruption import SpanCorruption
from flan_jax.objectives.ul2 import UL2, UL2R

if TYPE_CHECKING:
    import tensorflow as tf

_Lengths = Mapping[str, int] | None


def denoise(
    dataset: tf.data.Dataset,
    sequence_length: _Lengths,
    output_features: Mapping[str, Any],
    objective: Objective,
    text_feature: str = "targets",
) -> tf.data.Dataset:
    """Examples that `objective` makes of tokenised texts; SeqIO's seeds decide what is drawn.

    A text that is too long gives an example for each of its pieces, one after the other.

    Args:
      dataset: examples with the ids of a text, without end-of-sequence ids, in `text_feature`.
      sequence_length: longest `inputs` and `targets`, end-of-sequence ids included.
      output_features: the task's: `inputs` and `targets`, or `targets` alone for `CausalLM`.
      objective: what to make of the texts.
      text_feature: where they are; T5's tasks have them in `targets`.

    Returns:
      Examples with Int32 ids in the output features, and nothing else, which leave room for the
      end-of-sequence ids that the features ask for.

    Raises:
      UserError: there is no such feature or no sequence length, it is too short, or the vocabulary
        lacks ids that the objective needs.
    """
    import seqio
    import tensorflow as tf

    features: Any = dataset.element_spec
    if text_feature not in features:
        raise UserError(
            f"no feature {text_feature!r} to denoise, only {', '.join(features)}: "
            "rename the text's feature before it is tokenised, or give text_feature"
        )
    room = _room(sequence_length, output_features)
    bound = objective.bind(_FromSeqio(output_features["targets"].vocabulary))
    bound.check(room)
    texts_pieces = _Pieces(bound, room)

    @seqio.map_over_dataset(num_seeds=1)
    def seeded(example: dict[str, tf.Tensor], seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(example[text_feature], tf.int32), seed

    def split(tokens: tf.Tensor, seed: tf.Tensor) -> tf.data.Dataset:
        planned = tf.numpy_function(texts_pieces.plan, [tokens, seed], [tf.int64] * 3)
        for value, shape in zip(planned, ([None], [None], [None, 2]), strict=True):
            value.set_shape(shape)
        parts = tf.data.Dataset.from_tensor_slices(tuple(planned))
        return parts.map(lambda *part: (tokens, seed, *part))

    def to_features(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        made = tf.numpy_function(texts_pieces.make, arguments, [tf.int32, tf.int32])
        features = dict(zip(("inputs", "targets"), made, strict=True))
        for value in features.values():
            value.set_shape([None])
        return {name: value for name, value in features.items() if name in output_features}

    texts: Any = seeded(dataset)  # pyright: ignore[reportCallIssue] (SeqIO gives the seed)
    return texts.flat_map(split).map(to_features)


class _Pieces:
    """Texts to the examples of their pieces, by SeqIO's seeds, in NumPy."""

    def __init__(self, bound: BoundObjective, room: Room):
        self._bound = bound
        self._room = room

    def plan(self, tokens: np.ndarray, seed: np.ndarray) -> tuple[np.ndarray, ...]:
        """Of each piece of a text: position of its denoiser, its number, and where it is."""
        position = self._bound.draw(Draws("objective", *seed.tolist()))
        parts = pieces(len(tokens), self._bound.text_length(position, self._room))
        bounds = [(part.start, part.stop) for part in parts]
        return np.full(len(parts), position), np.arange(len(parts)), np.asarray(bounds, np.int64)

    def make(
        self, tokens: np.ndarray, seed: np.ndarray, position: int, number: int, bounds: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of one piece of a text."""
        draws = Draws("objective", *seed.tolist(), int(number))
        part = slice(*bounds.tolist())
        made = self._bound.denoised(tokens.tolist(), part, int(position), draws)
        return np.asarray(made.inputs, np.int32), np.asarray(made.targets, np.int32)


def span_corruption(
    dataset: tf.data.Dataset,
    sequence_length: _Lengths,
    output_features: Mapping[str, Any],
    noise_density: float = 0.15,
    mean_noise_span_length: float = 3.0,
    text_feature: str = "targets",
) -> tf.data.Dataset:
    """`denoise` by `SpanCorruption`."""
    objective = SpanCorruption(noise_density, mean_noise_span_length)
    return denoise(dataset, sequence_length, output_features, objective, text_feature)


def prefix_lm(
    dataset: tf.data.Dataset,
    sequence_length: _Lengths,
    output_features: Mapping[str, Any],
    corruption_rate: float | None = None,
    text_feature: str = "targets",
) -> tf.data.Dataset:
    """`denoise` by `PrefixLM`."""
    objective = PrefixLM(corruption_rate)
    return denoise(dataset, sequence_length, output_features, objective, text_feature)


def ul2(
    dataset: tf.data.Dataset,
    sequence_length: _Lengths,
    output_features: Mapping[str, Any],
    mixture: MixtureOfDenoisers = UL2,
    text_feature: str = "targets",
) -> tf.data.Dataset:
    """`denoise` by UL2's seven denoisers, or another mixture."""
    return denoise(dataset, sequence_length, output_features, mixture, text_feature)


ul2r = functools.partial(ul2, mixture=UL2R)


def _room(sequence_length: _Lengths, output_features: Mapping[str, Any]) -> Room:
    missing = [name for name in output_features if not (sequence_length or {}).get(name)]
    if missing or "targets" not in output_features:
        raise UserError(
            "objectives need the features `inputs` and `targets` and the length of each: found "
            f"output features {', '.join(output_features)} and sequence_length {sequence_length}"
        )
    assert sequence_length is not None
    inputs, targets = (
        sequence_length[name] - bool(output_features[name].add_eos)
        if name in output_features
        else 0
        for name in ("inputs", "targets")
    )
    return Room(inputs, targets, inputs + targets, output_features["targets"].vocabulary.vocab_size)


class _FromSeqio(Vocabulary):
    """A vocabulary of SeqIO's as one of ours, as far as objectives ask."""

    def __init__(self, vocabulary: Any):
        self._vocabulary = vocabulary
        self.extra_ids = vocabulary.extra_ids
        self.pad_id = vocabulary.pad_id
        self.eos_id = vocabulary.eos_id
        self.unk_id = vocabulary.unk_id

    @property
    def vocab_size(self) -> int:
        return self._vocabulary.vocab_size

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in self._vocabulary.encode(text)]

    def __repr__(self) -> str:
        return repr(self._vocabulary)


class DenoiseDraws:
    """Preprocessor for rows that our tasks rendered: the very ids of our own reader.

    Args:
      mixture: the one task and its variants.
      vocabularies: of `inputs` and `targets`.
      objective: what to make of the texts in `inputs`.
    """

    def __init__(
        self,
        mixture: MixtureDefinition,
        vocabularies: Mapping[str, Vocabulary],
        objective: Objective,
    ):
        self._mixture = mixture
        self._vocabularies = vocabularies
        self._objective = objective

    def __call__(
        self, dataset: tf.data.Dataset, sequence_length: _Lengths = None
    ) -> tf.data.Dataset:
        """Examples with ids, end-of-sequence ids included, in `inputs` and `targets`.

        Args:
          dataset: rows with a text in `inputs`, and `index`, `epoch`, `seed` and `split`.
          sequence_length: longest `inputs` and `targets`.
        """
        import tensorflow as tf

        if sequence_length is None:
            raise UserError("an objective needs SeqIO's sequence_length, found None")
        lengths = dict(sequence_length)

        @functools.cache
        def maker(seed: int, split: str) -> ExampleMaker:
            inputs, targets = (self._vocabularies[name] for name in ("inputs", "targets"))
            return ExampleMaker(
                self._mixture, inputs, targets, lengths, seed, split, objective=self._objective
            )

        maker(0, "train")  # says now what is wrong with the lengths or the vocabulary

        def ids(
            text: bytes, index: int, epoch: int, seed: int, split: bytes
        ) -> Sequence[np.ndarray]:
            draw = Draw(0, int(index), int(epoch))
            made = maker(int(seed), split.decode()).denoised(text.decode(), draw)
            return made.inputs, made.targets

        def to_features(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            arguments = [row[name] for name in ("inputs", "index", "epoch", "seed", "split")]
            made = tf.numpy_function(ids, arguments, [tf.int32, tf.int32])
            texts = {f"{name}_pretokenized": row[name] for name in ("inputs", "targets")}
            for value in made:
                value.set_shape([None])
            return {**row, **texts, "inputs": made[0], "targets": made[1]}

        return dataset.map(to_features)


__all__ = ["DenoiseDraws", "denoise", "prefix_lm", "span_corruption", "ul2", "ul2r"]
