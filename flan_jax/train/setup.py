"""Everything a run needs, made and checked before the first step: mesh, data, state, functions."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flan_jax.checkpoints.initial import resolve_path, restore_initial
from flan_jax.checkpoints.manager import CheckpointConfig
from flan_jax.data.examples import ExampleMaker
from flan_jax.data.reader import Batch, DatasetConfig
from flan_jax.data.seqio_reader import SeqioExamples
from flan_jax.errors import UserError
from flan_jax.global_batches import global_batch
from flan_jax.models.language_model import LanguageModel
from flan_jax.sharding import PjitPartitioner, logical_axes, named_leaves, with_shardings
from flan_jax.train.state import TrainState
from flan_jax.train.step import Trainer, check_parts


@dataclass(frozen=True)
class Setup:
    """The fixed parts of a run.

    Attributes:
      model, trainer, optimizer, partitioner: as configured.
      mesh: the devices.
      maker: makes training examples.
      abstract_state: shapes, dtypes and shardings of the train state.
      seed: the run's seed.
      rng_impl: name of JAX's random generator; None for its default.
    """

    model: LanguageModel
    trainer: Trainer
    optimizer: optax.GradientTransformationExtraArgs
    partitioner: PjitPartitioner
    mesh: Mesh
    maker: ExampleMaker | SeqioExamples
    abstract_state: TrainState
    seed: int
    rng_impl: str | None

    @contextlib.contextmanager
    def use_mesh(self) -> Iterator[None]:
        """Makes the mesh current; every computation runs inside."""
        with self.partitioner.use(self.mesh):
            yield

    def key(self, purpose: int) -> jax.Array:
        """A key that depends on the seed and purpose alone: 0 parameters, 1 dropout."""
        return jax.random.fold_in(jax.random.key(self.seed, impl=self.rng_impl), purpose)

    @property
    def batch_sharding(self) -> NamedSharding:
        """How the rows of a batch are split over the mesh."""
        return self.partitioner.batch_sharding(self.mesh)

    def put_batch(self, batch: Batch) -> dict[str, jax.Array]:
        """This process's rows [rows, …] as part of global arrays split over the mesh."""
        return global_batch(batch, self.batch_sharding)

    def fresh_state(self) -> TrainState:
        """A state with random parameters, created where it will live."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        init = jax.jit(self._init, out_shardings=shardings)
        return init(self.key(0))

    def _init(self, key: jax.Array) -> TrainState:
        selected = self.trainer.select(self.abstract_state.params)
        params: Any = selected.stored(self.model.init(key))
        opt_state = self.optimizer.init(selected.of(params))
        return TrainState(jax.numpy.zeros((), jax.numpy.int32), params, opt_state)

    def initial_state(self, checkpoints: CheckpointConfig | None) -> tuple[TrainState, str | None]:
        """The state a new run begins with, and the checkpoint it came from (None: from scratch).

        As in T5X, step and optimizer state of the checkpoint go on, if it has them.
        """
        restore = checkpoints.restore if checkpoints else None
        path = resolve_path(restore)
        if path is None:
            return self.fresh_state(), None
        abstract = self.abstract_state
        found = restore_initial(path, self.model, abstract, restore, self._fresh_leaves)
        return TrainState(**found), path

    def _fresh_leaves(self, names: Collection[str]) -> dict[str, jax.Array]:
        """Some leaves of `fresh_state`, by name; the others take no memory."""
        leaves = named_leaves(self.abstract_state)

        def init(key: jax.Array) -> dict[str, jax.Array]:
            made = named_leaves(self._init(key))
            return {name: made[name] for name in names}

        return jax.jit(init, out_shardings={n: leaves[n].sharding for n in names})(self.key(0))


def make_setup(
    model: LanguageModel,
    trainer: Trainer,
    partitioner: PjitPartitioner,
    dataset: DatasetConfig,
    seed: int,
    rng_impl: str | None = None,
) -> Setup:
    """Makes and checks the fixed parts of a run; allocates nothing on the devices.

    Raises:
      UserError: there is no optimizer or vocabulary, vocabulary and model do not fit, the mesh
        does not fit the devices or the model, or the dataset is at fault.
    """
    _check_vocabularies(model)
    check_parts(dataset.batch_size, trainer.parts)
    maker = dataset.example_maker(model.input_vocabulary, model.output_vocabulary, seed)
    try:
        mesh = partitioner.make_mesh()
        partitioner.batch_sharding(mesh, dataset.batch_size // trainer.parts)
    except ValueError as error:
        raise UserError(str(error)) from error
    optimizer, abstract = abstract_train_state(model, trainer, partitioner, mesh)
    return Setup(model, trainer, optimizer, partitioner, mesh, maker, abstract, seed, rng_impl)


def abstract_train_state(
    model: LanguageModel,
    trainer: Trainer,
    partitioner: PjitPartitioner,
    mesh: Mesh | AbstractMesh,
) -> tuple[optax.GradientTransformationExtraArgs, TrainState]:
    """The optimizer, and the train state's shapes, dtypes and shardings; allocates nothing.

    Needs neither data nor vocabularies nor, with an AbstractMesh, devices.

    Raises:
      UserError: there is no optimizer, or the mesh does not fit the model.
    """
    try:
        optimizer, shapes, axes = train_state_axes(model, trainer)
        return optimizer, with_shardings(shapes, partitioner.shardings(axes, mesh, shapes))
    except ValueError as error:
        raise UserError(str(error)) from error


def train_state_axes(
    model: LanguageModel, trainer: Trainer
) -> tuple[optax.GradientTransformationExtraArgs, TrainState, TrainState]:
    """The optimizer, and the train state's shapes and logical axes, on no mesh yet.

    Raises:
      UserError: there is no optimizer, or `trainer` selects no parameters.
    """
    definition = model.optimizer_def
    if definition is None:
        raise UserError(f"models.{type(model).__name__}.optimizer_def is not set: bind OPTIMIZER")
    params = jax.eval_shape(model.init, jax.random.key(0))
    axes = logical_axes(params)
    selected = trainer.select(params)
    params = selected.stored(params)
    trained, trained_axes = selected.of(params), selected.of(axes)
    optimizer = definition.create(trainer.learning_rate_fn, trained_axes)
    opt_state = jax.eval_shape(optimizer.init, trained)
    step: Any = jax.ShapeDtypeStruct((), np.int32)
    shapes = TrainState(step, params, opt_state)
    opt_axes = definition.state_axes(trained_axes, trained)
    return optimizer, shapes, TrainState(P(), axes, opt_axes)  # pyright: ignore[reportArgumentType]


def _check_vocabularies(model: LanguageModel) -> None:
    size = model.module.vocab_size
    for name in ("input_vocabulary", "output_vocabulary"):
        vocabulary = getattr(model, name)
        if vocabulary is None:
            raise UserError(f"{name} of {type(model).__name__} is not set: bind VOCABULARY")
        if vocabulary.vocab_size > size:
            raise UserError(
                f"{name} has {vocabulary.vocab_size} ids, the model's vocab_size is only {size}: "
                f"set network.{type(model.module).__name__}.vocab_size to the number of rows of "
                "the embedding, at least the vocabulary's size"
            )
