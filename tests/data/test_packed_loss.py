"""A model's loss of packed rows is that of the same examples, each in a row of its own."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from flan_jax.data.packing import TokenizedExample, build_row, pack_best_fit
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.t5 import T5Config

CAPACITY = (24, 12)
NUM_TASKS = 3
SEGMENTS = ("encoder_segment_ids", "decoder_segment_ids")
MODEL = EncoderDecoderModel(
    T5Config(
        vocab_size=64,
        emb_dim=16,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        head_dim=8,
        mlp_dim=24,
        dtype="float32",
    )
)


def batch_of(rows):
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def examples():
    rng = np.random.default_rng(0)

    def tokens(longest):
        return rng.integers(2, 64, rng.integers(1, longest + 1)).astype(np.int32)

    return [TokenizedExample(tokens(14), tokens(8), i % NUM_TASKS) for i in range(20)]


@jax.jit
def loss_of(params, batch):
    def loss(params):
        return MODEL.loss_fn(params, batch, None, num_tasks=NUM_TASKS)

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.mark.slow
def test_packed_rows_have_the_loss_and_gradient_of_unpacked_ones():
    made = examples()
    groups = pack_best_fit([(len(e.inputs), len(e.targets)) for e in made], CAPACITY)
    assert len(groups) < len(made) / 1.5
    packed = batch_of([build_row([made[i] for i in group], CAPACITY) for group in groups])
    alone = batch_of([build_row([e], CAPACITY, packed=False) for e in made])
    params = MODEL.init(jax.random.key(0))
    (found, metrics), gradient = loss_of(params, packed)
    (expected, expected_metrics), expected_gradient = loss_of(params, alone)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name in ("weight_sum", "correct", "per_task_loss", "per_task_weight_sum"):
        np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=1e-5)
    leaves = zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True)
    for ours, theirs in leaves:
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4 * np.abs(theirs).max())
    # It would be another loss if examples saw each other.
    mixed = packed | {name: (packed[name] > 0).astype(np.int32) for name in SEGMENTS}
    assert abs(loss_of(params, mixed)[0][0] - expected) > 1e-3 * expected
