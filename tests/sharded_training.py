"""Run by test_sharding.py in a process of its own with 8 simulated devices; prints JSON."""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
import optax

from flan_jax.decoding import generate, item_keys
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import PjitPartitioner, logical_axes, named_leaves
from flan_jax.train.optimizer import Adafactor

CONFIG = T5Config(
    vocab_size=128,
    emb_dim=64,
    num_heads=4,
    num_encoder_layers=2,
    num_decoder_layers=2,
    head_dim=8,
    mlp_dim=64,
    dtype="float32",
    remat_policy="full",
)
NUM_TASKS = 3
BATCH = 8


def make_batches(count: int) -> list[dict[str, np.ndarray]]:
    """Packed rows of two segments and some padding."""
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(count):
        segments = np.repeat([[1, 1, 1, 1, 2, 2, 2, 0]], BATCH, axis=0).astype(np.int32)
        tokens = np.where(segments > 0, rng.integers(2, 128, segments.shape), 0).astype(np.int32)
        targets = np.where(segments > 0, rng.integers(2, 128, segments.shape), 0).astype(np.int32)
        shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
        shifted[:, 4] = 0
        batches.append(
            {
                "encoder_input_tokens": tokens,
                "encoder_segment_ids": segments,
                "decoder_input_tokens": shifted,
                "decoder_target_tokens": targets,
                "decoder_segment_ids": segments,
                "decoder_loss_weights": (targets > 0).astype(np.float32),
                "decoder_task_ids": np.where(segments > 0, segments - 1, -1).astype(np.int32),
            }
        )
    return batches


def train(partitioner: PjitPartitioner, devices: list[jax.Device], steps: int) -> dict:
    task = EncoderDecoderModel(CONFIG)
    # Factors some parameters and not others.
    definition = Adafactor(learning_rate=0.01, min_dim_size_to_factor=64)

    def step(model, state, batch, key):
        function = jax.value_and_grad(task.loss_fn, has_aux=True)
        (_, metrics), grads = function(model, batch, key, NUM_TASKS)
        updates, state = optimizer.update(grads, state, model)
        return optax.apply_updates(model, updates), state, metrics

    with partitioner.use(partitioner.make_mesh(devices)) as mesh:
        key = jax.random.key(0)
        shapes = jax.eval_shape(task.init, key)
        axes = logical_axes(shapes)
        optimizer = definition.create(None, axes)
        shardings = partitioner.shardings(axes, mesh, shapes)
        model = jax.jit(task.init, out_shardings=shardings)(key)
        state_shapes = jax.eval_shape(optimizer.init, shapes)
        state_axes = definition.state_axes(axes, shapes)
        state_shardings = partitioner.shardings(state_axes, mesh, state_shapes)
        state = jax.jit(optimizer.init, out_shardings=state_shardings)(model)
        jitted = jax.jit(step, donate_argnums=(0, 1))
        history = []
        for i, batch in enumerate(make_batches(steps)):
            placed = jax.device_put(batch, partitioner.batch_sharding(mesh, BATCH))
            model, state, metrics = jitted(model, state, placed, jax.random.key(i))
            history.append({name: np.asarray(value).tolist() for name, value in metrics.items()})
        kept = {
            name: value.sharding.spec == shardings_of.spec
            for tree, wanted in ((model, shardings), (state, state_shardings))
            for (name, value), shardings_of in zip(
                named_leaves(tree).items(), jax.tree.leaves(wanted), strict=True
            )
        }
        batch_sharding = partitioner.batch_sharding(mesh)
        inputs = jax.device_put(make_batches(1)[0]["encoder_input_tokens"], batch_sharding)
        keys = jax.device_put(item_keys(0, np.arange(BATCH)), batch_sharding)
        greedy = generate(model, inputs, max_decode_len=6)
        sampled = generate(model, inputs, max_decode_len=6, temperature=1.0, topk=9, keys=keys)
        wo = model.encoder.layers.mlp.wo.kernel.get_value()
        return {
            "history": history,
            "moved": [name for name, same in kept.items() if not same],
            "shard": list(wo.addressable_shards[0].data.shape),
            "greedy": np.asarray(greedy).tolist(),
            "sampled": np.asarray(sampled).tolist(),
        }


if __name__ == "__main__":
    steps = int(sys.argv[1])
    meshes = {
        "1x1x1": (PjitPartitioner(data=1), jax.devices()[:1]),
        "2x2x2": (PjitPartitioner(fsdp=2, num_partitions=2), jax.devices()),
    }
    print(json.dumps({name: train(*mesh, steps) for name, mesh in meshes.items()}))
