"""PaLM against a plain NumPy reference, packing, masks, gradients, initialisation, errors.

Logits are float32 numbers of about 1; where two ways to the same numbers add in another order they
agree to 1e-5, and that is what "the same" means here.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.data.decoder_only import (
    build_decoder_only_row,
    pack_decoder_only,
    prefix_attention_mask,
)
from flan_jax.data.packing import TokenizedExample
from flan_jax.models.dot_product import Visibility, segments_of
from flan_jax.models.layer_stack import REMAT_POLICIES
from flan_jax.models.palm import Palm, PalmConfig, Rotations
from flan_jax.sharding import named_leaves
from tests.models.palm_reference import logits_of_row

ROWS, LENGTH = 4, 12
TOLERANCE = 1e-5
CONFIG = PalmConfig(
    vocab_size=13, emb_dim=8, num_heads=2, num_layers=2, head_dim=4, mlp_dim=12, dtype="float32"
)
CONFIGS = (
    CONFIG,
    dataclasses.replace(CONFIG, num_heads=3, head_dim=2, num_layers=1, norm="rms"),
    dataclasses.replace(CONFIG, emb_dim=6, num_heads=1, head_dim=6, logits_via_embedding=False),
    dataclasses.replace(CONFIG, mlp_activations=("gelu",), max_timescale=50.0, norm_epsilon=1e-2),
)
# What hypothesis chooses from: (config, whether inputs see each other, whether rows are packed).
KINDS = (
    (CONFIGS[0], True, True),
    (CONFIGS[1], False, True),
    (CONFIGS[2], True, False),
    (CONFIGS[3], False, False),
)

init = jax.jit(Palm, static_argnums=0)


@functools.cache
def make(config: PalmConfig) -> Palm:
    """A model whose every parameter matters: the norms' scales are not 1."""
    model = init(config, jax.random.key(7))

    def scaled(path: Any, leaf: jax.Array) -> jax.Array:
        if "scale" not in jax.tree_util.keystr(path):
            return leaf
        return jnp.asarray(np.random.default_rng(leaf.size).uniform(0.5, 1.5, leaf.shape), "f4")

    return jax.tree_util.tree_map_with_path(scaled, model)


@jax.jit
def forward(model: Palm, batch: dict[str, np.ndarray]) -> jax.Array:
    return model(batch)


def batch_of(rows):
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@st.composite
def example_lists(draw):
    """As many examples as fit rows of their own, at most."""
    tokens = st.integers(1, CONFIG.vocab_size - 1)
    examples = []
    for _ in range(draw(st.integers(1, ROWS))):
        inputs = draw(st.lists(tokens, max_size=6))
        targets = draw(st.lists(tokens, min_size=1, max_size=4))
        examples.append(TokenizedExample(np.array(inputs, "i4"), np.array(targets, "i4"), 0))
    return examples


def packed_rows(examples):
    groups = pack_decoder_only([(len(e.inputs), len(e.targets)) for e in examples], LENGTH)
    rows = [build_decoder_only_row([examples[i] for i in group], LENGTH) for group in groups]
    order = [i for group in groups for i in group]
    return rows + [build_decoder_only_row([], LENGTH)] * (ROWS - len(rows)), order


def real_logits(logits, batch):
    """Logits of the tokens that are not padding, row after row."""
    targets = batch["decoder_target_tokens"]
    return np.concatenate(
        [np.asarray(each)[row > 0] for each, row in zip(logits, targets, strict=True)]
    )


@settings(max_examples=20, deadline=None)
@given(example_lists(), st.sampled_from(KINDS))
def test_logits_are_the_reference_s(examples, kind):
    config, prefix, packed = kind
    model = make(config)
    if packed:
        rows, _ = packed_rows(examples)
    else:
        rows = [build_decoder_only_row([e], LENGTH, packed=False) for e in examples]
        rows += [build_decoder_only_row([], LENGTH, packed=False)] * (ROWS - len(rows))
    if not prefix:
        rows = [{n: x for n, x in row.items() if n != "decoder_causal_attention"} for row in rows]
    batch = batch_of(rows)
    logits = forward(model, batch)
    assert logits.shape == (ROWS, LENGTH, config.vocab_size)
    assert logits.dtype == jnp.float32
    assert np.isfinite(np.asarray(logits)).all()  # of rows of padding, too
    parameters = {name: np.asarray(x) for name, x in named_leaves(model).items()}
    expected = [logits_of_row(parameters, config, row) for row in rows[: len(examples)]]
    held = {"decoder_target_tokens": batch["decoder_target_tokens"][: len(examples)]}
    np.testing.assert_allclose(
        real_logits(logits[: len(examples)], held), real_logits(expected, held),
        rtol=TOLERANCE, atol=TOLERANCE,
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(example_lists(), st.booleans())
def test_packed_rows_give_what_their_examples_give_alone(examples, prefix):
    rows, order = packed_rows(examples)
    alone = [build_decoder_only_row([examples[i]], LENGTH, packed=False) for i in order]
    alone += [build_decoder_only_row([], LENGTH, packed=False)] * (ROWS - len(alone))
    together, apart = batch_of(rows), batch_of(alone)
    if not prefix:
        del together["decoder_causal_attention"], apart["decoder_causal_attention"]
    found = real_logits(forward(make(CONFIG), together), together)
    expected = real_logits(forward(make(CONFIG), apart), apart)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@settings(max_examples=50, deadline=None)
@given(example_lists(), st.booleans())
def test_mask_is_that_of_the_rows(examples, packed):
    made = packed_rows(examples)[0] if packed else None
    rows = made or [build_decoder_only_row([e], LENGTH, packed=False) for e in examples]
    for row in rows:
        segments = row.get("decoder_segment_ids")
        segments = segments_of(
            jnp.asarray(row["decoder_target_tokens"] > 0)[None],
            None if segments is None else jnp.asarray(segments)[None],
        )
        prefix = jnp.asarray(row["decoder_causal_attention"] > 0)[None]
        seen = Visibility(segments, segments, causal=True, prefix=prefix)
        np.testing.assert_array_equal(seen.mask()[0], prefix_attention_mask(row))


@pytest.mark.parametrize("prefix", [False, True])
def test_nobody_sees_the_future(prefix):
    """Bit by bit: a masked key has weight 0. Inputs of a prefix, which end at 5, do see it."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 13, LENGTH).astype(np.int32)
    batch = batch_of(
        [build_decoder_only_row([TokenizedExample(tokens[:5], tokens[5:], 0)], LENGTH)]
    )
    if not prefix:
        del batch["decoder_causal_attention"]
    model = make(CONFIG)
    before = np.asarray(forward(model, batch))[0]
    for changed in range(LENGTH):
        read = batch["decoder_input_tokens"].copy()
        read[0, changed] = read[0, changed] % 12 + 1
        after = np.asarray(forward(model, batch | {"decoder_input_tokens": read}))[0]
        same = (before == after).all(axis=-1)
        first = 0 if prefix and changed <= 5 else changed
        assert same.tolist() == [position < first for position in range(LENGTH)]


def test_rotated_products_depend_on_distance_only():
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(rng.normal(size=(1, 1, 8)), jnp.float32) for _ in range(2))

    def product(q_position: int, k_position: int) -> float:
        turned = (
            Rotations(jnp.array([[position]]), 8, 10_000.0).turn(x)
            for x, position in ((query, q_position), (key, k_position))
        )
        return float(jnp.vdot(*turned))

    assert product(0, 0) == pytest.approx(float(jnp.vdot(query, key)), abs=1e-5)
    assert product(9, 4) == pytest.approx(product(105, 100), abs=1e-4)
    assert abs(product(9, 4) - product(4, 9)) > 1e-2
    heads = jnp.concatenate([query, key], axis=1)[:, None]  # two heads at one position
    turned = Rotations(jnp.array([[3]]), 8, 10_000.0)
    np.testing.assert_array_equal(turned.turn_heads(heads)[:, :, 1], turned.turn(key))


def gradient_of(model, batch, dropout_key=None):
    @jax.jit
    def gradient(model, batch):
        def loss(model):
            logits = model(batch, dropout_key=dropout_key)
            picked = jnp.take_along_axis(
                jax.nn.log_softmax(logits), batch["decoder_target_tokens"][..., None], axis=-1
            )
            return -jnp.sum(picked[..., 0] * batch["decoder_loss_weights"])

        return jax.grad(loss)(model)

    return named_leaves(gradient(model, batch))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)

    def example(inputs: int, targets: int) -> TokenizedExample:
        draw = functools.partial(rng.integers, 1, 13, dtype=np.int32)
        return TokenizedExample(draw(inputs), draw(targets), 0)

    rows = [[example(3, 2), example(4, 2)], [example(9, 3)], []]
    return batch_of([build_decoder_only_row(row, LENGTH) for row in rows])


def test_gradients_are_finite_and_reach_every_parameter(batch):
    for name, gradient in gradient_of(make(CONFIG), batch).items():
        assert gradient.dtype == jnp.float32
        assert np.isfinite(np.asarray(gradient)).all(), name
        assert np.abs(np.asarray(gradient)).max() > 1e-4, name


@pytest.mark.exhaustive
@pytest.mark.slow
def test_rematerialisation_leaves_gradients_as_they_are(batch):
    model = make(CONFIG)
    expected = gradient_of(model, batch)
    for policy in [p for p in REMAT_POLICIES if p != "none"]:
        again = init(dataclasses.replace(CONFIG, remat_policy=policy), jax.random.key(0))
        again = jax.tree.unflatten(jax.tree.structure(again), jax.tree.leaves(model))
        for name, gradient in gradient_of(again, batch).items():
            np.testing.assert_allclose(gradient, expected[name], rtol=1e-5, atol=1e-5)


def test_bfloat16_activations_give_float32_logits_close_by(batch):
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    model = jax.tree.unflatten(jax.tree.structure(make(half)), jax.tree.leaves(make(CONFIG)))
    found, expected = forward(model, batch), forward(make(CONFIG), batch)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[:2], expected[:2], atol=0.15)
    assert np.abs(found[:2] - expected[:2]).max() > 1e-4


def test_dropout_is_keyed(batch):
    config = dataclasses.replace(CONFIG, dropout_rate=0.5)
    model = jax.tree.unflatten(jax.tree.structure(make(config)), jax.tree.leaves(make(CONFIG)))
    run = jax.jit(lambda key: model(batch, dropout_key=key))
    one, again, other = (np.asarray(run(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    np.testing.assert_array_equal(forward(model, batch), forward(make(CONFIG), batch))


def test_names_and_shapes_of_parameters():
    untied = dataclasses.replace(CONFIG, logits_via_embedding=False)
    shapes = jax.eval_shape(lambda: Palm(untied, jax.random.key(0)))
    assert {name: x.shape for name, x in named_leaves(shapes).items()} == {
        "token_embedder/embedding": (13, 8),
        "decoder/layers/layer_norm/scale": (2, 8),
        "decoder/layers/attention/query/kernel": (2, 8, 8),
        "decoder/layers/attention/key/kernel": (2, 8, 4),
        "decoder/layers/attention/value/kernel": (2, 8, 4),
        "decoder/layers/attention/out/kernel": (2, 8, 8),
        "decoder/layers/mlp/wi_0/kernel": (2, 8, 12),
        "decoder/layers/mlp/wi_1/kernel": (2, 8, 12),
        "decoder/layers/mlp/wo/kernel": (2, 12, 8),
        "decoder/decoder_norm/scale": (8,),
        "decoder/logits_dense/kernel": (8, 13),
    }
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_initial_distributions_are_the_paper_s():
    """Embeddings N(0, 1), kernels N(0, 1 / fan-in), not truncated; scales 1."""
    config = PalmConfig(
        vocab_size=300, emb_dim=64, num_heads=4, num_layers=2, head_dim=32, mlp_dim=96
    )
    for name, value in named_leaves(init(config, jax.random.key(0))).items():
        value = np.asarray(value)
        if name.endswith("scale"):
            assert (value == 1).all()
            continue
        expected = 1.0 if name.endswith("embedding") else value.shape[-2] ** -0.5
        deviation = 5 / np.sqrt(2 * value.size)
        assert value.std() / expected == pytest.approx(1, abs=deviation), name
        assert np.abs(value).max() > 2.5 * expected, name
        assert (value[0] != value[1]).any(), name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head_dim": 5}, "head_dim must be even, found 5"),
        ({"num_heads": 0}, "num_heads must be at least 1, found 0"),
        ({"norm": "layr"}, "norm must be one of .*'layr'.*did you mean 'layer'"),
        ({"dtype": "bfloat61"}, "did you mean 'bfloat16'"),
        ({"remat_policy": "all"}, "remat_policy must be one of"),
        ({"mlp_activations": ("swihs",)}, "did you mean 'swish'"),
        ({"dropout_rate": 1.0}, "dropout_rate must be in"),
    ],
)
def test_bad_configurations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **fields)
