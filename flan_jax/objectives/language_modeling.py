"""Language modeling: prefixes to be gone on from, and whole texts (Raffel et al., 2020, 3.2.1).

Going on from a prefix adapted T5 to prompts (LM adaptation; Lester et al., 2021, section 3.2), and
is UL2's S-denoiser.
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
class PrefixLM(Denoiser):
    """Gives the beginning of the text, and asks for the rest.

    Attributes:
      corruption_rate: fraction of tokens that are asked for; UL2's Table 1 has 0.25. None for a
        beginning of random length, from one token to all but one, each equally likely, as in T5.
    """

    needs_sentinels: ClassVar[bool] = False

    corruption_rate: float | None = None

    def __post_init__(self) -> None:
        if self.corruption_rate is not None and not 0 < self.corruption_rate < 1:
            raise UserError(
                "objectives.PrefixLM needs 0 < corruption_rate < 1, or None to split anywhere, "
                f"found {self.corruption_rate!r}"
            )

    def needed(self, length: int) -> Room:
        """The room that a text of `length` tokens needs, wherever it is split."""
        if length < 2 or self.corruption_rate is None:
            return Room(max(1, length - 1), length - 1, length, 0)
        targets = self._targets(length, self.corruption_rate)
        return Room(length - targets, targets, length, 0)

    def __call__(
        self, tokens: Sequence[int], sentinels: Sequence[int], draws: Draws
    ) -> tuple[list[int], list[int]]:
        """Inputs and targets, without end-of-sequence ids; no sentinel is used.

        A text of one token is all inputs.
        """
        if len(tokens) < 2:
            return list(tokens), []
        if self.corruption_rate is None:
            split = draws.between(1, len(tokens) - 1)
        else:
            split = len(tokens) - self._targets(len(tokens), self.corruption_rate)
        return list(tokens[:split]), list(tokens[split:])

    @staticmethod
    def _targets(length: int, rate: float) -> int:
        return min(max(round(length * rate), 1), length - 1)


@gin.configurable(module="objectives")
@dataclass(frozen=True)
class CausalLM(Denoiser):
    """Asks for the whole text, each token after those before it; for decoder-only models."""

    needs_sentinels: ClassVar[bool] = False
    targets_are_text: ClassVar[bool] = True

    def needed(self, length: int) -> Room:
        """The room that a text of `length` tokens needs."""
        return Room(0, length, length, 0)

    def __call__(
        self, tokens: Sequence[int], sentinels: Sequence[int], draws: Draws
    ) -> tuple[list[int], list[int]]:
        """No inputs, and the text as targets."""
        return [], list(tokens)
