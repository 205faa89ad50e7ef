"""Span corruption, T5's pre-training objective (Raffel et al., 2020, section 3.1.4).

With more or longer spans the R- and X-denoisers of UL2 (Tay et al., 2022, section 3.1.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import gin

from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.objectives.denoiser import Denoiser, Room


@gin.configurable(module="objectives")
@dataclass(frozen=True)
class SpanCorruption(Denoiser):
    """Replaces random spans of the text by sentinels, and asks for what they held.

    Attributes:
      noise_density: fraction of tokens that are taken out; T5's is 0.15.
      mean_noise_span_length: average tokens in a span; T5's is 3.
    """

    needs_sentinels: ClassVar[bool] = True

    noise_density: float = 0.15
    mean_noise_span_length: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.noise_density < 1 or self.mean_noise_span_length < 1:
            raise UserError(
                "objectives.SpanCorruption needs 0 < noise_density < 1 and "
                f"mean_noise_span_length >= 1, found {self}"
            )

    def needed(self, length: int) -> Room:
        """The room that a text of `length` tokens needs."""
        noise, spans = self._counts(length)
        return Room(length - noise + spans, noise + spans, length + 2 * spans, spans)

    def __call__(
        self, tokens: Sequence[int], sentinels: Sequence[int], draws: Draws
    ) -> tuple[list[int], list[int]]:
        """Inputs and targets, without end-of-sequence ids.

        Args:
          tokens: the text.
          sentinels: ids that mark spans, in the order they are used. If they are too few, spans are
            fewer and longer; what is taken out stays as much.
          draws: decides the spans.

        Returns:
          The text with each span replaced by a sentinel, and each sentinel followed by its span.
          Spans of both kinds alternate, beginning with kept text, as in T5. A text of one token
          stays as it is.
        """
        noise, spans = self._counts(len(tokens))
        spans = min(spans, len(sentinels))
        if spans == 0:
            return list(tokens), []
        kept_lengths = _partition(len(tokens) - noise, spans, draws)
        noise_lengths = _partition(noise, spans, draws)
        inputs: list[int] = []
        targets: list[int] = []
        position = 0
        for sentinel, kept, taken in zip(sentinels, kept_lengths, noise_lengths, strict=False):
            inputs += [*tokens[position : position + kept], sentinel]
            position += kept
            targets += [sentinel, *tokens[position : position + taken]]
            position += taken
        return inputs, targets

    def _counts(self, length: int) -> tuple[int, int]:
        """(tokens to take out, spans they form); both kinds of span need a token each."""
        noise = min(max(round(length * self.noise_density), 1), length - 1)
        if noise < 1:
            return 0, 0
        spans = max(round(noise / self.mean_noise_span_length), 1)
        return noise, min(spans, noise, length - noise)


def _partition(total: int, parts: int, draws: Draws) -> list[int]:
    """Positive lengths that sum to `total`, uniform among all such sequences."""
    cuts = sorted(draws.sample(range(1, total), parts - 1))
    return [end - start for start, end in zip([0, *cuts], [*cuts, total], strict=True)]
