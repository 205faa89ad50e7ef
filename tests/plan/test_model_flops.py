"""Model FLOPs, against numbers worked out by hand and PaLM's formula."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from flan_jax.data.row_format import DecoderOnlyRows
from flan_jax.models.decoder_only import DecoderOnlyModel
from flan_jax.models.palm import PalmConfig
from flan_jax.plan.model_flops import jaxpr_flops
from flan_jax.train.step import make_eval_step


def flops(function, *shapes: tuple[int, ...]) -> float:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jaxpr_flops(jax.make_jaxpr(function)(*arguments))


def test_products() -> None:
    assert flops(jnp.matmul, (2, 3), (3, 5)) == 2 * 2 * 3 * 5
    batched = flops(lambda x, y: jnp.einsum("bqhd,bkhd->bhqk", x, y), (2, 7, 3, 4), (2, 9, 3, 4))
    assert batched == 2 * (2 * 3 * 7 * 9) * 4
    assert flops(jnp.add, (8, 8), (8, 8)) == 0


def test_convolutions() -> None:
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert flops(convolve, (1, 8, 8, 3), (5, 5, 3, 16)) == 2 * (8 * 8 * 16) * (5 * 5 * 3)


def test_scans_and_branches() -> None:
    def scanned(x: jax.Array, layers: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (x @ w, None), x, layers)[0]

    product = 2 * 4 * 8 * 8
    assert flops(scanned, (4, 8), (6, 8, 8)) == 6 * product

    def branched(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.cond(x.sum() > 0, lambda: x @ w, lambda: x)

    assert flops(branched, (4, 8), (8, 8)) == product
    remat = jax.checkpoint(lambda x, w: x @ w)
    assert flops(remat, (4, 8), (8, 8)) == product


def test_manual_parts_count_for_all_devices() -> None:
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    with jax.sharding.use_abstract_mesh(mesh):
        apart = jax.shard_map(
            lambda x, w: x @ w, in_specs=(spec, PartitionSpec()), out_specs=spec, mesh=mesh
        )
        assert flops(apart, (16, 8), (8, 8)) == 2 * 16 * 8 * 8


def kernel(steps: int):
    def body(x_ref, y_ref, out_ref):
        def add(_, total):
            return total + jnp.dot(x_ref[...], y_ref[...])

        out_ref[...] = jax.lax.fori_loop(0, steps, add, jnp.zeros_like(out_ref))

    return pl.pallas_call(
        body,
        grid=(4,),
        in_specs=[pl.BlockSpec((8, 16), lambda i: (i, 0)), pl.BlockSpec((16, 8), lambda i: (0, 0))],
        out_specs=pl.BlockSpec((8, 8), lambda i: (i, 0)),
        out_shape=jax.ShapeDtypeStruct((32, 8), jnp.float32),
    )


def test_kernels() -> None:
    """The products of a block times the grid and the loop around them."""
    assert flops(kernel(3), (32, 16), (16, 8)) == 4 * 3 * (2 * 8 * 16 * 8)


def test_training_by_palms_formula() -> None:
    """A forward pass of 2 N + 4 L T H Q FLOPs a token (Chowdhery et al. 2022, appendix B).

    N leaves out the embedding's use as look-up; PaLM's logits use the same table.
    """
    length, batch = 32, 2
    config = PalmConfig(
        vocab_size=64, emb_dim=16, num_heads=4, num_layers=3, head_dim=8, mlp_dim=48
    )
    model = DecoderOnlyModel(module=config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    num_parameters = sum(p.size for p in jax.tree.leaves(params) if p.ndim >= 2)
    rows = {
        name: jax.ShapeDtypeStruct((batch, *row.shape), row.dtype)
        for name, row in DecoderOnlyRows(length).row([]).items()
    }
    counted = jaxpr_flops(jax.make_jaxpr(make_eval_step(model, 1))(params, rows))
    tokens = batch * length
    expected = tokens * (2 * num_parameters + 4 * 3 * length * 4 * 8)
    assert counted == pytest.approx(expected, rel=0.01)
