"""LoRA: adapters change nothing at first, train as the explicit sum would, and merge."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.errors import UserError
from flan_jax.models.architecture import differences
from flan_jax.models.decoder_only import DecoderOnlyModel
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.layers import Dense, stack_layers
from flan_jax.models.lora import (
    LoraConfig,
    add_adapters,
    dense_layers,
    fresh_names,
    has_dropout,
    is_adapter,
    merge_lora,
    merged_kernel,
    target_names,
)
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import logical_axes, named_leaves

LORA = LoraConfig(rank=3, alpha=6.0, targets=("attention/(query|value)", "mlp/wo", "logits_dense"))
T5_CONFIG = T5Config(
    vocab_size=32,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=2,
    head_dim=8,
    mlp_dim=24,
    dropout_rate=0.0,
    dtype="float32",
    lora=LORA,
)
PALM_CONFIG = PalmConfig(
    vocab_size=32,
    emb_dim=16,
    num_heads=2,
    num_layers=2,
    head_dim=8,
    mlp_dim=24,
    dtype="float32",
    logits_via_embedding=False,
    lora=LORA,
)
CONFIGS = {"t5": T5_CONFIG, "palm": PALM_CONFIG}


def batch_of(kind: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    targets = rng.integers(2, 32, (2, 6)).astype(np.int32)
    targets[1, 4:] = 0
    batch = {
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": (targets > 0).astype(np.float32),
    }
    if kind == "t5":
        batch["encoder_input_tokens"] = rng.integers(2, 32, (2, 5)).astype(np.int32)
    return batch


def task_of(config: T5Config | PalmConfig) -> EncoderDecoderModel | DecoderOnlyModel:
    return EncoderDecoderModel(config) if isinstance(config, T5Config) else DecoderOnlyModel(config)


def shapes_of(config: T5Config | PalmConfig):
    return jax.eval_shape(task_of(config).init, jax.random.key(0))


@functools.cache
def model_of(config: T5Config | PalmConfig, *, zero_b: bool = False):
    """A model with values that depend on the parameters' names only; nothing is compiled."""
    shapes, leaves = shapes_of(config), []
    for name, leaf in named_leaves(shapes).items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        value = rng.normal(size=leaf.shape).astype(np.float32) * 0.3
        leaves.append(jnp.asarray(0 * value if zero_b and name.endswith("lora_b") else value))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def plain(config):
    return dataclasses.replace(config, lora=None)


@pytest.fixture(params=CONFIGS)
def kind(request) -> str:
    return request.param


@jax.jit
def logits_of(model, batch):
    return model(batch)


def test_zero_b_is_the_base_model_exactly(kind):
    config, batch = CONFIGS[kind], batch_of(kind)
    base, adapted = model_of(plain(config)), model_of(config, zero_b=True)
    np.testing.assert_array_equal(logits_of(base, batch), logits_of(adapted, batch))


def test_merged_model_gives_the_same_logits(kind):
    config, batch = CONFIGS[kind], batch_of(kind)
    adapted, base = model_of(config), model_of(plain(config))
    merged = merge_lora(adapted)
    assert merged.config == plain(config)
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    logits = logits_of(adapted, batch)
    assert np.abs(logits - logits_of(base, batch)).max() > 1e-2
    np.testing.assert_allclose(logits_of(merged, batch), logits, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        logits_of(jax.jit(merge_lora)(adapted), batch), logits, rtol=0, atol=1e-5
    )
    assert merge_lora(merged) is merged


def test_merging_tensor_by_tensor(kind):
    adapted = model_of(CONFIGS[kind])
    values, merged = named_leaves(adapted), named_leaves(merge_lora(adapted))
    for name in merged:
        expected = np.asarray(values[name])
        a_name, b_name = (name.replace("kernel", part) for part in ("lora_a", "lora_b"))
        if a_name in values and a_name != name:
            whole = merged_kernel(expected, values[a_name], values[b_name], LORA.scale)
            if "/layers/" in name:  # one layer at a time gives the same
                kernel, a, b = (values[n][1] for n in (name, a_name, b_name))
                one = merged_kernel(kernel, a, b, LORA.scale)
                np.testing.assert_array_equal(one, whole[1])
            expected = whole
        np.testing.assert_allclose(merged[name], expected, rtol=0, atol=1e-6, err_msg=name)
    assert any("lora_a" in name for name in values)


def test_merged_kernel_keeps_the_dtype_and_adds_in_float32():
    kernel = np.full((2, 2), 256.0, jnp.bfloat16)
    a, b = np.full((2, 1), 1.5, np.float32), np.full((1, 2), 1.0, np.float32)
    merged = merged_kernel(kernel, a, b, 1.0)
    assert merged.dtype == jnp.bfloat16
    assert merged.astype(np.float32).tolist() == [[258.0, 258.0]] * 2  # 257.5, in steps of 2


@pytest.mark.slow
def test_gradients_are_those_of_the_explicit_sum(kind):
    """D loss / d A and d B through W + scale * A @ B in a model without adapters."""
    config, batch = CONFIGS[kind], batch_of(kind)
    adapted, base = model_of(config), model_of(plain(config))
    values, treedef = named_leaves(adapted), jax.tree.structure(base)
    adapters = {name: x for name, x in values.items() if is_adapter(name)}

    def through_the_sum(adapters):
        leaves = []
        for name in named_leaves(base):
            kernel, a = values[name], adapters.get(name.replace("kernel", "lora_a"))
            if a is not None:
                b = adapters[name.replace("kernel", "lora_b")]
                kernel = kernel + 2.0 * jnp.einsum("...ir,...ro->...io", a, b)
            leaves.append(kernel)
        return task_of(config).loss_fn(jax.tree.unflatten(treedef, leaves), batch, None)[0]

    def through_the_adapters(model):
        return task_of(config).loss_fn(model, batch, None)[0]

    expected = jax.jit(jax.grad(through_the_sum))(adapters)
    found = named_leaves(jax.jit(jax.grad(through_the_adapters))(adapted))
    for name, value in expected.items():
        scale = np.abs(value).max()
        assert scale > 1e-4, name
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * scale, err_msg=name)


def test_names_shapes_and_axes():
    model = shapes_of(T5_CONFIG)
    shapes = {name: x.shape for name, x in named_leaves(model).items() if is_adapter(name)}
    assert list(shapes) == fresh_names(model)
    attention = ("encoder/layers/attention", "decoder/layers/self_attention")
    expected = {}
    for block in (*attention, "decoder/layers/encoder_decoder_attention"):
        for part in ("query", "value"):
            expected[f"{block}/{part}/lora_a"] = (2, 16, 3)
            expected[f"{block}/{part}/lora_b"] = (2, 3, 16)
    for stack in ("encoder", "decoder"):
        expected[f"{stack}/layers/mlp/wo/lora_a"] = (2, 24, 3)
        expected[f"{stack}/layers/mlp/wo/lora_b"] = (2, 3, 16)
    expected["decoder/logits_dense/lora_a"] = (16, 3)
    expected["decoder/logits_dense/lora_b"] = (3, 32)
    assert shapes == expected
    axes = named_leaves(logical_axes(model))
    assert tuple(axes["encoder/layers/mlp/wo/lora_a"]) == ("layers", "mlp", "lora_rank")
    assert tuple(axes["encoder/layers/mlp/wo/lora_b"]) == ("layers", "lora_rank", "embed")
    assert tuple(axes["decoder/logits_dense/lora_b"]) == ("lora_rank", "vocab")


class Stack(nnx.Module):
    """Dense layers of a stack, and one by itself."""

    def __init__(self, inputs: int, config: LoraConfig):
        keys = jax.random.split(jax.random.key(0), 3)

        def dense(key):
            return Dense((inputs, 8), ("embed", "mlp"), key)

        self.layers = stack_layers(dense, keys)
        self.alone, self.other = dense(keys[0]), dense(keys[0])
        add_adapters(self, config, jax.random.key(1))

    def a_of(self, name: str) -> np.ndarray:
        return np.asarray(getattr(self, name).lora_a.get_value())


def test_new_adapters_are_zero_and_keyed_by_name():
    all_three = Stack(64, LoraConfig(4, targets=".*"))
    two = Stack(64, LoraConfig(4, targets=("other", "layers")))
    assert two.alone.lora_a is None
    for name in ("other", "layers"):
        np.testing.assert_array_equal(two.a_of(name), all_three.a_of(name))
        assert not np.any(getattr(two, name).lora_b.get_value())
    matrices = [*two.a_of("layers"), two.a_of("other"), all_three.a_of("alone")]
    for i, matrix in enumerate(matrices):
        assert not any(np.array_equal(matrix, other) for other in matrices[:i])


@pytest.mark.parametrize("inputs", [64, 256])
def test_a_has_variance_one_over_inputs(inputs):
    stack = Stack(inputs, LoraConfig(256, targets=".*"))
    for a in (*stack.a_of("layers"), stack.a_of("alone")):
        assert a.std() * inputs**0.5 == pytest.approx(1.0, rel=0.03)


@pytest.mark.slow
def test_dropout_is_of_the_adapters_input_alone(kind):
    lora = dataclasses.replace(LORA, dropout=0.5)
    config, batch = dataclasses.replace(CONFIGS[kind], lora=lora), batch_of(kind)
    assert has_dropout(config)
    assert not has_dropout(CONFIGS[kind])
    model = model_of(config, zero_b=True)

    @jax.jit
    def logits(model, key):
        return model(batch, dropout_key=key)

    keys = [jax.random.key(i) for i in range(2)]
    # With B = 0 there is nothing that it could change.
    np.testing.assert_array_equal(logits(model, keys[0]), logits_of(model, batch))
    model = model_of(config)
    first, second = (logits(model, key) for key in keys)
    np.testing.assert_array_equal(first, logits(model, keys[0]))
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first - logits_of(model, batch)).max() > 1e-3


def test_rate_and_scale_of_dropout():
    config = LoraConfig(64, alpha=64.0, dropout=0.25, targets="alone")
    dense = Stack(64, config).alone
    assert dense.lora_a is not None
    assert dense.lora_b is not None
    dense.kernel.set_value(jnp.zeros((64, 64)))
    dense.lora_a.set_value(jnp.eye(64))
    dense.lora_b.set_value(jnp.eye(64))
    out = np.asarray(dense(jnp.ones((4, 32, 64)), "mlp", jnp.dtype("float32"), jax.random.key(3)))
    np.testing.assert_allclose(np.unique(out), [0.0, 1 / 0.75], rtol=1e-6)
    assert (out == 0).mean() == pytest.approx(0.25, abs=0.02)
    # Each position has a mask of its own.
    assert not np.array_equal(out[0, 0], out[0, 1])


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("attention/(querry)", "encoder/layers/attention/query"),
        ("self_atention/query", "did you mean 'self_attention/query'"),
        ("query/kernel", "decoder/logits_dense"),
        ("token_embedder", "decoder/layers/mlp/wi_0"),
    ],
)
def test_target_that_matches_nothing(pattern, hint):
    config = dataclasses.replace(T5_CONFIG, lora=LoraConfig(2, targets=("mlp/wo", pattern)))
    with pytest.raises(UserError, match="matches the end of no dense layer's name") as caught:
        shapes_of(config)
    assert hint in str(caught.value)


DENSE_LAYERS = list(dense_layers(shapes_of(T5_CONFIG)))


@settings(max_examples=50, deadline=None)
@given(st.sets(st.sampled_from(DENSE_LAYERS), min_size=1))
def test_whole_names_are_patterns_for_themselves(chosen):
    assert target_names(DENSE_LAYERS, sorted(chosen)) == sorted(chosen)


def test_a_pattern_must_reach_the_end_of_a_name():
    wi = [name for name in DENSE_LAYERS if "wi" in name]
    assert len(wi) == 4
    assert target_names(DENSE_LAYERS, ["wi_.*"]) == wi
    with pytest.raises(UserError):
        target_names(DENSE_LAYERS, ["wi"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, found 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), found 1.0"),
        ({"targets": ()}, "at least one dense layer"),
        ({"targets": "("}, "no regular expression"),
    ],
)
def test_values_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        LoraConfig(**fields)


def test_adapters_of_another_weight_are_another_architecture():
    """Shapes do not tell alpha: a checkpoint read with another one would be another model."""
    other = dataclasses.replace(T5_CONFIG, lora=dataclasses.replace(LORA, alpha=9.0))
    (line,) = differences(T5_CONFIG, other)
    assert line == "lora: alpha / rank is 2.0 in the checkpoint, 3.0 in the model"
    assert differences(T5_CONFIG, plain(T5_CONFIG)) == []


def test_scale_is_alpha_over_rank():
    assert LoraConfig(rank=8, alpha=32.0).scale == 4.0
