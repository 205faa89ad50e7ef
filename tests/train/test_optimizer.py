"""Adafactor on stacked parameters against a direct one-layer computation; schedules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
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
