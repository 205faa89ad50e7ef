"""What all objectives share: room for a text, pieces of long texts, an objective with its ids."""

from __future__ import annotations

import abc
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from flan_jax.data.schedule import permuted
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.draws import Draws, stable_hash
from flan_jax.errors import UserError

_LONGEST = 1 << 24  # tokens of a text that fits at once


class Room(NamedTuple):
    """What a text needs, or what there is for it; in tokens, without end-of-sequence ids.

    Attributes:
      inputs, targets: of each side.
      together: of both sides, where they share a row.
      sentinels: different ones.
    """

    inputs: int
    targets: int
    together: int
    sentinels: int

    def holds(self, needed: Room) -> bool:
        """Whether all of `needed` is there."""
        return all(need <= there for need, there in zip(needed, self, strict=True))


class Denoised(NamedTuple):
    """An example made of a text, without end-of-sequence ids.

    Attributes:
      inputs, targets: token ids.
      ends: whether the targets are complete: not if the text itself goes on after them.
    """

    inputs: list[int]
    targets: list[int]
    ends: bool = True


class Objective(Protocol):
    """What `utils.DatasetConfig.objective` may be."""

    def bind(self, vocabulary: Vocabulary) -> BoundObjective:
        """Itself with ids of `vocabulary`. Raises UserError if the vocabulary lacks any."""
        ...


class Denoiser(abc.ABC):
    """One way to make inputs and targets of a text; an objective by itself.

    Attributes:
      needs_sentinels: whether it marks spans.
      targets_are_text: whether targets are the text itself, and end only where it ends.
    """

    needs_sentinels: ClassVar[bool]
    targets_are_text: ClassVar[bool] = False

    @abc.abstractmethod
    def needed(self, length: int) -> Room:
        """The most that a text of `length` tokens can need; never less for a longer text."""

    @abc.abstractmethod
    def __call__(
        self, tokens: Sequence[int], sentinels: Sequence[int], draws: Draws
    ) -> tuple[list[int], list[int]]:
        """Inputs and targets, without end-of-sequence ids.

        Args:
          tokens: the text.
          sentinels: ids that mark spans, in the order they are used.
          draws: decides what chance has to.
        """

    def bind(self, vocabulary: Vocabulary) -> BoundObjective:
        """Itself with the sentinels of `vocabulary`. Raises UserError if it has none."""
        return BoundObjective((self,), (1.0,), ((),), tuple(vocabulary.sentinels))


@dataclass(frozen=True)
class BoundObjective:
    """Denoisers and the ids they use: makes examples of token ids.

    Attributes:
      denoisers: of which one is drawn for each example.
      rates: how often, relative to each other.
      modes: ids that each puts before the inputs.
      sentinels: ids that mark spans, in the order they are used.

    Raises:
      UserError: there are no sentinels, and a denoiser needs some.
    """

    denoisers: tuple[Denoiser, ...]
    rates: tuple[float, ...]
    modes: tuple[tuple[int, ...], ...]
    sentinels: tuple[int, ...]

    def __post_init__(self) -> None:
        needing = [denoiser for denoiser in self.denoisers if denoiser.needs_sentinels]
        if needing and not self.sentinels:
            raise UserError(
                f"objectives.{type(needing[0]).__name__} marks spans by sentinels, and the "
                "vocabulary has none to spare: set its `extra_ids` (T5's has 100: "
                "seqio.SentencePieceVocabulary.extra_ids = 100)"
            )

    def check(self, lengths: Room) -> None:
        """Raises UserError if inputs or targets are too short for two tokens of text."""
        for position, denoiser in enumerate(self.denoisers):
            if self.text_length(position, lengths) < 2:
                raise UserError(
                    f"TASK_FEATURE_LENGTHS leave no room for {denoiser}: {lengths.inputs} tokens "
                    f"of inputs and {lengths.targets} of targets beside the end of sequence, of "
                    f"which its mode takes {len(self.modes[position])}; make them longer"
                )

    def text_length(self, position: int, lengths: Room) -> int:
        """The longest text whose example fits, whatever is drawn, for the denoiser at `position`.

        As long as `lengths` allow and as the sentinels last: with more text than that spans would
        have to be fewer and longer than asked for.
        """
        mode = len(self.modes[position])
        room = Room(
            lengths.inputs - mode,
            lengths.targets,
            lengths.together - mode,
            min(lengths.sentinels, len(self.sentinels)),
        )
        return _longest_text(self.denoisers[position], room)

    @property
    def without_inputs(self) -> tuple[Denoiser, ...]:
        """Denoisers that give targets only."""
        return tuple(denoiser for denoiser in self.denoisers if denoiser.needed(2).inputs == 0)

    def draw(self, draws: Draws) -> int:
        """Position of the denoiser for the next example."""
        if len(self.denoisers) == 1:
            return 0
        return draws.weighted(range(len(self.denoisers)), self.rates)

    def example(
        self, tokens: Sequence[int], lengths: Room, key: Sequence[int | str], epoch: int
    ) -> Denoised:
        """The example that a text gives in one epoch, a pure function of the arguments.

        A text that is too long is read piece by piece, one in each epoch: denoised by one denoiser,
        every token comes up once before any comes up again.

        Args:
          tokens: the text.
          lengths: what the example must fit.
          key: what the draws depend on, such as seed, task and row.
          epoch: how often the text was read before.
        """
        draws = Draws(*key, epoch)
        position = self.draw(draws)
        parts = pieces(len(tokens), self.text_length(position, lengths))
        turn, place = divmod(epoch, len(parts))
        part = permuted(place, len(parts), stable_hash(*key, "piece", turn))
        return self.denoised(tokens, parts[part], position, draws)

    def denoised(self, tokens: Sequence[int], part: slice, position: int, draws: Draws) -> Denoised:
        """The example of one piece of a text, made by the denoiser at `position`."""
        denoiser = self.denoisers[position]
        inputs, targets = denoiser(tokens[part], self.sentinels, draws)
        ends = part.stop == len(tokens) or not denoiser.targets_are_text
        return Denoised([*self.modes[position], *inputs], targets, ends)


def pieces(length: int, longest: int) -> list[slice]:
    """A text of `length` tokens in as few pieces of up to `longest` as it takes, about equal."""
    count = max(1, -(-length // longest))
    cuts = [length * number // count for number in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(cuts)]


@functools.lru_cache(maxsize=1024)
def _longest_text(denoiser: Denoiser, room: Room) -> int:
    """The most tokens of text for which there is room; 0 for none."""
    if not room.holds(denoiser.needed(1)):
        return 0
    fits, over = 1, 2
    while over < _LONGEST and room.holds(denoiser.needed(over)):
        fits, over = over, over * 2
    while over - fits > 1:
        middle = (fits + over) // 2
        if room.holds(denoiser.needed(middle)):
            fits = middle
        else:
            over = middle
    return fits


__all__ = ["BoundObjective", "Denoised", "Denoiser", "Objective", "Room", "pieces"]
