"""The largest arrays of a traced program, by device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flan_jax.plan.largest_arrays import largest_arrays


def test_arrays_are_named_by_operation_and_place_largest_first():
    def step(x):
        with jax.named_scope("attention"):
            scores = x[:, None, :] * x[None, :, :]
        return jnp.sum(jnp.exp(scores), axis=(0, 1))

    found = largest_arrays(jax.jit(step).trace(jnp.zeros((64, 8))).jaxpr, 3)
    assert found[0]["gib"] == 64 * 64 * 8 * 4 / 2**30
    assert found[0]["name"].startswith("float32[64,64,8] ")
    assert "attention" in found[0]["name"]
    assert [each["gib"] for each in found] == sorted((e["gib"] for e in found), reverse=True)


def test_what_loops_keep_is_counted_and_what_is_split_only_in_part():
    mesh = AbstractMesh((4,), ("fsdp",), axis_types=(AxisType.Explicit,))
    shape = jax.ShapeDtypeStruct(
        (8, 16), jnp.float32, sharding=NamedSharding(mesh, P("fsdp", None))
    )

    def step(x):
        return jax.lax.scan(lambda carry, _: (carry * 2, carry), x, None, length=5)[1]

    with jax.sharding.use_abstract_mesh(mesh):
        found = largest_arrays(jax.jit(step).trace(shape).jaxpr)
    assert found[0]["name"].startswith("float32[5,8,16] scan")
    assert found[0]["gib"] == pytest.approx(5 * 8 * 16 * 4 / 4 / 2**30)


def test_within_shard_map_shapes_are_those_of_a_device():
    mesh = AbstractMesh((4,), ("fsdp",), axis_types=(AxisType.Explicit,))
    shape = jax.ShapeDtypeStruct(
        (8, 16), jnp.float32, sharding=NamedSharding(mesh, P("fsdp", None))
    )

    def outer(x):
        return jnp.sum(x[:, :, None] * x[:, None, :], axis=2)

    def step(x):
        return jax.shard_map(outer, in_specs=P("fsdp", None), out_specs=P("fsdp", None))(x)

    with jax.sharding.use_abstract_mesh(mesh):
        found = largest_arrays(jax.jit(step).trace(shape).jaxpr)
    assert found[0]["name"].startswith("float32[2,16,16]")
    assert found[0]["gib"] == 2 * 16 * 16 * 4 / 2**30
