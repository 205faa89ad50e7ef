"""The loss against a direct float64 computation, its normalisations, and its split by task."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.models.encoder_decoder import EncoderDecoderModel, cross_entropy_with_logits
from flan_jax.models.t5 import T5Config

CONFIG = T5Config(
    vocab_size=32,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=24,
    dtype="float32",
)


@settings(max_examples=30, deadline=None)
@given(
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    z_loss=st.sampled_from([0.0, 1e-4, 0.1]),
    seed=st.integers(0, 1000),
)
def test_cross_entropy_from_soft_targets(smoothing, z_loss, seed):
    rng = np.random.default_rng(seed)
    logits, targets = rng.normal(size=(2, 3, 7)) * 4, rng.integers(0, 7, (2, 3))
    soft = np.full((2, 3, 7), smoothing / 6)
    np.put_along_axis(soft, targets[..., None], 1 - smoothing, axis=-1)
    log_z = np.log(np.exp(logits).sum(-1))
    entropy = -np.sum(soft * np.log(np.maximum(soft, 1e-300)), axis=-1)
    expected_z = z_loss * log_z**2
    expected = -np.sum(soft * (logits - log_z[..., None]), axis=-1) - entropy + expected_z
    loss, z_part = cross_entropy_with_logits(
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(targets),
        label_smoothing=smoothing,
        z_loss=z_loss,
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(z_part, expected_z, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def packed_batch():
    segments = np.asarray([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]], np.int32)
    tokens = np.random.default_rng(0).integers(2, 32, segments.shape).astype(np.int32)
    tokens[segments == 0] = 0
    return {
        "encoder_input_tokens": tokens,
        "encoder_segment_ids": segments,
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": tokens,
        "decoder_segment_ids": segments,
        "decoder_loss_weights": (tokens > 0).astype(np.float32),
        "decoder_task_ids": np.where(segments == 0, -1, segments * 2 - 2),
    }


@pytest.fixture(scope="module")
def token_losses(packed_batch):
    task = EncoderDecoderModel(CONFIG)
    model = jax.jit(task.init)(jax.random.key(0))
    loss, _ = cross_entropy_with_logits(
        model(packed_batch), packed_batch["decoder_target_tokens"], z_loss=task.z_loss
    )
    return model, np.asarray(loss)


def mean_per_segment(losses, segments):
    return np.mean(
        [
            losses[row, segments[row] == segment].mean()
            for row in range(2)
            for segment in np.unique(segments[row][segments[row] > 0])
        ]
    )


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (None, lambda losses, segments: losses[segments > 0].sum()),
        (233472, lambda losses, segments: losses[segments > 0].sum() / 233472),
        ("num_real_target_tokens", lambda losses, segments: losses[segments > 0].mean()),
        ("NUM_TOTAL_TARGET_TOKENS", lambda losses, segments: losses[segments > 0].sum() / 12),
        ("AVERAGE_PER_SEQUENCE", mean_per_segment),
    ],
)
def test_loss_normalizing_factors(packed_batch, token_losses, factor, expected):
    model, losses = token_losses
    task = EncoderDecoderModel(CONFIG, loss_normalizing_factor=factor)
    loss, metrics = task.loss_fn(model, packed_batch, None)
    value = expected(losses, packed_batch["decoder_segment_ids"])
    assert float(loss) == pytest.approx(float(value), rel=1e-5)
    assert float(metrics["loss"]) == float(loss)
    assert float(metrics["weight_sum"]) == 11.0


def test_average_per_sequence_of_unpacked_rows(packed_batch, token_losses):
    model, _ = token_losses
    batch = {name: x for name, x in packed_batch.items() if "segment" not in name}
    task = EncoderDecoderModel(CONFIG, loss_normalizing_factor="AVERAGE_PER_SEQUENCE")
    losses, _ = cross_entropy_with_logits(
        model(batch), batch["decoder_target_tokens"], z_loss=task.z_loss
    )
    expected = (np.asarray(losses)[0, :5].mean() + np.asarray(losses)[1].mean()) / 2
    assert float(task.loss_fn(model, batch, None)[0]) == pytest.approx(float(expected), rel=1e-5)


def test_loss_by_task(packed_batch, token_losses):
    model, _ = token_losses
    task = EncoderDecoderModel(CONFIG)
    _, metrics = jax.jit(task.loss_fn, static_argnums=3)(model, packed_batch, None, 4)
    np.testing.assert_array_equal(metrics["per_task_weight_sum"], [8, 0, 3, 0])
    plain, _ = cross_entropy_with_logits(model(packed_batch), packed_batch["decoder_target_tokens"])
    expected = np.asarray(plain)[0, 2:5].sum()
    assert float(metrics["per_task_loss"][2]) == pytest.approx(float(expected), rel=1e-5)
    total = float(metrics["per_task_loss"].sum())
    assert total == pytest.approx(float(metrics["cross_entropy"]), rel=1e-6)
    without_z = float(metrics["loss"] - metrics["z_loss"])
    assert float(metrics["cross_entropy"]) == pytest.approx(without_z, rel=1e-5)


def test_weights_default_to_real_tokens(packed_batch, token_losses):
    model, _ = token_losses
    task = EncoderDecoderModel(CONFIG)
    implicit = {n: x for n, x in packed_batch.items() if n != "decoder_loss_weights"}
    assert task.loss_fn(model, implicit, None)[0] == task.loss_fn(model, packed_batch, None)[0]


def test_accuracy_counts(packed_batch, token_losses):
    model, _ = token_losses
    predicted = np.asarray(model(packed_batch)).argmax(-1)
    batch = {**packed_batch, "decoder_loss_weights": packed_batch["decoder_loss_weights"].copy()}
    batch["decoder_loss_weights"][0, :2] = 0.0
    _, metrics = EncoderDecoderModel(CONFIG).loss_fn(model, batch, None)
    hits = (predicted == batch["decoder_target_tokens"]) * batch["decoder_loss_weights"]
    assert float(metrics["correct"]) == hits.sum()
    assert float(metrics["weight_sum"]) == 9.0


def test_unknown_factor_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'NUM_REAL_TARGET_TOKENS'"):
        EncoderDecoderModel(CONFIG, loss_normalizing_factor="NUM_REAL_TARGET_TOKEN")
