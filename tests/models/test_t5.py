"""The T5 module: parameter counts, packing, dropout, rematerialisation, dtypes, pytree use."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.layer_stack import REMAT_POLICIES, scan_layers
from flan_jax.models.t5 import T5, T5Config
from flan_jax.sharding import logical_axes, named_leaves

CONFIG = T5Config(
    vocab_size=64,
    emb_dim=32,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=3,
    head_dim=8,
    mlp_dim=48,
    dtype="float32",
    dropout_rate=0.2,
)


def unpacked_batch(lengths=((5, 4), (3, 6)), inputs=8, targets=7, seed=0):
    rng = np.random.default_rng(seed)
    rows = len(lengths)
    batch = {
        "encoder_input_tokens": np.zeros((rows, inputs), np.int32),
        "decoder_target_tokens": np.zeros((rows, targets), np.int32),
    }
    for row, (source, target) in enumerate(lengths):
        batch["encoder_input_tokens"][row, :source] = rng.integers(2, 64, source)
        batch["decoder_target_tokens"][row, :target] = rng.integers(2, 64, target)
    shifted = np.pad(batch["decoder_target_tokens"], ((0, 0), (1, 0)))[:, :-1]
    return {**batch, "decoder_input_tokens": shifted}


def pack(batch, lengths, inputs=8, targets=10):
    """The rows of an unpacked batch side by side in one row."""
    packed = {
        "encoder_input_tokens": np.zeros((1, inputs), np.int32),
        "encoder_segment_ids": np.zeros((1, inputs), np.int32),
    }
    for name in ("input_tokens", "target_tokens", "segment_ids"):
        packed[f"decoder_{name}"] = np.zeros((1, targets), np.int32)
    i = t = 0
    for row, (source, target) in enumerate(lengths):
        tokens = batch["encoder_input_tokens"][row, :source]
        packed["encoder_input_tokens"][0, i : i + source] = tokens
        packed["encoder_segment_ids"][0, i : i + source] = row + 1
        for side in ("input", "target"):
            tokens = batch[f"decoder_{side}_tokens"][row, :target]
            packed[f"decoder_{side}_tokens"][0, t : t + target] = tokens
        packed["decoder_segment_ids"][0, t : t + target] = row + 1
        i, t = i + source, t + target
    return packed


@pytest.fixture(scope="module")
def model() -> T5:
    return jax.jit(lambda key: T5(CONFIG, key))(jax.random.key(0))


@jax.jit
def logits_of(model, batch):
    return model(batch)


def test_every_parameter_names_its_axes(model):
    axes = named_leaves(logical_axes(model))
    for name, value in named_leaves(model).items():
        assert len(axes[name]) == value.ndim, name
        assert (axes[name][0] == "layers") == ("/layers/" in name)
    assert tuple(axes["encoder/layers/attention/out/kernel"]) == ("layers", "joined_kv", "embed")


def test_initial_scales(model):
    values = {name: np.asarray(value) for name, value in named_leaves(model).items()}
    std = {name: value.std() for name, value in values.items()}
    assert std["token_embedder/embedding"] == pytest.approx(1.0, rel=0.1)
    key_std = std["encoder/layers/attention/key/kernel"]
    assert key_std == pytest.approx(32**-0.5, rel=0.1)
    query_std = std["encoder/layers/attention/query/kernel"]
    assert query_std == pytest.approx(32**-0.5 * 8**-0.5, rel=0.1)
    wo = values["encoder/layers/mlp/wo/kernel"]
    assert wo.std() == pytest.approx(48**-0.5, rel=0.1)
    assert np.abs(wo).max() < 2.5 * 48**-0.5  # truncated at two standard deviations
    assert not np.array_equal(wo[0], wo[1])
    assert np.all(values["decoder/decoder_norm/scale"] == 1.0)


def test_packed_equals_unpacked(model):
    lengths = ((5, 4), (3, 6))
    batch = unpacked_batch(lengths)
    alone = logits_of(model, batch)
    packed = logits_of(model, pack(batch, lengths))
    np.testing.assert_allclose(packed[0, :4], alone[0, :4], atol=2e-5)
    np.testing.assert_allclose(packed[0, 4:10], alone[1, :6], atol=2e-5)


def test_padding_does_not_change_real_positions(model):
    lengths = ((5, 4), (3, 6))
    short = logits_of(model, unpacked_batch(lengths))
    wide = logits_of(model, unpacked_batch(lengths, inputs=13, targets=11))
    # The generator draws the same tokens for the same lengths.
    np.testing.assert_allclose(wide[0, :4], short[0, :4], atol=2e-5)
    np.testing.assert_allclose(wide[1, :6], short[1, :6], atol=2e-5)


def test_decoder_is_causal(model):
    batch = unpacked_batch(((5, 7), (3, 7)))
    changed = {name: value.copy() for name, value in batch.items()}
    changed["decoder_input_tokens"][:, 4:] = 9
    before, after = logits_of(model, batch), logits_of(model, changed)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert not np.allclose(before[:, 4:], after[:, 4:])


def test_dropout_is_a_function_of_its_key(model):
    batch = unpacked_batch()
    run = jax.jit(lambda key: model(batch, dropout_key=key))
    first = run(jax.random.key(1))
    np.testing.assert_array_equal(first, run(jax.random.key(1)))
    assert not np.allclose(first, run(jax.random.key(2)))
    assert not np.allclose(first, logits_of(model, batch))


def test_layers_get_different_dropout(model):
    def add_draw(layer, x, key):
        return x + jax.random.uniform(key, x.shape)

    x = jnp.zeros((1, 1, 4))
    one = scan_layers(model.decoder.layers, x, add_draw, CONFIG.remat_policy, jax.random.key(3))
    draws = sum(
        np.asarray(jax.random.uniform(jax.random.fold_in(jax.random.key(3), i), x.shape))
        for i in range(3)
    )
    np.testing.assert_allclose(one, draws, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(p, marks=() if p == "parameters" else pytest.mark.exhaustive)
        for p in REMAT_POLICIES
        if p != "none"
    ],
)
def test_remat_policies_give_the_same_loss_and_gradients(model, policy):
    batch, key = unpacked_batch(), jax.random.key(5)

    def run(config):
        other = jax.tree.unflatten(
            jax.tree.structure(jax.eval_shape(lambda: T5(config, jax.random.key(0)))),
            jax.tree.leaves(model),
        )
        task = EncoderDecoderModel(config)
        function = jax.value_and_grad(lambda m: task.loss_fn(m, batch, key)[0])
        loss, grads = jax.jit(function)(other)
        return loss, jax.tree.leaves(grads)

    plain_loss, plain = run(CONFIG)
    loss, grads = run(dataclasses.replace(CONFIG, remat_policy=policy))
    assert float(loss) == pytest.approx(float(plain_loss), rel=1e-6)
    for a, b in zip(plain, grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_close_and_returns_float32(model):
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    half = jax.jit(lambda key: T5(config, key))(jax.random.key(0))
    batch = unpacked_batch()
    logits = logits_of(half, batch)
    assert logits.dtype == jnp.float32
    encoded = jax.eval_shape(half.encode, batch["encoder_input_tokens"])
    assert encoded.dtype == jnp.bfloat16
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(half))
    real = batch["decoder_target_tokens"] > 0
    difference = np.abs(np.asarray(logits - logits_of(model, batch)))[real]
    assert 0 < difference.max() < 0.2


def test_relative_bias_of_every_layer(model):
    """Biases of layers that are all alike are the bias of a stack; other ones are not."""
    config = dataclasses.replace(CONFIG, relative_attention_per_layer=True)
    shapes = jax.eval_shape(lambda key: T5(config, key), jax.random.key(0))
    shared = named_leaves(model)

    def with_biases(last_layer: float):
        leaves = []
        for name, leaf in named_leaves(shapes).items():
            value = shared.get(name)
            if value is None:
                assert "/layers/relpos_bias/" in name
                one = shared[name.replace("/layers/", "/")]
                value = jnp.broadcast_to(one, leaf.shape).at[-1].multiply(last_layer)
            assert value.shape == leaf.shape
            leaves.append(value)
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    batch = unpacked_batch()
    expected = logits_of(model, batch)
    np.testing.assert_allclose(logits_of(with_biases(1.0), batch), expected, atol=1e-5)
    assert np.abs(logits_of(with_biases(2.0), batch) - expected).max() > 1e-3
    axes = named_leaves(logical_axes(shapes))["encoder/layers/relpos_bias/rel_embedding"]
    assert tuple(axes) == ("layers", "heads", "relpos_buckets")


def test_logits_via_embedding():
    config = dataclasses.replace(CONFIG, logits_via_embedding=True)
    model = T5(config, jax.random.key(0))
    assert not any("logits_dense" in name for name in named_leaves(model))
    states = jax.random.normal(jax.random.key(1), (1, 2, 32))
    table = np.asarray(model.token_embedder.embedding.get_value())
    expected = np.asarray(states) @ table.T / math.sqrt(32)
    np.testing.assert_allclose(model.logits(states), expected, atol=1e-5)


def test_orbax_round_trip(model, tmp_path):
    checkpointer = ocp.StandardCheckpointer()
    checkpointer.save(tmp_path / "checkpoint", model)
    checkpointer.wait_until_finished()
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, model)
    restored = checkpointer.restore(tmp_path / "checkpoint", abstract)
    assert jax.tree.structure(restored) == jax.tree.structure(model)
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "bfloat"}, "did you mean 'bfloat16'"),
        ({"remat_policy": "ful"}, "did you mean 'full'"),
        ({"mlp_activations": ("geluu",)}, "did you mean 'gelu'"),
        ({"dropout_rate": 1.0}, "dropout_rate"),
        ({"num_heads": 0}, "num_heads"),
    ],
)
def test_config_errors(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)
