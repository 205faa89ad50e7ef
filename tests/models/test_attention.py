"""Relative position buckets, masks and the Toeplitz layout of the bias."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.models.attention import RelativePositionBias, relative_position_bucket
from flan_jax.models.dot_product import attention_mask, attention_probs, causal_mask


def bucket_by_definition(offset: int, bidirectional: bool, buckets: int, max_distance: int) -> int:
    """The bucket found by counting the boundaries that the distance reaches.

    Bucket exact + j starts at the smallest distance d with
    exact * (max_distance / exact) ** (j / (buckets - exact)) <= d.
    """
    shift = 0
    if bidirectional:
        buckets //= 2
        shift = buckets if offset > 0 else 0
        distance = abs(offset)
    else:
        distance = max(-offset, 0)
    exact = buckets // 2
    if distance < exact:
        return shift + distance
    far = buckets - exact
    growth = max_distance / exact
    reached = sum(distance >= math.ceil(exact * growth ** (j / far) - 1e-6) for j in range(1, far))
    return shift + exact + reached


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (64, 256), (16, 40)])
def test_buckets_match_their_definition(bidirectional, buckets, max_distance):
    offsets = np.arange(-600, 601)
    ours = relative_position_bucket(
        jnp.asarray(offsets),
        bidirectional=bidirectional,
        num_buckets=buckets,
        max_distance=max_distance,
    )
    expected = [bucket_by_definition(int(o), bidirectional, buckets, max_distance) for o in offsets]
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("q", "k"), [(1, 1), (1, 9), (9, 1), (17, 23), (23, 17)])
def test_bias_is_the_bucket_value_of_each_pair(bidirectional, q, k):
    module = RelativePositionBias(3, 8, 12, bidirectional, jax.random.key(0))
    table = np.asarray(module.rel_embedding.get_value())
    bias = module(q, k, jnp.dtype("float32"))
    offsets = np.arange(k)[None, :] - np.arange(q)[:, None]
    buckets = relative_position_bucket(
        jnp.asarray(offsets), bidirectional=bidirectional, num_buckets=8, max_distance=12
    )
    np.testing.assert_array_equal(bias, table[:, np.asarray(buckets)])


def test_masks():
    real = jnp.asarray([[True, True, True, False]])
    segments = jnp.asarray([[1, 1, 2, 0]])
    mask = attention_mask(real, real, segments, segments) & causal_mask(4)
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(mask[0], np.asarray(expected, bool))


def test_fully_masked_row_is_uniform_and_finite():
    logits = jnp.asarray([[[[3.0, -2.0, 7.0, 0.0]]]])
    probs = attention_probs(logits, jnp.zeros((1, 1, 1, 4), bool), None, jnp.dtype("float32"))
    np.testing.assert_allclose(probs, 0.25)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_of_the_probabilities_is_that_of_automatic_differentiation(dtype):
    keys = jax.random.split(jax.random.key(0), 4)
    logits = 3.0 * jax.random.normal(keys[0], (2, 3, 5, 7)).astype(dtype)
    bias = jax.random.normal(keys[1], (3, 5, 7))
    mask = jax.random.bernoulli(keys[2], 0.7, (2, 1, 5, 7)).at[1, 0, 2].set(False)
    weights = jax.random.normal(keys[3], logits.shape)

    def plain(logits: jax.Array, bias: jax.Array) -> jax.Array:
        biased = logits + bias.astype(logits.dtype)[None]
        masked = jnp.where(mask, biased.astype(jnp.float32), -1e10)
        return jnp.sum(jax.nn.softmax(masked).astype(dtype) * weights)

    def ours(logits: jax.Array, bias: jax.Array) -> jax.Array:
        return jnp.sum(attention_probs(logits, mask, bias, jnp.dtype(dtype)) * weights)

    np.testing.assert_array_equal(ours(logits, bias), plain(logits, bias))
    found, expected = (jax.grad(f, (0, 1))(logits, bias) for f in (ours, plain))
    tolerance = 1e-6 if dtype == "float32" else 2e-2
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            a.astype(np.float32), b.astype(np.float32), rtol=tolerance, atol=tolerance
        )
    # Not even by rounding: such a row does not depend on its logits.
    assert not np.any(found[0][1, :, 2])


def test_backward_pass_keeps_the_probabilities_alone():
    logits, mask = jnp.ones((1, 2, 8, 8)), jnp.ones((1, 1, 8, 8), bool)
    _, backward = jax.vjp(
        lambda logits: attention_probs(logits, mask, None, jnp.dtype("float32")), logits
    )
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.dtype == jnp.float32]
    assert sum(leaf.size for leaf in kept) == logits.size
