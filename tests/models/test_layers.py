"""What layers keep for the backward pass, and that computing the rest again changes nothing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Var

from flan_jax.models.layers import Dense, LayerNorm, MlpBlock, RMSNorm

FLOAT32 = jnp.dtype("float32")


def kept_for_backward(function, *args) -> list[Any]:
    """Types of the values, each once, that the backward pass holds besides `args`."""
    traced = jax.make_jaxpr(lambda *args: jax.vjp(function, *args)[1])(*args).jaxpr
    results = dict.fromkeys(var for var in traced.outvars if isinstance(var, Var))
    return [var.aval for var in results if var not in traced.invars]


def test_gated_gelu_keeps_two_arrays_of_its_hidden_size():
    block = MlpBlock(4, 32, ("gelu", "linear"), jax.random.key(0))
    x = jnp.ones((2, 3, 4))
    kept = kept_for_backward(lambda block, x: block(x, FLOAT32), block, x)
    assert sorted(leaf.size for leaf in kept if leaf.size >= 2 * 3 * 32) == [192, 192]


def test_gradient_of_gated_gelu_is_that_of_its_formula():
    block = MlpBlock(4, 8, ("gelu", "linear"), jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (2, 3, 4))
    rate_mask = jnp.asarray([2.0, 0.0] * 4)

    def plain(block: MlpBlock, x: jax.Array) -> jax.Array:
        gate, linear, wo = (
            getattr(block, name).kernel.get_value() for name in ("wi_0", "wi_1", "wo")
        )
        hidden = jax.nn.gelu(x @ gate, approximate=True) * (x @ linear)
        return jnp.sum(jnp.sin((hidden * rate_mask) @ wo))

    def ours(block: MlpBlock, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(block(x, FLOAT32, lambda hidden: hidden * rate_mask)))

    found, expected = (jax.grad(f, (0, 1))(block, x) for f in (ours, plain))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [RMSNorm, LayerNorm])
def test_norms_keep_their_input_alone(kind):
    x = jnp.ones((2, 3, 8))
    kept = kept_for_backward(lambda norm, x: norm(x, FLOAT32), kind(8), x)
    assert not [leaf for leaf in kept if leaf.size >= x.size]


def test_projections_of_one_input_keep_it_once():
    layers = [Dense((8, 4), ("embed", "mlp"), jax.random.key(i)) for i in range(3)]

    def project(layers: list[Dense], x: jax.Array) -> list[jax.Array]:
        y = 2.0 * x
        return [layer(y, "mlp", FLOAT32) for layer in layers]

    kept = kept_for_backward(project, layers, jnp.ones((2, 3, 8)))
    assert [leaf.size for leaf in kept if leaf.size >= 48] == [48]
