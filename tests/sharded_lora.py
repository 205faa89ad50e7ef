"""Run by test_frozen.py in a process of its own with 8 simulated devices; prints JSON."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np

from flan_jax.checkpoints.manager import parameter_hash
from flan_jax.models.decoder_only import DecoderOnlyModel
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.lora import LoraConfig, is_adapter, merge_lora
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import PjitPartitioner, logical_axes, named_leaves
from flan_jax.train.optimizer import Adafactor
from flan_jax.train.state import TrainState
from flan_jax.train.step import Trainer, make_train_step
from tests.sharded_training import BATCH, NUM_TASKS, make_batches

# Every kind of kernel: split along either dimension, or along none but the layers.
LORA = LoraConfig(rank=4, targets=("attention/.*", "mlp/w.*", "logits_dense"), dropout=0.1)
SIZES = {
    "vocab_size": 128,
    "emb_dim": 32,
    "num_heads": 4,
    "head_dim": 8,
    "mlp_dim": 32,
    "dropout_rate": 0.1,
    "dtype": "float32",
    "remat_policy": "full",
    "lora": LORA,
}
T5 = T5Config(num_encoder_layers=2, num_decoder_layers=2, **SIZES)
# Squared gradients are compared with epsilon1: else those that are but rounding errors, of whatever
# size, would be scaled up to steps as large as any.
OPTIMIZER = Adafactor(learning_rate=0.01, multiply_by_parameter_scale=False, epsilon1=1e-6)
PALM = PalmConfig(num_layers=2, logits_via_embedding=False, **SIZES)


def train(model: Any, partitioner: PjitPartitioner, devices: list[Any], steps: int) -> dict:
    trainer = Trainer(trainable=(".*norm/scale",), frozen=("encoder/.*norm.*",))
    if isinstance(model.module, PalmConfig):
        trainer = Trainer(num_microbatches=2)
    with partitioner.use(partitioner.make_mesh(devices)) as mesh:
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        axes, selected = logical_axes(shapes), trainer.select(shapes)
        shardings = partitioner.shardings(axes, mesh, shapes)
        params = jax.device_put(values_like(shapes), shardings)
        frozen = selected_hash(params, selected.names)
        optimizer = OPTIMIZER.create(None, selected.of(axes))
        state_axes = OPTIMIZER.state_axes(selected.of(axes), selected.of(shapes))
        zeros = jax.eval_shape(optimizer.init, selected.of(shapes))
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), zeros)
        opt_state = jax.device_put(zeros, partitioner.shardings(state_axes, mesh))
        state = TrainState(jax.numpy.zeros((), jax.numpy.int32), params, opt_state)
        step = make_train_step(model, optimizer, trainer, jax.random.key(1), NUM_TASKS)
        step = jax.jit(step, donate_argnums=0)
        losses = []
        for batch in make_batches(steps):
            placed = jax.device_put(batch, partitioner.batch_sharding(mesh, BATCH))
            state, metrics = step(state, placed)
            losses.append(float(metrics["loss"] / metrics["weight_sum"]))
        merged = jax.jit(merge_lora)(state.params)
        moved = [
            name
            for (name, leaf), wanted in zip(
                named_leaves(state.params).items(), jax.tree.leaves(shardings), strict=True
            )
            if leaf.sharding.spec != wanted.spec
        ]
        name = "decoder/layers/mlp/wo/kernel"
        return {
            "losses": losses,
            "moved": moved,
            "frozen_kept": selected_hash(state.params, selected.names) == frozen,
            "adapters": {
                n: np.asarray(x).ravel()[:8].tolist()
                for n, x in named_leaves(state.params).items()
                if is_adapter(n)
            },
            "merged": np.asarray(named_leaves(merged)[name])[0, :2, :4].tolist(),
            "layout_of_merged": str(named_leaves(merged)[name].sharding.spec),
        }


def values_like(shapes: Any) -> Any:
    """Parameters of these shapes, made without compiling anything."""
    rng = np.random.default_rng(0)
    leaves = [
        # Saturated attention would have gradients of rounding errors, which Adafactor normalises.
        (rng.normal(0, 0.1, leaf.shape) + name.endswith("/scale")).astype(np.float32)
        for name, leaf in named_leaves(shapes).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def selected_hash(params: Any, trained: frozenset[str]) -> str:
    return parameter_hash({n: x for n, x in named_leaves(params).items() if n not in trained})


if __name__ == "__main__":
    meshes = {
        "1x1x1": (PjitPartitioner(data=1), jax.devices()[:1]),
        "2x2x2": (PjitPartitioner(fsdp=2, num_partitions=2), jax.devices()),
    }
    models = {
        "t5": EncoderDecoderModel(T5, optimizer_def=OPTIMIZER),
        "palm": DecoderOnlyModel(PALM, optimizer_def=OPTIMIZER),
    }
    results = {
        kind: {name: train(model, *mesh, steps=3) for name, mesh in meshes.items()}
        for kind, model in models.items()
    }
    print(json.dumps(results))
