"""Adafactor on stacked parameters against a direct one-layer computation; schedules."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from flan_jax.train.optimizer import Adafactor, factored_dims
from flan_jax.train.schedule import create_learning_rate_scheduler

AXES = {
    "stack": PartitionSpec("layers", "embed", "mlp"),
    "norm": PartitionSpec("layers", "embed"),
    "table": PartitionSpec("vocab", "embed"),
    "small": PartitionSpec("embed", "mlp"),
}


def make_params(seed):
    rng = np.random.default_rng(seed)
    shapes = {"stack": (3, 8, 12), "norm": (3, 8), "table": (10, 9), "small": (3, 40)}
    scales = {"stack": np.asarray([0.0, 0.1, 5.0])[:, None, None]}
    return {
        name: jnp.asarray(rng.normal(size=shape) * scales.get(name, 1.0), jnp.float32)
        for name, shape in shapes.items()
    }


def adafactor_by_hand(param, grads, *, rate, min_dim, clipping=1.0, beta1=None, decay=None):
    """One parameter of one layer by the paper's formulas (Algorithm 4), in float64."""
    param = np.asarray(param, np.float64)
    rows = columns = full = 0.0
    momentum = 0.0
    for t, grad in enumerate(grads):
        grad = np.asarray(grad, np.float64)
        beta2 = 1.0 - (t + 1.0) ** -0.8
        square = grad**2 + 1e-30
        if param.ndim == 2 and min(param.shape) >= min_dim:
            rows = beta2 * rows + (1 - beta2) * square.mean(1)
            columns = beta2 * columns + (1 - beta2) * square.mean(0)
            update = grad / np.sqrt(np.outer(rows, columns) / rows.mean())
        else:
            full = beta2 * full + (1 - beta2) * square
            update = grad / np.sqrt(full)
        if clipping is not None:
            update = update / max(1.0, np.sqrt((update**2).mean()) / clipping)
        update = rate * max(1e-3, np.sqrt((param**2).mean())) * update
        if beta1 is not None:
            momentum = beta1 * momentum + (1 - beta1) * update
            update = momentum
        param = param * (1 - (decay or 0.0)) - update
    return param


@pytest.mark.parametrize(
    ("options", "by_hand"),
    [
        ({}, {}),
        ({"beta1": 0.9}, {"beta1": 0.9}),
        ({"weight_decay_rate": 0.01}, {"decay": 0.01}),
        ({"weight_decay_rate_lr_exponent": 2.0}, {"decay": 0.3**2}),
        ({"clipping_threshold": None}, {"clipping": None}),
    ],
)
def test_each_layer_is_its_own_parameter(options, by_hand):
    params = make_params(0)
    grads = [make_params(seed) for seed in (1, 2, 3)]
    definition = Adafactor(learning_rate=0.3, min_dim_size_to_factor=8, **options)
    optimizer = definition.create(None, AXES)
    updated, state = params, optimizer.init(params)
    for grad in grads:
        updates, state = optimizer.update(grad, state, updated)
        updated = optax.apply_updates(updated, updates)
    assert int(state.count) == 3
    for name, value in updated.items():
        layers = range(3) if AXES[name][0] == "layers" else [...]
        for layer in layers:
            expected = adafactor_by_hand(
                params[name][layer],
                [grad[name][layer] for grad in grads],
                rate=0.3,
                min_dim=8,
                **by_hand,
            )
            np.testing.assert_allclose(value[layer], expected, rtol=2e-5, atol=1e-6)


def optax_chain(min_dim: int, clipping: float | None, scaled: bool) -> Any:
    """Adafactor of one parameter by optax's transformations, at a learning rate of 0.3."""
    parts = [optax.scale_by_factored_rms(min_dim_size_to_factor=min_dim)]
    if clipping is not None:
        parts.append(optax.clip_by_block_rms(clipping))
    if scaled:
        parts.append(optax.scale_by_param_block_rms(1e-3))
    return optax.chain(*parts, optax.scale(-0.3))


@pytest.mark.slow
@given(
    shape=st.sampled_from([(6,), (5, 9), (9, 5), (8, 8), (2, 30), (4, 5, 9)]),
    seed=st.integers(0, 2**16),
    scales=st.lists(st.sampled_from([0.0, 1e-20, 1e-8, 1.0, 1e6]), min_size=3, max_size=3),
    clipping=st.sampled_from([None, 0.5, 1.0]),
    scaled=st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_it_equals_a_chain_of_optax_transformations(shape, seed, scales, clipping, scaled):
    """Gradients of every size, and rows without any.

    Optax reckons in float64: in float32 a row of zeros beside rows of 1e6 makes its update NaN, as
    it divides by a ratio that is flushed to zero.
    """
    rng = np.random.default_rng(seed)
    param = jnp.asarray(rng.normal(size=shape), jnp.float32)
    stacked = len(shape) == 3
    axes = {
        "x": PartitionSpec(*(["layers"] if stacked else []), *["embed"] * (param.ndim - stacked))
    }
    definition = Adafactor(
        learning_rate=0.3,
        min_dim_size_to_factor=5,
        clipping_threshold=clipping,
        multiply_by_parameter_scale=scaled,
    )
    ours: Any = definition.create(None, axes)
    our_params, our_state = {"x": param}, ours.init({"x": param})
    theirs = optax_chain(5, clipping, scaled)
    with jax.enable_x64(True):
        layers = [jnp.asarray(layer, jnp.float64) for layer in (param if stacked else [param])]
        their_states = [theirs.init(layer) for layer in layers]
    for scale in scales:
        grad = jnp.asarray(rng.normal(size=shape) * scale, jnp.float32).at[..., 0].set(0.0)
        updates, our_state = ours.update({"x": grad}, our_state, our_params)
        with jax.enable_x64(True):
            grads = [jnp.asarray(layer, jnp.float64) for layer in (grad if stacked else [grad])]
            steps = [
                theirs.update(*operands)
                for operands in zip(grads, their_states, layers, strict=True)
            ]
        their_states = [state for _, state in steps]
        expected = np.stack([step for step, _ in steps]) if stacked else steps[0][0]
        np.testing.assert_allclose(updates["x"], expected, rtol=1e-4, atol=1e-12)
    for name in ("v_row", "v_col", "v"):
        found = getattr(our_state, name)["x"]
        wanted = [getattr(state[0], name) for state in their_states]
        wanted = np.stack(wanted) if stacked else wanted[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, err_msg=name)


def test_a_fresh_state_can_be_donated():
    """No two slots are one array."""
    params = make_params(0)
    optimizer = Adafactor(learning_rate=0.1).create(None, AXES)
    state = optimizer.init(params)
    step = jax.jit(optimizer.update, donate_argnums=1)
    assert int(step(params, state, params)[1].count) == 1


def test_state_axes_drop_the_reduced_dimension():
    params = make_params(0)
    definition = Adafactor(learning_rate=0.1, min_dim_size_to_factor=8)
    state = definition.create(None, AXES).init(params)
    axes = definition.state_axes(AXES, params)
    assert axes.v_row["stack"] == PartitionSpec("layers", "embed")
    assert axes.v_col["stack"] == PartitionSpec("layers", "mlp")
    assert axes.v_row["table"] == PartitionSpec("embed")
    assert axes.v_col["table"] == PartitionSpec("vocab")
    assert axes.v["norm"] == AXES["norm"]
    assert axes.v["small"] == AXES["small"]
    for slot in ("v_row", "v_col", "v", "m"):
        for name, value in getattr(state, slot).items():
            assert len(getattr(axes, slot)[name]) == value.ndim, (slot, name)


def test_factored_dims():
    assert factored_dims((128, 64), 128) is None
    assert factored_dims((128,), 128) is None
    assert factored_dims((128, 192), 128) == (0, 1)
    assert factored_dims((384, 128), 128) == (1, 0)


def test_global_norm_clipping_limits_the_gradient():
    params = make_params(0)
    grads = jax.tree.map(lambda x: x * 100.0, make_params(1))
    small = jax.tree.map(lambda x: x / optax.global_norm(grads) * 0.5, grads)
    clipped = Adafactor(learning_rate=0.1, global_norm_clip_threshold=0.5).create(None, AXES)
    plain = Adafactor(learning_rate=0.1).create(None, AXES)
    _, with_clip = clipped.update(grads, clipped.init(params), params)
    _, by_hand = plain.update(small, plain.init(params), params)
    np.testing.assert_allclose(with_clip.v["table"], by_hand.v["table"], rtol=1e-5)


def test_no_learning_rate_is_an_error():
    with pytest.raises(ValueError, match="learning rate"):
        Adafactor().create(None, AXES)


@pytest.mark.parametrize(
    ("factors", "step", "expected"),
    [
        ("constant", 7, 2.0),
        ("constant * linear_warmup", 25, 0.5),
        ("constant * linear_warmup", 300, 2.0),
        ("linear_decay", 50, 1.0),
        ("linear_decay", 150, 2.0 * (1 - 0.01 * 50)),
        ("rsqrt_decay", 10, 0.1),
        ("rsqrt_decay", 400, 0.05),
        ("constant*rsqrt_normalized_decay", 400, 1.0),
        ("constant * decay_every", 65, 2.0 * 0.01**3),
        ("constant * cosine_decay", 100, 2.0),
        ("constant * cosine_decay", 140, 1.0),
        ("constant * cosine_decay", 180, 2.0),
        ("linear_decay", 5000, 1e-8),
    ],
)
def test_schedule_factors(factors, step, expected):
    rate = create_learning_rate_scheduler(
        factors,
        base_learning_rate=2.0,
        warmup_steps=100,
        decay_factor=0.01,
        steps_per_decay=20,
        steps_per_cycle=80,
    )
    assert float(rate(step)) == pytest.approx(expected, rel=1e-5)
    assert float(jax.jit(rate)(step)) == pytest.approx(expected, rel=1e-5)


def test_schedule_offset():
    rate = create_learning_rate_scheduler(
        "constant * linear_warmup", 1.0, warmup_steps=10, step_offset=1000
    )
    assert float(rate(1005)) == pytest.approx(0.5)


def test_unknown_factor_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'linear_warmup'"):
        create_learning_rate_scheduler("constant * linear_warmpu")
