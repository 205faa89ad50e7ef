"""Packed rows with where each of their segments came from.

A batch holds nothing but token ids and the number of the task. The plan it was packed by is a pure
function of seed and window, so it is made once more here, with the draws kept, by the reader's own
functions; what a row holds is then read off its arrays, not off the plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece

import flan_jax
from flan_jax.data.examples import ExampleMaker
from flan_jax.data.packing import Row, TokenizedExample, build_row
from flan_jax.data.reader import DatasetConfig, make_schedule, window_groups
from flan_jax.data.schedule import WINDOW, Draw
from flan_jax.data.seqio_reader import SeqioExamples, SeqioWindows
from flan_jax.data.vocabulary import PAD_ID, ByteVocabulary, SentencePieceVocabulary, Vocabulary
from flan_jax.errors import UserError

_SPACE = "▁"  # how SentencePiece writes a space in its pieces


class Plan(NamedTuple):
    """One row as the reader packs it.

    Attributes:
      window: number of the window it comes from.
      examples: what it holds, in order.
      draws: the draw of each example; None for examples that SeqIO drew.
    """

    window: int
    examples: list[TokenizedExample]
    draws: list[Draw] | None


@dataclass(frozen=True)
class Span:
    """A stretch of a row's inputs or targets.

    Attributes:
      start, end: positions in the row, `end` excluded.
      ids: token ids, the end-of-sequence id included.
      text: what these tokens say.
      pieces: the text of each token; together they are what the model reads, blanks included.
      cut: tokens that did not fit the length and were left out.
      unknown: tokens that the vocabulary does not have.
    """

    start: int
    end: int
    ids: tuple[int, ...]
    text: str
    pieces: tuple[str, ...]
    cut: int
    unknown: int


@dataclass(frozen=True)
class Origin:
    """Where a segment came from.

    Attributes:
      row: task, split and position of the row in its source.
      epoch: how often the row was read before.
      variant: the kind of prompt.
      template: position among the task's templates of this variant.
      where: the template's file, section and position.
      exemplars: rows shown as solved examples.
      dropped_exemplars: exemplars left out because they did not fit.
      inputs, targets: the texts as rendered, before they were made tokens.
    """

    row: str
    epoch: int
    variant: str
    template: int
    where: str
    exemplars: tuple[int, ...]
    dropped_exemplars: int
    inputs: str
    targets: str


@dataclass(frozen=True)
class Segment:
    """One example in a row; `number` is its segment id, `loss` has a weight for each target."""

    number: int
    task: str
    inputs: Span
    targets: Span
    loss: tuple[float, ...]
    origin: Origin | None


@dataclass(frozen=True)
class InspectedRow:
    """One row of a batch.

    Attributes:
      number: its position in the batch.
      window: number of the window of the schedule that it comes from.
      segments: its examples, in order.
      padding: padded positions of inputs and of targets.
      arrays: what the model gets.
    """

    number: int
    window: int
    segments: tuple[Segment, ...]
    padding: tuple[int, int]
    arrays: Row


def planned_rows(config: DatasetConfig, maker: ExampleMaker | SeqioExamples) -> Iterator[Plan]:
    """The rows of a training stream from its beginning, without end."""
    for number, examples, draws in _windows(config, maker):
        lengths = [(len(example.inputs), len(example.targets)) for example in examples]
        for group in window_groups(config, lengths, maker.seed, number):
            yield Plan(
                number,
                [examples[position] for position in group],
                None if draws is None else [draws[position] for position in group],
            )


def _windows(
    config: DatasetConfig, maker: ExampleMaker | SeqioExamples
) -> Iterator[tuple[int, list[TokenizedExample], list[Draw] | None]]:
    if isinstance(maker, SeqioExamples):
        for window in SeqioWindows(maker, config.shuffle, WINDOW):
            yield window.number, window.examples, None
        return
    schedule = make_schedule(config, maker)
    for number in itertools.count():
        draws = schedule.window_draws(number)
        yield number, [maker.tokenized(draw) for draw in draws], draws


def read_batch(
    config: DatasetConfig,
    maker: ExampleMaker | SeqioExamples,
    number: int,
    rows: int | None = None,
) -> list[InspectedRow]:
    """The first `rows` rows (None: all) of global batch `number`, from 0, of a training stream.

    Batches hold rows, whose number a window tells only when it has been packed: everything before
    the batch is read, too, as fast as training reads it.

    Raises:
      UserError: the dataset is at fault, as for the reader; or rows are of a decoder-only model.
    """
    if config.row_kind != "encoder_decoder":
        raise UserError(
            f"rows of kind {config.row_kind!r} cannot be shown: only those of encoder-decoders can"
        )
    count = config.batch_size if rows is None else min(rows, config.batch_size)
    start = number * config.batch_size
    plans = itertools.islice(planned_rows(config, maker), start, start + count)
    return [_inspect(config, maker, position, plan) for position, plan in enumerate(plans)]


def _inspect(
    config: DatasetConfig, maker: ExampleMaker | SeqioExamples, number: int, plan: Plan
) -> InspectedRow:
    arrays = build_row(plan.examples, config.capacity, packed=config.pack)
    ids = _segment_ids(arrays, plan.examples, config.pack)
    segments = []
    for segment in range(1, len(plan.examples) + 1):
        inputs = np.flatnonzero(ids[0] == segment)
        targets = np.flatnonzero(ids[1] == segment)
        example = plan.examples[segment - 1]
        origin = None
        if isinstance(maker, ExampleMaker) and plan.draws is not None:
            origin = _origin(maker, plan.draws[segment - 1])
        segments.append(
            Segment(
                segment,
                maker.task_names[int(arrays["decoder_task_ids"][targets[0]])],
                _span(
                    arrays["encoder_input_tokens"],
                    inputs,
                    maker.inputs_vocabulary,
                    example.inputs_lost,
                ),
                _span(
                    arrays["decoder_target_tokens"],
                    targets,
                    maker.targets_vocabulary,
                    example.targets_lost,
                ),
                tuple(map(float, arrays["decoder_loss_weights"][targets])),
                origin,
            )
        )
    padding = int((ids[0] == 0).sum()), int((ids[1] == 0).sum())
    return InspectedRow(number, plan.window, tuple(segments), padding, arrays)


def _segment_ids(
    arrays: Row, examples: Sequence[TokenizedExample], packed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Segment ids of inputs and targets; rows that are not packed hold one example, segment 1."""
    if packed:
        return arrays["encoder_segment_ids"], arrays["decoder_segment_ids"]
    (example,) = examples
    return (
        (np.arange(len(arrays["encoder_input_tokens"])) < len(example.inputs)).astype(np.int32),
        (np.arange(len(arrays["decoder_target_tokens"])) < len(example.targets)).astype(np.int32),
    )


def _span(tokens: np.ndarray, positions: np.ndarray, vocabulary: Vocabulary, cut: int) -> Span:
    start, end = int(positions[0]), int(positions[-1]) + 1
    ids = tuple(int(token) for token in tokens[start:end])
    return Span(
        start,
        end,
        ids,
        vocabulary.decode(ids),
        pieces(vocabulary, ids),
        cut,
        ids.count(vocabulary.unk_id),
    )


def _origin(maker: ExampleMaker, draw: Draw) -> Origin:
    example = maker.example(draw)
    task = maker.tasks[draw.task]
    template = task.templates_of(example.variant)[example.template]
    return Origin(
        example.row_id,
        example.epoch,
        example.variant,
        example.template,
        str(_folder(task.template_file) / template.where),
        example.exemplars,
        example.dropped_exemplars,
        example.inputs,
        example.targets,
    )


def _folder(file: Path) -> Path:
    """The folder of a file, as seen from where flan_jax is installed if it is part of it."""
    for root in map(Path, flan_jax.__path__):
        if file.is_relative_to(root):
            return file.parent.relative_to(root)
    return file.parent


def pieces(vocabulary: Vocabulary, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token; special tokens in angle brackets."""
    special = {PAD_ID: "<pad>", vocabulary.eos_id: "</s>", vocabulary.unk_id: "<unk>"}
    if isinstance(vocabulary, SentencePieceVocabulary):
        piece = _sentencepiece(vocabulary.sentencepiece_model_file)
        size = piece.GetPieceSize()
        first = vocabulary.sentinels.start  # <extra_id_0>
        return tuple(
            special.get(token)
            or (
                piece.IdToPiece(token).replace(_SPACE, " ")
                if token < size
                else f"<extra_id_{first - token}>"
            )
            for token in ids
        )
    if isinstance(vocabulary, ByteVocabulary):
        return tuple(special.get(token) or _byte(token - 3) for token in ids)
    return tuple(special.get(token) or vocabulary.decode([token]) for token in ids)


def _byte(value: int) -> str:
    return chr(value) if 32 <= value < 127 or value == 10 else f"<0x{value:02X}>"


_LOADED: dict[str, sentencepiece.SentencePieceProcessor] = {}


def _sentencepiece(path: str) -> sentencepiece.SentencePieceProcessor:
    if path not in _LOADED:
        _LOADED[path] = sentencepiece.SentencePieceProcessor(model_file=path)
    return _LOADED[path]
