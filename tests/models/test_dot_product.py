"""Which keys are seen, and one result whatever computes attention."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh

from flan_jax.kernels import flash_attention, on_mesh
from flan_jax.models.decoder_only import DecoderOnlyModel
from flan_jax.models.dot_product import Visibility, kept_keys, resolve, segments_of
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config


def sees(
    query: int, key: int, segments: list[int], causal: bool, prefix: list[bool] | None
) -> bool:
    """The rule, pair by pair."""
    if 0 in (segments[query], segments[key]) or segments[query] != segments[key]:
        return False
    both = prefix is not None and prefix[query] and prefix[key]
    return not causal or key <= query or both


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=8),
    st.booleans(),
    st.none() | st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_visibility_is_the_rule_pair_by_pair(segments, causal, prefix):
    ids = jnp.asarray([segments], jnp.int32)
    length = len(segments)
    marked = None if prefix is None or not causal else jnp.asarray([prefix[:length]])
    mask = Visibility(ids, ids, causal=causal, prefix=marked).mask()[0]
    expected = [
        [sees(q, k, segments, causal, None if marked is None else prefix) for k in range(length)]
        for q in range(length)
    ]
    np.testing.assert_array_equal(mask, expected)


def test_segments_of_rows():
    real = jnp.asarray([[True, True, False]])
    assert segments_of(real, None).tolist() == [[1, 1, 0]]
    # A segment numbered 0 is one, too: padding is what is not real.
    assert segments_of(real, jnp.asarray([[0, 1, 1]])).tolist() == [[1, 2, 0]]


def fake_mesh(platform: str, kind: str):
    device = dataclasses.make_dataclass("Device", ["platform", "device_kind"])(platform, kind)
    mesh = dataclasses.make_dataclass("Mesh", ["abstract_device"])(device)
    mesh.empty = False
    return lambda: mesh


@pytest.mark.parametrize(
    ("platform", "kind", "dtype", "expected"),
    [
        ("tpu", "TPU v4", "bfloat16", "flash"),
        ("tpu", "TPU v4", "float32", "flash"),
        ("tpu", "TPU v3", "bfloat16", "plain"),
        ("cuda", "NVIDIA H100", "bfloat16", "cudnn"),
        ("cuda", "NVIDIA H100", "float32", "plain"),
        ("cpu", "cpu", "bfloat16", "plain"),
    ],
)
def test_auto_goes_by_the_mesh(monkeypatch, platform, kind, dtype, expected):
    monkeypatch.setattr(jax.sharding, "get_abstract_mesh", fake_mesh(platform, kind))
    assert resolve("auto", dtype) == expected
    assert resolve("plain", dtype) == "plain"


def test_auto_without_a_mesh_is_plain():
    assert resolve("auto", "bfloat16") == "plain"


def test_kept_keys_are_scaled_and_shared_by_all_queries():
    assert kept_keys((2, 3, 4), 0.5, None, jnp.dtype("float32")) is None
    kept = kept_keys((2, 300, 4), 0.25, jax.random.key(0), jnp.dtype("float32"))
    assert kept is not None
    assert kept.shape == (2, 4, 300)
    assert set(np.unique(kept)) == {np.float32(0), np.float32(1 / 0.75)}
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.05)


def t5_task(attention: str) -> EncoderDecoderModel:
    sizes = {"emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 16}
    layers = {"num_encoder_layers": 1, "num_decoder_layers": 1}
    common = {"dropout_rate": 0.2, "dtype": "float32", "attention": attention}
    return EncoderDecoderModel(T5Config(vocab_size=32, **sizes, **layers, **common))


def palm_task(attention: str) -> DecoderOnlyModel:
    sizes = {"emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 16, "num_layers": 1}
    common = {"dropout_rate": 0.2, "dtype": "float32", "attention": attention}
    config = PalmConfig(vocab_size=32, **sizes, **common)
    return DecoderOnlyModel(config, inputs_bidirectional_attention=True)


def packed_batch(length: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    segments = np.repeat(np.repeat([[1, 2, 0]], length // 3 + 1, axis=1)[:, :length], 2, axis=0)
    segments = np.sort(np.where(segments == 0, 3, segments), axis=1) % 3
    tokens = np.where(segments > 0, rng.integers(2, 32, segments.shape), 0)
    batch = {f"{side}_segment_ids": segments for side in ("encoder", "decoder")}
    batch |= {"encoder_input_tokens": tokens, "decoder_input_tokens": np.roll(tokens, 1, axis=1)}
    batch |= {"decoder_target_tokens": tokens, "decoder_causal_attention": segments == 1}
    return {name: jnp.asarray(rows, jnp.int32) for name, rows in batch.items()}


@pytest.mark.slow
@pytest.mark.parametrize("make", [t5_task, palm_task])
@pytest.mark.parametrize("meshed", [pytest.param(False, marks=pytest.mark.exhaustive), True])
def test_models_give_the_same_with_the_flash_kernel(monkeypatch, make, meshed):
    """By Pallas's interpreter; with dropout, whose masks must be the same, too."""
    for module, name in (
        (flash_attention, "flash_attention"),
        (on_mesh, "flash_attention_on_mesh"),
    ):
        interpreted = functools.partial(getattr(module, name), interpret=True)
        monkeypatch.setattr(module, name, interpreted)
    batch, key = packed_batch(24), jax.random.key(1)
    model = make("plain").init(jax.random.key(0))

    def run(attention: str):
        task = make(attention)
        like = jax.tree.structure(jax.eval_shape(lambda: task.init(jax.random.key(0))))
        own = jax.tree.unflatten(like, jax.tree.leaves(model))
        return jax.jit(jax.value_and_grad(lambda m: task.loss_fn(m, batch, key)[0]))(own)

    expected, found = run("plain"), None
    if meshed:
        from flan_jax.sharding import MESH_AXES, PjitPartitioner

        one = np.asarray(jax.devices()[:1]).reshape([1] * len(MESH_AXES))
        mesh = Mesh(one, MESH_AXES, axis_types=(AxisType.Explicit,) * len(MESH_AXES))
        partitioner = PjitPartitioner(data=1)
        with partitioner.use(mesh):
            sharding = partitioner.batch_sharding(mesh)
            batch = {name: jax.device_put(rows, sharding) for name, rows in batch.items()}
            found = run("flash")
    else:
        found = run("flash")
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
