"""What a conversion will do, checked in full before anything is written."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flan_jax.checkpoints.own import PARAMS
from flan_jax.checkpoints.tensors import CheckpointError, Layout, Part, TensorInfo
from flan_jax.suggestions import did_you_mean

FLOATS = ("float64", "float32", "float16", "bfloat16")
_SHOWN = 40  # problems


@dataclass(frozen=True)
class Move:
    """One piece of a conversion: a tensor, or a layer of one.

    Attributes:
      source: where it is read; None for a tensor of zeros that the source lacks.
      target: where it is written.
      dtype: of what is written.
    """

    source: Part | None
    target: Part
    dtype: np.dtype


@dataclass(frozen=True)
class Plan:
    """A whole conversion.

    Attributes:
      moves: in the order of the source's tensors.
      infos: of the target's tensors.
      dropped: names of tensors of ours that the target has no place for.
    """

    moves: Sequence[Move]
    infos: Mapping[str, TensorInfo]
    dropped: Sequence[str]

    @property
    def num_bytes(self) -> int:
        """Of all the target's tensors, uncompressed."""
        return sum(math.prod(info.shape) * info.dtype.itemsize for info in self.infos.values())


def key(part: Part) -> tuple[str, int | None]:
    """What two parts must share to stand for the same values."""
    return part.ours, part.layer


def check_source(
    path: str,
    infos: Mapping[str, TensorInfo],
    layout: Layout,
    parameters: Mapping[str, tuple[int, ...]],
    unused: Iterable[str] = (),
) -> None:
    """Compares a checkpoint's headers with its layout and with the model.

    Args:
      path: of the checkpoint, for messages.
      infos: its tensors.
      layout: of the checkpoint.
      parameters: shapes of the model's parameters by name (with `params/`).
      unused: tensors known to be of no use.

    Raises:
      CheckpointError: listing all that is missing, unexpected, or of a wrong shape or dtype.
    """
    problems = []
    for part in layout:
        info = infos.get(part.theirs)
        if info is None:
            problems.append(f"missing: {part.theirs}{did_you_mean(part.theirs, infos, limit=1)}")
            continue
        shape = list(info.shape)
        if part.their_index is not None:
            if not shape or part.their_index >= shape[part.their_axis]:
                problems.append(f"wrong shape: {part.theirs} is {info.shape}, too few layers")
                continue
            del shape[part.their_axis]
        if tuple(shape) != tuple(part.their_shape):
            layer = "" if part.their_index is None else " a layer"
            problems.append(
                f"wrong shape: {part.theirs} is {tuple(shape)}{layer}, the model has "
                f"{tuple(part.their_shape)}"
            )
        if part.ours.startswith(PARAMS) and info.dtype.name not in FLOATS:
            problems.append(f"wrong dtype: {part.theirs} is {info.dtype}, expected floats")
    known = {part.theirs for part in layout} | set(unused)
    problems += [f"unexpected: {name} {infos[name].shape}" for name in infos if name not in known]
    problems += _against_model(layout, parameters)
    if problems:
        raise CheckpointError(f"{path} does not fit its model:\n{listing(problems)}")


def _against_model(layout: Layout, parameters: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Problems of a layout (of one of our own checkpoints: of its arrays) with the model."""
    shapes = our_shapes(part for part in layout if part.ours.startswith(PARAMS))
    problems = [f"missing: {name}" for name in parameters if name not in shapes]
    for name, shape in shapes.items():
        if name not in parameters:
            problems.append(f"unexpected: {name} {shape}{did_you_mean(name, parameters, limit=1)}")
        elif tuple(parameters[name]) != shape:
            problems.append(f"wrong shape: {name} is {shape}, the model has {parameters[name]}")
    return problems


def listing(problems: Iterable[str]) -> str:
    """Indented lines, each once; only the first of very many."""
    lines = list(dict.fromkeys(problems))
    more = [f"  … and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join([*(f"  {line}" for line in lines[:_SHOWN]), *more])


def our_shapes(layout: Iterable[Part]) -> dict[str, tuple[int, ...]]:
    """Shapes of our tensors, the stacked ones with their layers in front."""
    shapes: dict[str, tuple[int, ...]] = {}
    layers: dict[str, int] = defaultdict(int)
    for part in layout:
        shapes[part.ours] = tuple(part.shape)
        if part.layer is not None:
            layers[part.ours] = max(layers[part.ours], part.layer + 1)
    return {
        name: (layers[name], *shape) if name in layers else shape for name, shape in shapes.items()
    }


def make_plan(
    infos: Mapping[str, TensorInfo],
    source: Layout,
    target: Layout,
    *,
    dtype: np.dtype | None = None,
) -> Plan:
    """Pairs the parts of two layouts.

    Args:
      infos: the source's tensors, checked (`check_source`).
      source: its layout.
      target: layout of what is to be written. A parameter that the source lacks is a problem;
        other tensors (step, optimizer) are made of zeros.
      dtype: of parameters that are written; None: as they are.

    Raises:
      CheckpointError: listing parameters that the source lacks or has in another shape.
    """
    places = {key(part): part for part in source}
    order = {key(part): position for position, part in enumerate(source)}
    moves, problems = [], []
    for part in target:
        found = places.get(key(part))
        if found is None and part.ours.startswith(PARAMS):
            problems.append(f"missing: {_show(part)}")
        elif found is not None and tuple(found.shape) != tuple(part.shape):
            problems.append(
                f"wrong shape: {_show(part)} is {found.shape} in the source, {part.shape} in the"
                " target"
            )
        else:
            moves.append(Move(found, part, _dtype(found, part, infos, dtype)))
    if problems:
        raise CheckpointError(f"source and target do not fit:\n{listing(problems)}")
    last = len(order)
    moves.sort(key=lambda move: order.get(key(move.target), last))
    wanted = {part.ours for part in target}
    dropped = dict.fromkeys(part.ours for part in source if part.ours not in wanted)
    moves, target_infos = _their_infos(moves)
    return Plan(moves, target_infos, list(dropped))


def _show(part: Part) -> str:
    return part.ours if part.layer is None else f"{part.ours} (layer {part.layer})"


def _dtype(
    found: Part | None, part: Part, infos: Mapping[str, TensorInfo], dtype: np.dtype | None
) -> np.dtype:
    if found is None:
        return np.dtype(np.int32) if not part.shape else np.dtype(np.float32)
    kept = infos[found.theirs].dtype
    if not part.ours.startswith(PARAMS):
        # T5X restores its step as float32 from Orbax and saves it so; it is a count.
        return np.dtype(np.int32) if part.ours in ("step", "opt_state/count") else kept
    scaled = any(getattr(each, "scale", 1.0) != 1.0 for each in (found, part))
    return dtype or (np.dtype(np.float32) if scaled else kept)


def _their_infos(moves: Sequence[Move]) -> tuple[list[Move], dict[str, TensorInfo]]:
    """Headers of the target's tensors, and the moves with one dtype for each."""
    groups: dict[str, list[Move]] = defaultdict(list)
    for move in moves:
        groups[move.target.theirs].append(move)
    infos = {}
    for name, group in groups.items():
        shape = list(group[0].target.their_shape)
        if group[0].target.their_index is not None:
            count = len({move.target.their_index for move in group})
            shape.insert(group[0].target.their_axis, count)
        dtypes = {move.dtype for move in group}
        infos[name] = TensorInfo(
            tuple(shape), dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
        )
    same = [dataclasses.replace(move, dtype=infos[move.target.theirs].dtype) for move in moves]
    return same, infos
