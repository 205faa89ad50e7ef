"""Programs that the tests of the compiler build in its process."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flan_jax.errors import UserError
from flan_jax.plan.traced_step import TracedStep


def gathered_layers(devices: Sequence[Any], rows: int, width: int, layers: int) -> TracedStep:
    """A product of all layers of a stack, each gathered from all devices; then a kernel."""
    mesh = jax.make_mesh((len(devices),), ("fsdp",), (AxisType.Explicit,), devices=devices)

    def layer(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, None]:
        whole = jax.sharding.reshard(kernel, P(None, None))
        return jnp.einsum("bi,io->bo", x, whole, out_sharding=P("fsdp", None)), None

    def forward(x: jax.Array, stack: jax.Array) -> jax.Array:
        x = jax.lax.scan(layer, x, stack)[0]
        return jax.shard_map(twice, in_specs=P("fsdp"), out_specs=P("fsdp"), check_vma=False)(x)

    with jax.set_mesh(mesh):
        x = jax.ShapeDtypeStruct(
            (rows, width), jnp.bfloat16, sharding=NamedSharding(mesh, P("fsdp"))
        )
        stack = jax.ShapeDtypeStruct(
            (layers, width, width), jnp.bfloat16, sharding=NamedSharding(mesh, P(None, "fsdp"))
        )
        return TracedStep(jax.jit(forward).trace(x, stack), tokens=rows, info={"layers": layers})


def twice(x: jax.Array) -> jax.Array:
    """Twice x, by a kernel."""

    def kernel(x_ref, out_ref):
        out_ref[...] = x_ref[...] * 2

    block = pl.BlockSpec((128, x.shape[1]), lambda i: (i, 0))
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    grid = (x.shape[0] // 128,)
    return pl.pallas_call(
        kernel, grid=grid, in_specs=[block], out_specs=block, out_shape=shape, name="twice"
    )(x)


def misconfigured(devices: Sequence[Any]) -> TracedStep:
    """What a user did wrong."""
    raise UserError("BATCH_SIZE 3 cannot be split")


def killed(devices: Sequence[Any]) -> TracedStep:
    """What libtpu does of some programs."""
    os.kill(os.getpid(), signal.SIGABRT)
    raise AssertionError
