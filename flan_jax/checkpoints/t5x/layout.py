"""Where our tensors lie in a T5X checkpoint, with one subtree a layer or with scanned layers.

- Unscanned (T5X's examples/t5): `target/encoder/layers_3/mlp/wo/kernel`, 2-D attention kernels, one
  relative position bias a stack.
- Scanned (examples/scalable_t5): `target/encoder/encoder/mlp/wo/kernel`, layers along axis 1,
  attention kernels with an axis for heads and one for their dimensions, a bias of each layer's own.
- The latter with `scan_layers = False`: `layers_3` again, but kernels and biases as scanned.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np

from flan_jax.checkpoints.tensors import CheckpointError, Layout, Part, TensorInfo
from flan_jax.models.t5 import T5, T5Config
from flan_jax.sharding import named_leaves
from flan_jax.train.optimizer import Adafactor, factored_dims

STEP = "state/step"
_TARGET, _STATES = "target", "state/param_states"
_SLOTS = ("v_row", "v_col", "v", "m")
_STACKS = ("encoder", "decoder")
_BIAS = "relpos_bias/rel_embedding"
_FIXED_BIAS = (32, 128)  # T5X's number of buckets and largest distance
_LAYER_AXIS = 1  # T5X's param_scan_axis
_UNUSED = (1,)  # shape of a slot that a parameter does not use


class _Form(NamedTuple):
    """Which of the layouts it is."""

    scanned: bool
    split_heads: bool


class _Parameter(NamedTuple):
    """A parameter of ours: its name, its shape (of one layer of it), and how many layers it has."""

    name: str
    shape: tuple[int, ...]
    num_layers: int | None


class _Place(NamedTuple):
    """A tensor of ours, or each layer of it, and where it lies.

    Attributes:
      ours, shape: our tensor's name, and the shape of it or of one layer.
      theirs: name of theirs; if it has a `{}`, each layer is a tensor.
      their_shape: of one layer.
      axis: of the layers in theirs, None if it has no such axis.
      num_layers: of ours, None if it is not stacked.
    """

    ours: str
    shape: tuple[int, ...]
    theirs: str
    their_shape: tuple[int, ...]
    axis: int | None
    num_layers: int | None

    def parts(self) -> list[Part]:
        if self.num_layers is None:
            return [Part(self.ours, self.shape, self.theirs, self.their_shape)]
        return [
            Part(
                self.ours,
                self.shape,
                self.theirs.format(layer),
                self.their_shape,
                layer=layer,
                their_index=None if self.axis is None else layer,
                their_axis=self.axis or 0,
            )
            for layer in range(self.num_layers)
        ]


def is_scanned(infos: Iterable[str]) -> bool:
    """Whether the layers of a checkpoint with these tensors are stacked."""
    return any(name.startswith(f"{_TARGET}/{s}/{s}/") for name in infos for s in _STACKS)


def has_bias_per_layer(infos: Iterable[str]) -> bool:
    """Whether each layer has a relative position bias of its own: another architecture."""
    names = set(infos)
    shared = any(f"{_TARGET}/{stack}/{_BIAS}" in names for stack in _STACKS)
    return not shared and any(name.endswith(_BIAS) for name in names)


def t5x_layout(
    config: T5Config,
    infos_or_scanned: Mapping[str, TensorInfo] | bool,
    *,
    optimizer: bool,
    tile_bias: bool = False,
    momentum: bool = False,
    min_dim_size_to_factor: int = Adafactor.min_dim_size_to_factor,
) -> Layout:
    """Where tensors of ours (`params/…`, `opt_state/…`, `step`) lie in a T5X checkpoint.

    Args:
      config: the architecture.
      infos_or_scanned: the tensors of a checkpoint to read; or, to write one, whether its layers
        are to be stacked.
      optimizer: include Adafactor's state. Slots that a parameter does not use are (1,) zeros in
        both; those that a checkpoint does not have are left out, and are to be zeros in ours.
      tile_bias: to write a model whose layers share a bias in the scanned layout, copy it to each
        layer. The outputs stay; training there unties the copies.
      momentum: whether the optimizer's state to write has momentum (beta1).
      min_dim_size_to_factor: of our Adafactor.

    Raises:
      CheckpointError: the layout cannot hold that architecture, or our optimizer not that state
        (see `optimizer_problem`).
    """
    reading = not isinstance(infos_or_scanned, bool)
    if reading:
        form = _form(infos_or_scanned)
        _check_bias(config, infos_or_scanned)
        if optimizer:
            problem = optimizer_problem(config, infos_or_scanned, min_dim_size_to_factor)
            if problem is not None:
                raise CheckpointError(problem)
    else:
        form = _Form(infos_or_scanned, infos_or_scanned)
        _check_writable(config, form, tile_bias, optimizer)
    parts: list[Part] = []
    for parameter in _parameters(config):
        parts += _target_parts(config, parameter, form)
        if optimizer:
            found = infos_or_scanned if reading else None
            has = momentum if found is None else _has_momentum(found, parameter, form)
            places = _slots(config, parameter, form, min_dim_size_to_factor, has)
            for place in places:
                if found is None or place.theirs.format(0) in found:
                    parts += place.parts()
    if optimizer and reading:
        parts.append(Part("opt_state/count", (), STEP, ()))
    if not reading or STEP in infos_or_scanned:
        parts.append(Part("step", (), STEP, ()))
    return parts


def layout_infos(
    layout: Layout, dtype: str = "float32"
) -> tuple[dict[str, TensorInfo], dict[str, int]]:
    """What a writer of a layout declares.

    Args:
      layout: of `t5x_layout`, to write.
      dtype: of the parameters; Adafactor's state is float32, the step int32.

    Returns:
      the tensors by T5X's names, and the axes of those that are written slice by slice.
    """
    slices: dict[str, int] = {}
    infos, axes = {}, {}
    for part in layout:
        shape = part.their_shape
        if part.their_index is not None:
            slices[part.theirs] = max(slices.get(part.theirs, 0), part.their_index + 1)
            axes[part.theirs] = part.their_axis
            shape = (*shape[: part.their_axis], slices[part.theirs], *shape[part.their_axis :])
        target = part.theirs.startswith(f"{_TARGET}/")
        kind = "int32" if part.theirs == STEP else dtype if target else "float32"
        infos[part.theirs] = TensorInfo(shape, _dtype(kind))
    return infos, axes


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def optimizer_problem(
    config: T5Config,
    infos: Mapping[str, TensorInfo],
    min_dim_size_to_factor: int = Adafactor.min_dim_size_to_factor,
) -> str | None:
    """Why a checkpoint's optimizer state cannot be read into our Adafactor's; None if it can.

    T5X factors the second moments of 3-D and scanned kernels by rules over logical axes, whatever
    their size; ours, as T5X's of 2-D ones, where both dimensions are large enough.
    """
    if not any(name.startswith(f"{_STATES}/") for name in infos):
        return "the checkpoint holds no optimizer state"
    form = _form(infos)
    for parameter in _parameters(config):
        momentum = _has_momentum(infos, parameter, form)
        try:
            places = _slots(config, parameter, form, min_dim_size_to_factor, momentum)
        except CheckpointError as error:
            return str(error)
        for name, info in layout_infos([p for place in places for p in place.parts()])[0].items():
            found = infos.get(name)
            if found is None and info.shape == _UNUSED:
                continue
            if found is None or found.shape != info.shape:
                has = "missing" if found is None else f"{found.shape}"
                return f"the optimizer state {name} is {has}, our Adafactor has {info.shape}"
    return None


def _form(infos: Mapping[str, TensorInfo]) -> _Form:
    if is_scanned(infos):
        return _Form(scanned=True, split_heads=True)
    kernel = infos.get(f"{_TARGET}/decoder/layers_0/self_attention/query/kernel")
    return _Form(scanned=False, split_heads=kernel is not None and len(kernel.shape) == 3)


def _check_bias(config: T5Config, infos: Mapping[str, TensorInfo]) -> None:
    per_layer = has_bias_per_layer(infos)
    if any(_BIAS in name for name in infos) and per_layer != config.relative_attention_per_layer:
        has = "of each layer's own" if per_layer else "shared by the layers of a stack"
        raise CheckpointError(
            f"the checkpoint's relative position bias is {has}: another architecture; set"
            f" network.T5Config.relative_attention_per_layer = {per_layer}"
        )


def _check_writable(config: T5Config, form: _Form, tile_bias: bool, optimizer: bool) -> None:
    buckets = config.relative_attention_num_buckets
    if (buckets, config.relative_attention_max_distance) != _FIXED_BIAS:
        raise CheckpointError(
            "T5X's T5 has a relative position bias of {} buckets up to distance {} fixed in its"
            " code, this model of {} up to {}".format(
                *_FIXED_BIAS, buckets, config.relative_attention_max_distance
            )
        )
    if config.relative_attention_per_layer and not form.scanned:
        raise CheckpointError(
            "T5X's unscanned T5 shares one relative position bias among the layers of a stack, this"
            " model has one a layer: write the scanned layout (T5X's examples/scalable_t5; --layout"
            " scanned)"
        )
    if config.relative_attention_per_layer or not form.scanned:
        return
    if not tile_bias:
        raise CheckpointError(
            "T5X's scanned T5 has a relative position bias of each layer's own, the layers of this"
            " model share one: write the unscanned layout (--layout unscanned), or copy the bias to"
            " each layer (--tile_bias; the outputs stay, but training in T5X unties the copies)"
        )
    if optimizer:
        raise CheckpointError(
            "the optimizer's state of a shared relative position bias is not that of its copies:"
            " leave the optimizer's state out (--no_optimizer)"
        )


def _parameters(config: T5Config) -> list[_Parameter]:
    if config.lora is not None:
        raise CheckpointError("T5X has no LoRA parameters: merge them into the kernels first")
    found = []
    for name, leaf in named_leaves(_abstract(config)).items():
        shape = tuple(leaf.shape)
        stacked = "/layers/" in name
        found.append(
            _Parameter(name, shape[1:], shape[0]) if stacked else _Parameter(name, shape, None)
        )
    return found


@functools.lru_cache(maxsize=8)
def _abstract(config: T5Config) -> T5:
    return jax.eval_shape(lambda: T5(config, jax.random.key(0)))


def _target_parts(config: T5Config, parameter: _Parameter, form: _Form) -> list[Part]:
    name, shape, num_layers = parameter
    theirs = f"{_TARGET}/{_their_name(name, form)}"
    stack = name.partition("/")[0]
    if form.scanned and name == f"{stack}/{_BIAS}":  # shared in ours: each slice is the whole
        layers = config.num_encoder_layers if stack == "encoder" else config.num_decoder_layers
        theirs = f"{_TARGET}/{stack}/{stack}/{_BIAS}"
        return [
            Part(f"params/{name}", shape, theirs, shape, their_index=i, their_axis=_LAYER_AXIS)
            for i in range(layers)
        ]
    axis = _LAYER_AXIS if form.scanned and num_layers is not None else None
    their_shape = _their_shape(config, parameter, form)
    return _Place(f"params/{name}", shape, theirs, their_shape, axis, num_layers).parts()


def _their_name(name: str, form: _Form) -> str:
    stack, layers, rest = name.partition("/layers/")
    if not layers:
        return name
    return f"{stack}/{stack}/{rest}" if form.scanned else f"{stack}/layers_{{}}/{rest}"


def _their_shape(config: T5Config, parameter: _Parameter, form: _Form) -> tuple[int, ...]:
    """Of one layer."""
    names, shape = parameter.name.split("/"), parameter.shape
    if not form.split_heads or len(names) < 3 or not names[-3].endswith("attention"):
        return shape
    heads = (config.num_heads, config.head_dim)
    return (*heads, shape[1]) if names[-2] == "out" else (shape[0], *heads)


def _slots(
    config: T5Config, parameter: _Parameter, form: _Form, factor_at: int, momentum: bool
) -> list[_Place]:
    """Places of Adafactor's state of a parameter.

    Raises:
      CheckpointError: T5X factors its second moments and ours does not.
    """
    name, shape, num_layers = parameter
    dims = factored_dims(shape, factor_at)
    their_shape = _their_shape(config, parameter, form)
    stacked = form.scanned and num_layers is not None
    whole = (shape, their_shape, _LAYER_AXIS if stacked else None)
    unused = (_UNUSED, _UNUSED, None)
    used = {"v": ("v", *whole)} if dims is None else {}
    if name.endswith("/kernel") and len(their_shape) + stacked > 2:
        used = _factored_by_rules(parameter, their_shape, stacked, dims)
    elif dims is not None:
        if stacked:
            raise CheckpointError(
                f"our Adafactor factors the second moments of {name}, T5X those of a scanned bias"
                " does not: raise min_dim_size_to_factor"
            )
        for slot, dropped in (("v_row", dims[1]), ("v_col", dims[0])):
            kept = tuple(np.delete(shape, dropped).tolist())
            used[slot] = (slot, kept, kept, None)
    if momentum:
        used["m"] = ("m", *whole)
    free = [slot for slot in _SLOTS if slot not in {theirs for theirs, *_ in used.values()}]
    places = []
    for slot in _SLOTS:
        theirs, ours_shape, theirs_shape, axis = used.get(slot) or (free.pop(0), *unused)
        place = f"{_STATES}/{_their_name(name, form)}/{theirs}"
        places.append(
            _Place(f"opt_state/{slot}/{name}", ours_shape, place, theirs_shape, axis, num_layers)
        )
    return places


_Used = dict[str, tuple[str, tuple[int, ...], tuple[int, ...], int | None]]


def _factored_by_rules(
    parameter: _Parameter,
    their_shape: tuple[int, ...],
    stacked: bool,
    dims: tuple[int, int] | None,
) -> _Used:
    """Used slots of a kernel that T5X factors by its standard_logical_factor_rules.

    There v_row keeps the axis "embed" and v_col the others; in ours v_row keeps the smaller
    dimension, v_col the larger one. The estimate, row times column over their mean, is symmetric in
    the two, so where they have changed places they are swapped.
    """
    if dims is None:
        raise CheckpointError(
            f"T5X factors the second moments of {parameter.name} by its logical_factor_rules, our"
            f" Adafactor does not: a layer's {parameter.shape} is smaller than"
            " min_dim_size_to_factor"
        )
    embed_last = parameter.name.endswith(("/out/kernel", "/wo/kernel"))
    embed = len(their_shape) - 1 if embed_last else 0
    rows = (their_shape[embed],)
    columns = tuple(np.delete(their_shape, embed).tolist())
    # Layers are the second axis of the kernel: what is left of the first one precedes them.
    row_axis, column_axis = (0, 1) if embed_last else (1, 0)
    theirs = {
        True: ("v_row", rows, row_axis if stacked else None),
        False: ("v_col", columns, column_axis if stacked else None),
    }
    embed_dim = 1 if embed_last else 0
    used: _Used = {}
    for slot, kept in (("v_row", dims[0]), ("v_col", dims[1])):
        their_slot, shape, axis = theirs[kept == embed_dim]
        used[slot] = (their_slot, (parameter.shape[kept],), shape, axis)
    return used


def _has_momentum(infos: Mapping[str, TensorInfo], parameter: _Parameter, form: _Form) -> bool:
    theirs = _their_name(parameter.name, form).format(0)
    info = infos.get(f"{_STATES}/{theirs}/m")
    target = infos.get(f"{_TARGET}/{theirs}")
    return info is not None and target is not None and info.shape == target.shape != _UNUSED
