"""From a draw to token ids: render, tokenise, trim."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from flan_jax.data.flat_rows import FlatExamples, flatten
from flan_jax.data.packing import TokenizedExample
from flan_jax.data.schedule import Draw
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.mixing import MixtureDefinition
from flan_jax.objectives import BoundObjective, Objective, Room
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.prompts.render import Example, render
from flan_jax.tasks import TaskDefinition

if TYPE_CHECKING:
    from flan_jax.models.language_model import RowKind  # whose module imports JAX


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
      row_kind: what the examples are for. If inputs and targets are one sequence, an objective may
        use both lengths together for either, and there is no end of sequence between them.
      missing: tasks that were left out because their data are not there, and why.
      definitions: the tasks themselves, in the mixture's order, if their rows come from elsewhere
        than registered, such as from a store; none for the registered ones.
    """

    mixture: MixtureDefinition
    inputs_vocabulary: Vocabulary
    targets_vocabulary: Vocabulary
    feature_lengths: Mapping[str, int]
    seed: int
    split: str = "train"
    few_shot: FewShotPolicy = field(default_factory=FewShotPolicy)
    objective: Objective | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    definitions: tuple[TaskDefinition, ...] = ()
    row_kind: RowKind = "encoder_decoder"

    def __post_init__(self) -> None:
        # Looked up now, to travel along to reader processes, whose registries are empty.
        names = [task.name for task in self.tasks]
        if names != list(self.mixture.rates):
            raise ValueError(f"definitions of {names}, but the mixture has {self.task_names}")
        if self.objective is not None:
            self._check_objective()

    @functools.cached_property
    def tasks(self) -> tuple[TaskDefinition, ...]:
        """The tasks, by the number that `TokenizedExample.task` gives them."""
        return self.definitions or self.mixture.tasks()

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, by the number that `TokenizedExample.task` gives them."""
        return tuple(self.mixture.rates)

    def example(self, draw: Draw) -> Example:
        """The rendered text of one draw."""
        task = self.tasks[draw.task]
        key = Draws(self.seed, "variant", task.name, self.split, draw.index, draw.epoch)
        return render(
            task,
            self.split,
            draw.index,
            seed=self.seed,
            epoch=draw.epoch,
            variant=self.mixture.draw_variant(task, key),
            few_shot=self.few_shot,
            count_tokens=lambda text: len(self._encode_inputs(text)) + 1,
        )

    def _encode_inputs(self, text: str) -> list[int]:
        """Ids of a prompt. The last one is kept: what was just measured is what comes next."""
        known = self._encoded[0]  # taken and put in one go: readers' threads may share a maker
        if known[0] != text:
            known = self._encoded[0] = (text, self.inputs_vocabulary.encode(text))
        return known[1]

    @functools.cached_property
    def _encoded(self) -> list[tuple[str, list[int]]]:
        return [("", self.inputs_vocabulary.encode(""))]

    def num_examples(self, position: int) -> int | None:
        """Rows of the task at `position`; None if it is endless. Raises SourceError."""
        return self.tasks[position].source.num_examples(self.split)

    def flat(self, draws: Sequence[Draw]) -> FlatExamples:
        """The token ids of several draws, one after the other."""
        return flatten([self.tokenized(draw) for draw in draws])

    def tokenized(self, draw: Draw) -> TokenizedExample:
        """The token ids of one draw."""
        example = self.example(draw)
        if self.objective is not None:
            return self.denoised(example.inputs, draw)
        inputs = self._encode_inputs(example.inputs)
        return self._trimmed(inputs, self.targets_vocabulary.encode(example.targets), draw)

    @functools.cached_property
    def _bound_objective(self) -> BoundObjective:
        assert self.objective is not None
        return self.objective.bind(self.inputs_vocabulary)

    @functools.cached_property
    def _room(self) -> Room:
        """For an example, beside the end-of-sequence ids."""
        inputs, targets = (self.feature_lengths[name] for name in ("inputs", "targets"))
        sentinels = len(self.inputs_vocabulary.sentinels)
        if self.row_kind == "decoder_only":
            together = inputs + targets - 1
            return Room(together, together, together, sentinels)
        return Room(inputs - 1, targets - 1, inputs + targets - 2, sentinels)

    def _check_objective(self) -> None:
        bound = self._bound_objective
        bound.check(self._room)
        if bound.without_inputs and self.row_kind == "encoder_decoder":
            raise UserError(
                f"objectives.{type(bound.without_inputs[0]).__name__} gives an encoder nothing to "
                "read: it is for decoder-only models; objectives.PrefixLM is for either kind"
            )

    def denoised(self, text: str, draw: Draw) -> TokenizedExample:
        """What the objective makes of a text that `draw` gave; nothing of it is cut off.

        A text that is too long gives a piece, another one in each epoch.
        """
        key = (self.seed, "objective", self.tasks[draw.task].name, self.split, draw.index)
        tokens = self._encode_inputs(text)
        made = self._bound_objective.example(tokens, self._room, key, draw.epoch)
        apart = self.row_kind == "encoder_decoder"
        return TokenizedExample(
            self._with_eos(made.inputs, apart), self._with_eos(made.targets, made.ends), draw.task
        )

    def _with_eos(self, tokens: list[int], ends: bool) -> np.ndarray:
        eos = [self.inputs_vocabulary.eos_id] if ends else []
        return np.asarray([*tokens, *eos], np.int32)

    def _trimmed(self, inputs: list[int], targets: list[int], draw: Draw) -> TokenizedExample:
        """Both sides cut to length."""
        longest = self.feature_lengths["inputs"], self.feature_lengths["targets"]
        return TokenizedExample(
            trim_with_eos(inputs, self.inputs_vocabulary, longest[0]),
            trim_with_eos(targets, self.targets_vocabulary, longest[1]),
            draw.task,
            max(0, len(inputs) + 1 - longest[0]),
            max(0, len(targets) + 1 - longest[1]),
        )
