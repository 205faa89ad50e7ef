"""Moves tensors from a reader to a writer, one at a time, and checks what was written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from flan_jax.checkpoints.plan import Move, Plan
from flan_jax.checkpoints.tensors import CheckpointError, TensorReader, TensorWriter

_BLOCK_BYTES = 16 << 20
Progress = Callable[[int], None]  # takes the bytes that were just done


@dataclass
class Transferred:
    """What `transfer` wrote.

    Attributes:
      digests: of each piece of the target, by name and index.
      cast_errors: largest absolute difference that casting made, by names of our tensors.
      not_finite: names of our tensors that hold NaN or infinity.
    """

    digests: dict[tuple[str, int | None], bytes] = field(default_factory=dict)
    cast_errors: dict[str, float] = field(default_factory=dict)
    not_finite: dict[str, None] = field(default_factory=dict)


class _Digest(NamedTuple):
    """Of a piece as it is written: a hash, what casting changed at most, whether all is finite."""

    digest: bytes
    error: float
    finite: bool


def transfer(
    plan: Plan, reader: TensorReader, writer: TensorWriter, progress: Progress | None = None
) -> Transferred:
    """Reads, casts and writes every piece of a plan; holds one of them at a time.

    Raises:
      CheckpointError: something cannot be read or written, or two tensors of the source that are
        one in the target differ.
    """
    done = Transferred()
    for move in plan.moves:
        value, exact = _value(move, reader)
        place = (move.target.theirs, move.target.their_index)
        digest, error, finite = _digest(value, move.dtype)
        if place in done.digests:
            if done.digests[place] != digest:
                raise CheckpointError(
                    f"{reader.path}: {move.target.ours} differs from another tensor that is the"
                    f" same one, {place[0]}, in the target"
                )
            continue
        done.digests[place] = digest
        if not finite:
            done.not_finite[move.target.ours] = None
        if exact != move.dtype:
            name = move.target.ours
            done.cast_errors[name] = max(done.cast_errors.get(name, 0.0), error)
        writer.write(place[0], value, place[1], move.target.their_axis)
        if progress is not None:
            progress(math.prod(move.target.shape) * move.dtype.itemsize)
    return done


def verify(
    plan: Plan, done: Transferred, reader: TensorReader, progress: Progress | None = None
) -> None:
    """Reads back what was written and compares every bit with what was read from the source.

    Raises:
      CheckpointError: naming a tensor that is not there or not the same.
    """
    missing = [name for name in plan.infos if name not in reader.infos]
    if missing:
        raise CheckpointError(f"{reader.path}: not written: {', '.join(missing)}")
    checked = set()
    for move in plan.moves:
        name, index = place = (move.target.theirs, move.target.their_index)
        if place in checked:
            continue
        checked.add(place)
        if reader.infos[name].dtype != move.dtype:
            raise CheckpointError(
                f"{reader.path}: {name} was read back as {reader.infos[name].dtype}, written as "
                f"{move.dtype}"
            )
        value = reader.read(name, index, move.target.their_axis)
        if _digest(value, move.dtype).digest != done.digests[place]:
            raise CheckpointError(
                f"{reader.path}: {name} was read back with other values than were written (a"
                " faulty disk?)"
            )
        if progress is not None:
            progress(math.prod(move.target.shape) * move.dtype.itemsize)


def _value(move: Move, reader: TensorReader) -> tuple[np.ndarray, np.dtype]:
    """The piece as it lies in the target, not cast yet, and its dtype."""
    source, target = move.source, move.target
    if source is None:
        return np.zeros(target.their_shape, move.dtype), move.dtype
    value = reader.read(source.theirs, source.their_index, source.their_axis)
    value = target.to_theirs(source.to_ours(value))
    return value, value.dtype


def _digest(value: np.ndarray, dtype: np.dtype) -> _Digest:
    """Of the values as `dtype`, in C order."""
    digest, error, finite = blake2b(digest_size=16), 0.0, True
    for block in _blocks(value):
        cast = np.ascontiguousarray(block, dtype)
        if cast.dtype != value.dtype and cast.size:
            with np.errstate(invalid="ignore"):  # NaN and infinity stay what they are: no error
                difference = np.abs(cast.astype(np.float64) - block.astype(np.float64))
            error = max(error, float(np.fmax.reduce(difference, axis=None, initial=0.0)))
        finite = finite and bool(np.isfinite(cast).all())
        digest.update(cast.reshape(-1).view(np.uint8).data)
    return _Digest(digest.digest(), error, finite)


def _blocks(value: np.ndarray) -> Iterator[np.ndarray]:
    """Some rows at a time, so that a transposed or cast copy stays small."""
    if value.ndim == 0:
        yield value.reshape(1)
        return
    row = max(value[:1].size * value.itemsize, 1)
    step = max(_BLOCK_BYTES // row, 1)
    for start in range(0, value.shape[0], step):
        yield value[start : start + step]
