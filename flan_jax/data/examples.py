"""From a draw to token ids: render, tokenise, trim."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from flan_jax.data.packing import TokenizedExample
from flan_jax.data.schedule import Draw
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.draws import Draws
from flan_jax.mixing import MixtureDefinition
from flan_jax.objectives import SpanCorruption
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.prompts.render import Example, render
from flan_jax.tasks import TaskDefinition


def trim_with_eos(tokens: Sequence[int], vocabulary: Vocabulary, length: int) -> np.ndarray:
    """Ids cut to `length` - 1, and an end-of-sequence id: Int32[Array, "<=length"].

    The same as SeqIO's `append_eos_after_trim`.
    """
    return np.asarray([*tokens[: length - 1], vocabulary.eos_id], np.int32)


def encode_with_eos(vocabulary: Vocabulary, text: str, length: int) -> np.ndarray:
    """Ids of `text` cut to `length` - 1, and an end-of-sequence id: Int32[Array, "<=length"]."""
    return trim_with_eos(vocabulary.encode(text), vocabulary, length)


@dataclass(frozen=True)
class ExampleMaker:
    """Makes the examples of a mixture, as pure functions of (seed, draw).

    Attributes:
      mixture: tasks and variants.
      inputs_vocabulary, targets_vocabulary: tokenisers.
      feature_lengths: longest `inputs` and `targets`, in tokens.
      seed: the run's seed.
      split: split that rows come from.
      few_shot: policy for few-shot variants; prompts are kept within the length of the inputs.
      objective: makes inputs and targets out of a text's tokens, for pre-training; None to learn
        the tasks' own targets.
      missing: tasks that were left out because their data are not there, and why.
    """

    mixture: MixtureDefinition
    inputs_vocabulary: Vocabulary
    targets_vocabulary: Vocabulary
    feature_lengths: Mapping[str, int]
    seed: int
    split: str = "train"
    few_shot: FewShotPolicy = field(default_factory=FewShotPolicy)
    objective: SpanCorruption | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Looked up now, to travel along to reader processes, whose registries are empty.
        _ = self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[TaskDefinition, ...]:
        return self.mixture.tasks()

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, by the number that `TokenizedExample.task` gives them."""
        return tuple(self.mixture.rates)

    def example(self, draw: Draw) -> Example:
        """The rendered text of one draw."""
        task = self._tasks[draw.task]
        key = Draws(self.seed, "variant", task.name, self.split, draw.index, draw.epoch)
        return render(
            task,
            self.split,
            draw.index,
            seed=self.seed,
            epoch=draw.epoch,
            variant=self.mixture.draw_variant(task, key),
            few_shot=self.few_shot,
            count_tokens=lambda text: len(self.inputs_vocabulary.encode(text)) + 1,
        )

    def tokenized(self, draw: Draw) -> TokenizedExample:
        """The token ids of one draw."""
        example = self.example(draw)
        if self.objective is not None:
            return self._corrupted(example, draw)
        inputs = self.inputs_vocabulary.encode(example.inputs)
        return self._trimmed(inputs, self.targets_vocabulary.encode(example.targets), draw)

    def _corrupted(self, example: Example, draw: Draw) -> TokenizedExample:
        assert self.objective is not None
        vocabulary = self.inputs_vocabulary
        draws = Draws(self.seed, "objective", example.task, self.split, draw.index, draw.epoch)
        tokens = vocabulary.encode(example.inputs)[: self.feature_lengths["inputs"] - 1]
        inputs, targets = self.objective(tokens, vocabulary.sentinels, draws)
        return self._trimmed(inputs, targets, draw)

    def _trimmed(self, inputs: list[int], targets: list[int], draw: Draw) -> TokenizedExample:
        lengths = self.feature_lengths
        return TokenizedExample(
            trim_with_eos(inputs, self.inputs_vocabulary, lengths["inputs"]),
            trim_with_eos(targets, self.targets_vocabulary, lengths["targets"]),
            draw.task,
        )
