"""Gradients and the accuracy metric of the loss, against plain formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.models.losses import cross_entropy_with_logits, predicted_right


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 1e-2)])
def test_gradient_is_that_of_automatic_differentiation(smoothing, z_loss):
    keys = jax.random.split(jax.random.key(0), 3)
    logits = 4.0 * jax.random.normal(keys[0], (2, 3, 11))
    targets = jax.random.randint(keys[1], (2, 3), 0, 11)
    weights = jax.random.normal(keys[2], (2, 2, 3))

    def plain(logits: jax.Array) -> jax.Array:
        low = smoothing / 10
        soft = jnp.where(jnp.arange(11) == targets[..., None], 1.0 - smoothing, low)
        loss = -jnp.sum(soft * jax.nn.log_softmax(logits), axis=-1)
        z_part = z_loss * jnp.square(jax.nn.logsumexp(logits, axis=-1))
        return jnp.sum((loss + z_part) * weights[0] + z_part * weights[1])

    def ours(logits: jax.Array) -> jax.Array:
        loss, z_part = cross_entropy_with_logits(
            logits, targets, label_smoothing=smoothing, z_loss=z_loss
        )
        return jnp.sum(loss * weights[0] + z_part * weights[1])

    np.testing.assert_allclose(jax.grad(ours)(logits), jax.grad(plain)(logits), atol=1e-5)


def test_backward_pass_keeps_the_logits_alone():
    logits, targets = jnp.ones((2, 3, 50)), jnp.zeros((2, 3), jnp.int32)
    _, backward = jax.vjp(lambda logits: cross_entropy_with_logits(logits, targets)[0], logits)
    large = [leaf for leaf in jax.tree.leaves(backward) if leaf.size >= logits.size]
    assert len(large) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=5, max_size=5), st.integers(0, 4))
def test_predicted_right_is_argmax_with_ties(row, target):
    logits, targets = np.asarray([[row]], np.float32), np.asarray([[target]])
    found = predicted_right(jnp.asarray(logits), jnp.asarray(targets))
    assert bool(found[0, 0]) == (int(np.argmax(logits[0, 0])) == target)
