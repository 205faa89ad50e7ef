"""Run by test_meshes.py in a process of its own with 8 simulated devices; prints JSON.

Trains one model class on every mesh of 8 devices: packed rows, two microbatches, Adafactor, by the
parts that a run is made of.
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import jax
import numpy as np

from flan_jax.data.decoder_only import build_decoder_only_row
from flan_jax.data.packing import TokenizedExample, build_row
from flan_jax.models.decoder_only import DecoderOnlyModel
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import PjitPartitioner, named_leaves, standard_logical_axis_rules
from flan_jax.train.optimizer import Adafactor
from flan_jax.train.setup import Setup, abstract_train_state
from flan_jax.train.state import TrainState
from flan_jax.train.step import Trainer, make_train_step

BATCH, TASKS, VOCABULARY = 16, 3, 64
LENGTHS = (16, 8)  # of inputs and targets; the decoder-only model's rows are as long as the first
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "emb_dim": 16,
    "num_heads": 8,
    "head_dim": 4,
    "mlp_dim": 32,
    "dtype": "float32",
}
# Small enough a rate that rounding does not grow from step to step.
OPTIMIZER = Adafactor(learning_rate=0.01, min_dim_size_to_factor=16)


def make_model(name: str, remat_policy: str) -> EncoderDecoderModel | DecoderOnlyModel:
    """A tiny model of the class that `name` stands for."""
    common = {**COMMON, "remat_policy": remat_policy}
    about: dict[str, Any] = {
        "optimizer_def": OPTIMIZER,
        "loss_normalizing_factor": "NUM_REAL_TARGET_TOKENS",
    }
    if name == "palm":
        return DecoderOnlyModel(PalmConfig(**common, num_layers=2), **about)
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 2}
    return EncoderDecoderModel(T5Config(**common, **layers, dropout_rate=0.0), **about)


def meshes() -> dict[str, PjitPartitioner]:
    """Every ordered factorisation of 8 into copies, fsdp and tensor, and splits of copies.

    Copies are `data` or `replica` in turn. With tensor > 1 also with activations split along
    length (activation_partitioning_dims=2).
    """
    found = {}
    sizes = [s for s in itertools.product((1, 2, 4, 8), repeat=3) if np.prod(s) == 8]
    for number, (copies, fsdp, tensor) in enumerate(sizes):
        replica, data = (copies, 1) if number % 2 else (1, copies)
        if copies == 4:
            replica, data = 2, 2
        for dims in (1, 2) if tensor > 1 else (1,):
            found[f"{replica}x{data}x{fsdp}x{tensor} dims {dims}"] = PjitPartitioner(
                replica=replica,
                data=data,
                fsdp=fsdp,
                tensor=tensor,
                logical_axis_rules=standard_logical_axis_rules(activation_partitioning_dims=dims),
            )
    return found


def packed_batches(name: str, count: int) -> list[dict[str, np.ndarray]]:
    """Rows of two or three examples, the last row of all empty."""
    rng = np.random.default_rng(0)

    def row(length: int) -> dict[str, np.ndarray]:
        examples = [
            TokenizedExample(
                rng.integers(2, VOCABULARY, rng.integers(2, 5)).astype(np.int32),
                rng.integers(2, VOCABULARY, rng.integers(1, 3)).astype(np.int32),
                int(rng.integers(TASKS)),
            )
            for _ in range(length)
        ]
        if name == "palm":
            return build_decoder_only_row(examples[:2], LENGTHS[0])
        return build_row(examples, LENGTHS)

    batches = []
    for _ in range(count):
        rows = [row(i % 2 + 2) for i in range(BATCH - 1)] + [row(0)]
        batches.append({key: np.stack([each[key] for each in rows]) for key in rows[0]})
    return batches


def make_setup(
    name: str, partitioner: PjitPartitioner, devices: list[Any], remat_policy: str
) -> Setup:
    """As `flan_jax.train.setup.make_setup` does, without data."""
    model, trainer = make_model(name, remat_policy), Trainer(num_microbatches=2)
    mesh = partitioner.make_mesh(devices)
    optimizer, abstract = abstract_train_state(model, trainer, partitioner, mesh)
    maker: Any = None
    return Setup(model, trainer, optimizer, partitioner, mesh, maker, abstract, 0, None)


def train(name: str, setup: Setup, initial: TrainState, steps: int) -> Any:
    """Loss a target token of each step, and what of the state is not where it belongs."""
    abstract, model = setup.abstract_state, setup.model
    with setup.use_mesh():
        # By leaves: the model's configuration, which the tree holds too, has another policy.
        leaves = [
            jax.device_put(leaf, like.sharding)
            for leaf, like in zip(jax.tree.leaves(initial), jax.tree.leaves(abstract), strict=True)
        ]
        state = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
        step = jax.jit(make_train_step(model, setup.optimizer, setup.trainer, setup.key(1), TASKS))
        losses = []
        for batch in packed_batches(name, steps):
            state, sums = step(state, setup.put_batch(batch))
            losses.append(float(sums["cross_entropy"] / sums["weight_sum"]))
    wanted = jax.tree.leaves(abstract)
    moved = [
        leaf_name
        for (leaf_name, leaf), want in zip(named_leaves(state).items(), wanted, strict=True)
        if not leaf.sharding.is_equivalent_to(want.sharding, leaf.ndim)
    ]
    return {"losses": losses, "moved": moved}


if __name__ == "__main__":
    model_name, num_steps = sys.argv[1], int(sys.argv[2])
    alone = make_setup(model_name, PjitPartitioner(), jax.devices()[:1], "none")
    with alone.use_mesh():
        initial_state = jax.device_get(alone.fresh_state())
    results = {"one": train(model_name, alone, initial_state, num_steps)}
    for number, (mesh_name, each) in enumerate(meshes().items()):
        if len(sys.argv) < 4 or mesh_name in sys.argv[3:]:
            # The policy that gathers parameters for all layers, and the one that does each alone.
            policy = ("full", "parameters")[number % 2]
            setup = make_setup(model_name, each, jax.devices(), policy)
            results[mesh_name] = train(model_name, setup, initial_state, num_steps)
            print(mesh_name, results[mesh_name], file=sys.stderr, flush=True)
    print(json.dumps(results))
