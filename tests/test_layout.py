"""The types of what models compute on a mesh: what is gathered, partial, scattered."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from flan_jax.layout import (
    complete,
    gather_fsdp,
    is_partial,
    look_up,
    mesh_platform,
    product,
    whole_length,
)
from flan_jax.sharding import MESH_AXES, _rules, standard_logical_axis_rules

BATCH = ("replica", "data", "fsdp")
MESH = AbstractMesh((1, 1, 4, 2), MESH_AXES, axis_types=(AxisType.Explicit,) * 4)


@pytest.fixture(params=[1, 2], ids=["activations 1", "activations 2"])
def split_length(request):
    """Whether the residual stream is split along length; the mesh and its rules are in force."""
    token = _rules.set(standard_logical_axis_rules(activation_partitioning_dims=request.param))
    with jax.sharding.use_abstract_mesh(MESH):
        yield request.param == 2
    _rules.reset(token)


def shaped(*shape: int, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
    sharding = jax.sharding.NamedSharding(MESH, spec)
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)


def type_of(function, *arguments) -> PartitionSpec:
    found = []

    def traced(*arguments):
        found.append(jax.typeof(function(*arguments)).sharding.spec)
        return 0

    jax.jit(traced).trace(*arguments)
    return found[0]


def residual(split_length: bool) -> jax.ShapeDtypeStruct:
    return shaped(8, 4, 16, spec=PartitionSpec(BATCH, "tensor" if split_length else None, None))


UP = shaped(16, 32, spec=PartitionSpec("fsdp", "tensor"))
DOWN = shaped(32, 16, spec=PartitionSpec("tensor", "fsdp"))


def feed_forward(x, up, down):
    hidden = product(whole_length(x), gather_fsdp(up, "embed", "mlp"), "embed", "mlp")
    return product(hidden, gather_fsdp(down, "mlp", "embed"), "mlp", "embed")


def test_a_gathered_parameter_is_whole_along_fsdp_and_its_gradient_is_not(split_length):
    gathered = type_of(lambda p: gather_fsdp(p, "embed", "mlp"), UP)
    assert gathered.partitions == (None, "tensor")
    assert gathered.reduced == frozenset(BATCH)

    def loss(x, up, down):
        return jnp.sum(complete(feed_forward(x, up, down)) ** 2)

    for index, parameter in ((1, UP), (2, DOWN)):
        grad = type_of(jax.grad(loss, index), residual(split_length), UP, DOWN)
        assert grad == parameter.sharding.spec


def test_products_leave_partial_sums_which_are_completed_once(split_length):
    x = residual(split_length)
    partial = type_of(feed_forward, x, UP, DOWN)
    assert partial.unreduced == frozenset({"tensor"})
    assert partial.partitions == (BATCH, None, None)
    done = type_of(lambda x, *p: complete(feed_forward(x, *p), feed_forward(x, *p), x), x, UP, DOWN)
    assert done == x.sharding.spec

    def both(x, up, down):
        return complete(feed_forward(x, up, down), feed_forward(2 * x, up, down))

    # One sum over devices, after the two parts are added.
    equations = jax.jit(both).trace(x, UP, DOWN).jaxpr.eqns
    summed = [e for e in equations if e.primitive.name == "reshard"]
    summed = [e for e in summed if e.invars[0].aval.sharding.spec.unreduced]
    assert len(summed) == 1


def test_whole_length_is_shared_by_the_products_that_read_it(split_length):
    x = residual(split_length)
    whole = type_of(whole_length, x)
    assert whole.partitions == (BATCH, None, None)
    assert whole.reduced == frozenset({"tensor"})
    assert type_of(jax.grad(lambda x: jnp.sum(whole_length(x))), x) == x.sharding.spec


def test_a_product_split_along_length_stays_so(split_length):
    """PaLM's keys and values: each device makes its part of the positions."""
    if not split_length:
        pytest.skip("needs two-dimensional activations")
    kernel = shaped(16, 4, spec=PartitionSpec("fsdp", None))

    def keys(x, kernel):
        return product(x, gather_fsdp(kernel, "embed", "kv", x=x), "embed", "kv")

    x = residual(True)
    assert type_of(keys, x, kernel) == PartitionSpec(BATCH, "tensor", None)
    grad = type_of(jax.grad(lambda x, k: jnp.sum(keys(x, k)), 1), x, kernel)
    assert grad == kernel.sharding.spec


def test_rows_of_a_split_table(split_length):
    table = shaped(64, 16, spec=PartitionSpec("tensor", "fsdp"))
    ids = jax.ShapeDtypeStruct(
        (8, 4), jnp.int32, sharding=jax.sharding.NamedSharding(MESH, PartitionSpec(BATCH, None))
    )
    assert type_of(look_up, table, ids) == residual(split_length).sharding.spec
    grad = type_of(jax.grad(lambda t, i: jnp.sum(look_up(t, i))), table, ids)
    assert grad == table.sharding.spec


def test_without_a_mesh_nothing_is_laid_out():
    rng = np.random.default_rng(0)
    x, up, down = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 4), (4, 5), (5, 4)))
    assert mesh_platform() is None
    found = complete(feed_forward(jnp.asarray(x), jnp.asarray(up), jnp.asarray(down)))
    assert not is_partial(found)
    np.testing.assert_allclose(found, x @ up @ down, rtol=1e-5, atol=1e-5)
    table = jnp.asarray(rng.standard_normal((7, 4)), jnp.float32)
    ids = jnp.asarray([[0, 6, 9], [-1, 3, 2]])  # out of range: clamped
    np.testing.assert_array_equal(look_up(table, ids), table[jnp.clip(ids, 0, 6)])


def test_on_cpus_the_gradient_of_a_long_kernel_is_the_transpose_of_a_product():
    x = jax.random.normal(jax.random.key(0), (2, 64, 48))
    kernel = jax.random.normal(jax.random.key(1), (48, 16))

    def loss(kernel):
        return jnp.sum(jnp.sin(product(x, kernel, "mlp", "embed")))

    compiled = jax.jit(jax.grad(loss)).lower(kernel).compile()
    rows = np.asarray(x).reshape(-1, 48)
    expected = rows.T @ np.cos(rows @ np.asarray(kernel))
    np.testing.assert_allclose(compiled(kernel), expected, rtol=1e-4, atol=1e-4)
    shapes = re.findall(r"f32\[(\d+),(\d+)\]\S* dot\(", compiled.as_text())
    assert ("16", "48") in shapes
    assert ("48", "16") not in shapes
