"""The steps of a run as programs to be compiled: jitted function, shapes and shardings.

What is traced is what `train`, its evaluation and `eval` run. Nothing is allocated, and neither
data nor vocabularies are read: the mesh may be of devices that do not exist here.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Key

from flan_jax.data.packing import Row
from flan_jax.data.reader import DatasetConfig
from flan_jax.data.row_format import row_format
from flan_jax.errors import UserError
from flan_jax.models.language_model import LanguageModel
from flan_jax.plan.largest_arrays import largest_arrays
from flan_jax.plan.traced_step import TracedStep
from flan_jax.sharding import PjitPartitioner, logical_axes, named_leaves, with_shardings
from flan_jax.train.setup import abstract_train_state
from flan_jax.train.state import TrainState
from flan_jax.train.step import Trainer, check_parts, make_eval_step, make_train_step

StepKind = Literal["train", "eval", "decode"]
STEP_KINDS: tuple[StepKind, ...] = get_args(StepKind)


@dataclass(frozen=True)
class DecodeShape:
    """What a decoding step is given.

    Attributes:
      batch_size: prompts, over all devices.
      inputs_length: tokens of a prompt.
      max_decode_len: tokens of an answer.
    """

    batch_size: int
    inputs_length: int
    max_decode_len: int

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise UserError(f"--{name} must be at least 1, found {value}")


@dataclass(frozen=True)
class PlannedRun:
    """The configured parts of a run that its steps depend on.

    Attributes:
      model, trainer, partitioner: as `train_script.train` has them.
      dataset: rows of a training batch; None if only decoding is configured.
      eval_dataset: rows of an evaluation batch; None if nothing is evaluated.
      decode: what is decoded.
      num_tasks: tasks that the loss is split by.
      total_steps: steps of the run; 0 if not known.
      rng_impl: name of JAX's random generator; None for its default.
    """

    model: LanguageModel
    trainer: Trainer
    partitioner: PjitPartitioner
    dataset: DatasetConfig | None
    eval_dataset: DatasetConfig | None
    decode: DecodeShape | None
    num_tasks: int = 1
    total_steps: int = 0
    rng_impl: str | None = None

    @property
    def default_step(self) -> StepKind:
        """The step that the configuration is about."""
        return "train" if self.dataset is not None else "decode"

    def state(self, mesh: Mesh | AbstractMesh) -> TrainState:
        """Shapes, dtypes and shardings of the train state."""
        return abstract_train_state(self.model, self.trainer, self.partitioner, mesh)[1]

    def rows(self, step: StepKind) -> int:
        """Rows of the step's batch, over all devices. Raises UserError if none are configured."""
        return _configured(self, step).batch_size

    def tokens(self, step: StepKind) -> int:
        """Positions that a step goes through, padding included; for decoding: tokens written."""
        shape = _configured(self, step)
        if isinstance(shape, DecodeShape):
            return shape.batch_size * shape.max_decode_len
        return shape.batch_size * sum(shape.capacity)

    def check_batch(self, step: StepKind, mesh: Mesh | AbstractMesh) -> None:
        """Raises UserError unless the step's batch can be split over the mesh."""
        rows, parts = self.rows(step), 1
        if step == "train":
            parts = self.trainer.parts
            check_parts(rows, parts)
        self.partitioner.batch_sharding(mesh, rows // parts)


def trace_step(run: PlannedRun, step: StepKind, mesh: Mesh) -> TracedStep:
    """A step traced on a mesh, and the forward pass that its model FLOPs are counted from.

    Raises:
      UserError: the mesh does not fit the model or the batch, or the step is not configured.
    """
    run.check_batch(step, mesh)
    if step == "decode":
        return _trace_decoding(run, mesh)
    optimizer, state = abstract_train_state(run.model, run.trainer, run.partitioner, mesh)
    held = {"parameters": state.params}
    # Made before the mesh is current: keys are values, and the mesh's devices hold none.
    key = jax.random.key(0, impl=run.rng_impl)
    with run.partitioner.use(mesh):
        held["batch"] = batch = abstract_batch(run, step, mesh)
        if step == "eval":
            traced = _eval_function(run).trace(state.params, batch)
        else:
            held["optimizer"] = state.opt_state
            traced = _train_function(run, optimizer, key).trace(state, batch)
        forward = _eval_function(run).trace(state.params, batch)
    passes = _passes(run, state.params) if step == "train" else 1
    return TracedStep(traced, forward, passes, run.tokens(step), 1, _info(held, traced))


def _trace_decoding(run: PlannedRun, mesh: Mesh) -> TracedStep:
    """Decoding has parameters only: an evaluation's files say nothing of an optimizer."""
    shape = _configured(run, "decode")
    assert isinstance(shape, DecodeShape)
    params = _abstract_params(run, mesh)
    with run.partitioner.for_decoding().use(mesh):
        prompts = _decode_inputs(run, mesh)
        traced = _decode_function(run).trace(params, prompts)
        forward = _eval_function(run).trace(params, _scored_batch(run, mesh))
    info = _info({"parameters": params, "batch": prompts}, traced)
    return TracedStep(traced, forward, 1, run.tokens("decode"), shape.max_decode_len, info)


def _abstract_params(run: PlannedRun, mesh: Mesh) -> Any:
    params = jax.eval_shape(run.model.init, jax.random.key(0))
    axes = logical_axes(params)
    params = run.trainer.select(params).stored(params)
    try:
        return with_shardings(params, run.partitioner.shardings(axes, mesh, params))
    except ValueError as error:
        raise UserError(str(error)) from error


def _info(held: dict[str, Any], traced: Any) -> dict[str, Any]:
    return {
        "held_bytes": {name: bytes_per_device(tree) for name, tree in held.items()},
        "largest_arrays": largest_arrays(traced.jaxpr),
    }


def abstract_batch(
    run: PlannedRun, step: StepKind, mesh: Mesh | AbstractMesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays of a packed batch of the model's rows, by name."""
    dataset = _configured(run, step)
    if isinstance(dataset, DecodeShape):
        raise TypeError("a decoding step has no rows")
    row = dataset.for_model(run.model).row_format.row([])
    return _batch_of(run, dataset.batch_size, row, mesh)


def _batch_of(
    run: PlannedRun, rows: int, row: Row, mesh: Mesh | AbstractMesh
) -> dict[str, jax.ShapeDtypeStruct]:
    sharding = run.partitioner.batch_sharding(mesh, rows)
    return {
        name: jax.ShapeDtypeStruct((rows, *array.shape), array.dtype, sharding=sharding)
        for name, array in row.items()
    }


def bytes_per_device(tree: Any) -> int:
    """Bytes that each device holds of a tree of shapes with shardings."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * _itemsize(leaf.dtype)
        for leaf in jax.tree.leaves(tree)
    )


def _itemsize(dtype: Any) -> int:
    return np.dtype(dtype).itemsize


def _configured(run: PlannedRun, step: StepKind) -> DatasetConfig | DecodeShape:
    shapes = {"train": run.dataset, "eval": run.eval_dataset, "decode": run.decode}
    shape = shapes[step]
    if shape is None:
        where = {
            "train": "train_script.train.train_dataset_cfg",
            "eval": "train_script.train.train_eval_dataset_cfg",
            "decode": "--batch_size, --inputs_length and --max_decode_len",
        }
        raise UserError(
            f"--step {step}: the gin files do not say how large a batch is; set {where[step]}"
        )
    return shape


def _decode_inputs(run: PlannedRun, mesh: Mesh) -> jax.ShapeDtypeStruct:
    shape = _configured(run, "decode")
    assert isinstance(shape, DecodeShape)
    sharding = run.partitioner.batch_sharding(mesh, shape.batch_size)
    return jax.ShapeDtypeStruct(
        (shape.batch_size, shape.inputs_length), np.int32, sharding=sharding
    )


def _scored_batch(run: PlannedRun, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Rows with the tokens that decoding reads and writes, whose products are as many."""
    shape = _configured(run, "decode")
    assert isinstance(shape, DecodeShape)
    lengths = (shape.inputs_length, shape.max_decode_len)
    row = row_format(run.model.row_kind, lengths, packed=False).row([])
    return _batch_of(run, shape.batch_size, row, mesh)


def _passes(run: PlannedRun, params: Any) -> int:
    """Forward passes that a training step's products are worth.

    Three: gradients of activations and of parameters are as many products each. Frozen parameters
    have none, and where most are frozen (LoRA) the rest is neglected.
    """
    sizes = {name: leaf.size for name, leaf in named_leaves(params).items()}
    trained = run.trainer.select(params).names
    return 3 if 2 * sum(sizes[name] for name in trained) >= sum(sizes.values()) else 2


def _train_function(run: PlannedRun, optimizer: Any, key: Key[Array, ""]) -> Any:
    """The training step as the loop compiles it; the state is overwritten."""
    step = make_train_step(run.model, optimizer, run.trainer, key, run.num_tasks)
    return jax.jit(step, donate_argnums=0)


def _eval_function(run: PlannedRun) -> Any:
    """Loss on a batch."""
    return jax.jit(make_eval_step(run.model, run.num_tasks))


def _decode_function(run: PlannedRun) -> Any:
    """Greedy decoding as evaluation does it."""
    from flan_jax.decoding import generate  # not needed to train

    shape = _configured(run, "decode")
    assert isinstance(shape, DecodeShape)
    bidirectional = getattr(run.model, "inputs_bidirectional_attention", False)
    return jax.jit(
        functools.partial(
            generate,
            max_decode_len=shape.max_decode_len,
            inputs_bidirectional_attention=bidirectional,
        )
    )
