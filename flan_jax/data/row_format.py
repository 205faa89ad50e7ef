"""What the rows of a batch look like: two sequences for an encoder-decoder, one for a decoder.

The reader draws, tokenises, packs, shuffles and counts in the same way for both; it asks the format
which examples share a row and what arrays they make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flan_jax.data.decoder_only import build_decoder_only_row
from flan_jax.data.flat_rows import Batch, FlatExamples, build_decoder_only_rows, build_rows
from flan_jax.data.packing import (
    Row,
    TokenizedExample,
    build_row,
    pack_best_fit,
    pack_sequences,
)

if TYPE_CHECKING:  # it would load JAX
    from flan_jax.models.language_model import RowKind

Lengths = Sequence[tuple[int, int]] | np.ndarray


class RowFormat(Protocol):
    """The rows of one kind of model. `packed` is whether several examples share one."""

    @property
    def packed(self) -> bool: ...

    def groups(self, lengths: Lengths) -> list[list[int]]:
        """Which examples, of these (inputs, targets) lengths, share a row.

        Raises:
          ValueError: an example is longer than a row.
        """
        ...

    def row(self, examples: Sequence[TokenizedExample]) -> Row:
        """The arrays of one row."""
        ...

    def rows(self, examples: FlatExamples, groups: Sequence[Sequence[int]]) -> Batch:
        """The arrays of many rows, stacked, with `decoder_cuts`."""
        ...


@dataclass(frozen=True)
class EncoderDecoderRows:
    """Inputs and targets apart; `capacity` is the (inputs, targets) length of a row."""

    capacity: tuple[int, int]
    packed: bool = True

    def groups(self, lengths: Lengths) -> list[list[int]]:
        if not self.packed:
            return [[position] for position in range(len(lengths))]
        return pack_best_fit(lengths, self.capacity)

    def row(self, examples: Sequence[TokenizedExample]) -> Row:
        return build_row(examples, self.capacity, packed=self.packed)

    def rows(self, examples: FlatExamples, groups: Sequence[Sequence[int]]) -> Batch:
        return build_rows(examples, groups, self.capacity, packed=self.packed, cuts=True)


@dataclass(frozen=True)
class DecoderOnlyRows:
    """Inputs, then targets; `capacity` is the length of a row. Targets alone weigh in the loss."""

    capacity: int
    packed: bool = True

    def groups(self, lengths: Lengths) -> list[list[int]]:
        if not self.packed:
            return [[position] for position in range(len(lengths))]
        return pack_sequences([inputs + targets for inputs, targets in lengths], self.capacity)

    def row(self, examples: Sequence[TokenizedExample]) -> Row:
        return build_decoder_only_row(examples, self.capacity, packed=self.packed)

    def rows(self, examples: FlatExamples, groups: Sequence[Sequence[int]]) -> Batch:
        return build_decoder_only_rows(
            examples, groups, self.capacity, packed=self.packed, cuts=True
        )


def row_format(kind: RowKind, capacity: tuple[int, int], packed: bool) -> RowFormat:
    """The format of a model's rows.

    Args:
      kind: what the model's `row_kind` says.
      capacity: (inputs, targets) length; the row of a decoder-only model has the sum, so that it
        holds any example.
      packed: whether several examples share a row.
    """
    if kind == "encoder_decoder":
        return EncoderDecoderRows(capacity, packed)
    return DecoderOnlyRows(sum(capacity), packed)
