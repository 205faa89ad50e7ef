"""The fused head and loss against logits made as a whole and differentiated by JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.models.head_loss import Head, weighted_loss
from flan_jax.models.losses import Loss, cross_entropy_with_logits, predicted_right

EMBED = 6


def draw(seed: int, batch: int, length: int, vocab: int, is_embedding: bool):
    rng = np.random.default_rng(seed)
    shape = (vocab, EMBED) if is_embedding else (EMBED, vocab)
    states = jnp.asarray(rng.standard_normal((batch, length, EMBED)), jnp.float32)
    matrix = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    targets = jnp.asarray(rng.integers(0, vocab, (batch, length)), jnp.int32)
    weights = jnp.asarray(rng.uniform(0, 2, (batch, length)) * rng.integers(0, 2, (batch, length)))
    return states, matrix, targets, weights.astype(jnp.float32)


def by_logits(states, matrix, targets, weights, is_embedding, scale, **terms):
    logits = jnp.einsum("ble,ve->blv" if is_embedding else "ble,ev->blv", states * scale, matrix)
    token_loss, z_part = cross_entropy_with_logits(logits, targets, **terms)
    return jnp.sum(token_loss * weights), (token_loss, z_part, predicted_right(logits, targets))


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 3),
    length=st.integers(1, 6),
    vocab=st.integers(3, 20),
    is_embedding=st.booleans(),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    z_loss=st.sampled_from([0.0, 0.01]),
    chunk=st.sampled_from([1, 30, 10**6]),
)
def test_equals_the_loss_of_logits(
    seed, batch, length, vocab, is_embedding, label_smoothing, z_loss, chunk
):
    states, matrix, targets, weights = draw(seed, batch, length, vocab, is_embedding)
    terms = {"label_smoothing": label_smoothing, "z_loss": z_loss}

    @jax.jit
    def fused(states, matrix):
        head = Head(matrix, is_embedding, 0.5, "float32")
        return weighted_loss(states, head, targets, weights, max_chunk_logits=chunk, **terms)

    @jax.jit
    def plain(states, matrix):
        return by_logits(states, matrix, targets, weights, is_embedding, 0.5, **terms)

    both = [jax.value_and_grad(f, (0, 1), has_aux=True)(states, matrix) for f in (fused, plain)]
    for found, expected in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    # Without gradients nothing but the loss is computed; it is the same.
    for found, expected in zip(
        jax.tree.leaves(fused(states, matrix)), jax.tree.leaves(both[0][0]), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_gradient_is_scaled_by_what_comes_back():
    states, matrix, targets, weights = draw(0, 2, 3, 7, False)

    def loss(states, factor):
        head = Head(matrix, False, 1.0, "float32")
        value, _ = weighted_loss(states, head, targets, weights, label_smoothing=0.0, z_loss=0.0)
        return factor * value**2

    def by_jax(states, factor):
        terms = {"label_smoothing": 0.0, "z_loss": 0.0}
        value, _ = by_logits(states, matrix, targets, weights, False, 1.0, **terms)
        return factor * value**2

    found, expected = (jax.grad(f)(states, 3.0) for f in (loss, by_jax))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_ties_are_wrong_unless_the_target_comes_first():
    states = jnp.ones((1, 3, 1), jnp.float32)
    head = Head(jnp.asarray([[1.0, 2.0, 2.0, 0.0]]), False, 1.0, "float32")
    targets = jnp.asarray([[1, 2, 3]], jnp.int32)
    weights = jnp.ones((1, 3), jnp.float32)
    _, tokens = weighted_loss(states, head, targets, weights, label_smoothing=0.0, z_loss=0.0)
    assert tokens.right.tolist() == [[1.0, 0.0, 0.0]]


def largest_array(function, *arguments) -> int:
    """Elements of the largest array that the function's program makes."""

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (variable.aval.size for variable in equation.outvars)
            for inner in jax.core.jaxprs_in_params(equation.params):
                yield from sizes(inner)

    return max(sizes(jax.make_jaxpr(function)(*arguments).jaxpr))


def test_logits_never_exist_as_a_whole():
    states, matrix, targets, weights = draw(0, 8, 16, 500, False)

    def loss(states, matrix, chunk):
        head = Head(matrix, False, 1.0, "float32")
        return weighted_loss(
            states, head, targets, weights, label_smoothing=0.0, z_loss=0.0, max_chunk_logits=chunk
        )[0]

    def largest(chunk):
        grad = jax.grad(lambda *operands: loss(*operands, chunk), (0, 1))
        return largest_array(grad, states, matrix)

    assert largest(10**9) == 8 * 16 * 500
    assert largest(4 * 500) == 500 * EMBED  # the head itself


@pytest.mark.parametrize("factor", [None, 3.0, "NUM_REAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE"])
def test_both_forms_of_the_loss_agree(factor):
    states, matrix, targets, weights = draw(1, 2, 5, 9, False)
    batch = {
        "decoder_target_tokens": targets,
        "decoder_loss_weights": weights,
        "decoder_segment_ids": jnp.asarray([[1, 1, 2, 2, 0], [1, 1, 1, 1, 1]]),
        "decoder_task_ids": jnp.asarray([[0, 0, 1, 1, -1], [1, 1, 1, 1, 1]]),
    }
    loss = Loss(label_smoothing=0.1, z_loss=1e-3, normalizing_factor=factor)
    head = Head(matrix, False, 1.0, "float32")
    found = loss.of_states(states, head, batch, 2)
    expected = loss.of_logits(states @ matrix, batch, 2)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
