"""How models lay out what they compute, by the rules in force (`flan_jax.sharding`).

Every activation names its dimensions where it is produced. Without a mesh every helper is a no-op
and the model is ordinary single-device JAX.

On a mesh three kinds of arrays beyond the plainly split meet in a layer, and the types tell them
apart:

    gathered parameters   whole along `fsdp`; their gradients are partial sums over the batch axes,
                          which the transpose of the gather scatters (`gather_fsdp`)
    inputs of products    whole along `length`; gathered once for all products that read them, and
                          their gradients are summed before one scatter (`whole_length`)
    partial sums          what a product over a dimension split over `tensor` leaves on each device;
                          may be added to others before they are summed (`product`, `complete`)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float, Int

from flan_jax.sharding import as_tuple, partition_spec

# By these names policies of `jax.checkpoint` know what they keep.
GATHERED = "gathered_parameter"
GATHERED_INPUT = "gathered_input"


def _explicit_mesh() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and all(kind == AxisType.Explicit for kind in mesh.axis_types)


def mesh_platform() -> str | None:
    """Platform of the current mesh's devices ("cpu", "gpu", "tpu"), None without a mesh.

    Not that of this machine: what is compiled ahead of time is compiled for the mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.abstract_device is None:
        return None
    platform = mesh.abstract_device.platform
    return "gpu" if platform in ("cuda", "rocm") else platform


def mesh_device_kind() -> str | None:
    """Such as "TPU v4", of the current mesh's devices; None without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.abstract_device is None else mesh.abstract_device.device_kind


def out_sharding(*axes: str | None) -> PartitionSpec | None:
    """For `out_sharding=` arguments: the spec of these logical axes, None without a mesh."""
    return partition_spec(axes) if _explicit_mesh() else None


def constrain(x: Array, *axes: str | None) -> Array:
    """The array laid out by its logical axes; itself without a mesh."""
    return jax.sharding.reshard(x, partition_spec(axes)) if _explicit_mesh() else x


def einsum(equation: str, x: Array, y: Array, axes: Sequence[str | None]) -> Array:
    """`jnp.einsum` whose result has the given logical axes."""
    return jnp.einsum(equation, x, y, out_sharding=out_sharding(*axes))


def _axes_of(name: str) -> tuple[str, ...]:
    return as_tuple(partition_spec((name,))[0])


def gather_fsdp(parameter: Array, *axes: str | None, x: Array | None = None) -> Array:
    """A parameter as it is used: whole along `fsdp`, still split along `tensor`.

    The all-gather of fully sharded data parallelism. "Reduced" over the axes of the batch: its
    gradient arrives as a partial sum, and the transpose of the gather is a reduce-scatter.

    Args:
      parameter: as it is stored.
      *axes: its logical axes.
      x: [batch, length, ...], what it is multiplied with; if that is split along `length` too, the
        gradient is a partial sum there as well.
    """
    if not _explicit_mesh():
        return parameter
    return checkpoint_name(jax.sharding.reshard(parameter, _whole(axes, x)), GATHERED)


def _whole(axes: Sequence[str | None], x: Array | None) -> PartitionSpec:
    spec = [
        tuple(axis for axis in as_tuple(mesh_axes) if axis == "tensor") or None
        for mesh_axes in partition_spec(axes)
    ]
    summed = _axes_of("batch")
    if x is not None:
        summed += as_tuple(jax.typeof(x).sharding.spec.partitions[1])
    return PartitionSpec(*spec, reduced=frozenset(summed))


def gathered_before(
    parameter: Array, gathered: Array, *axes: str | None, x: Array | None = None
) -> Array:
    """As `gather_fsdp`, of a parameter that `gather_fsdp` gathered once for all layers.

    The gradient goes to `parameter`, layer by layer: of `gathered` there would be one of its size.
    """
    if not _explicit_mesh():
        return parameter.astype(gathered.dtype)
    stored, dtype = jax.typeof(parameter).sharding.spec, parameter.dtype

    @jax.custom_vjp
    def use(parameter: Array, whole: Array) -> Array:
        del parameter
        return whole

    def backward(_: None, gradient: Array) -> tuple[Array, None]:
        return jax.sharding.reshard(gradient, stored).astype(dtype), None

    use.defvjp(lambda parameter, whole: (whole, None), backward)
    return use(parameter, jax.sharding.reshard(gathered, _whole(axes, x)))


def whole_length(
    x: Float[Array, "batch length embed"],
) -> Float[Array, "batch length embed"]:
    """Activations as products with kernels split over `tensor` read them: whole along `length`.

    An all-gather where `length` is split (sequence parallelism), otherwise free; its transpose
    sums the gradients of all products that read x, once.
    """
    if not _explicit_mesh():
        return x
    batch = partition_spec(("batch",))[0]
    whole = PartitionSpec(batch, None, None, reduced=frozenset({"tensor"}))
    return checkpoint_name(jax.sharding.reshard(x, whole), GATHERED_INPUT)


def product(
    x: Float[Array, "batch length inputs"],
    kernel: Float[Array, "inputs outputs"],
    in_axis: str,
    out_axis: str,
) -> Float[Array, "batch length outputs"]:
    """X @ kernel; a partial sum over the mesh axes that split `in_axis`, if there are any.

    Args:
      x: split along its last dimension as `in_axis` is; from `whole_length` if `out_axis` is split.
      kernel: from `gather_fsdp`.
      in_axis, out_axis: logical axes of the kernel.
    """
    if mesh_platform() in (None, "cpu") and kernel.shape[0] > kernel.shape[1]:
        kernel = _gradient_transposed(kernel)
    if not _explicit_mesh():
        rows = jnp.reshape(x, (-1, x.shape[-1]))
        return jnp.reshape(rows @ kernel, (*x.shape[:2], kernel.shape[1]))
    spec = jax.typeof(x).sharding.spec
    batch, length, inputs = spec.partitions
    if "tensor" in _axes_of(in_axis):
        outputs, partial = None, frozenset({"tensor"})
    else:
        outputs, partial = "tensor" if "tensor" in _axes_of(out_axis) else None, frozenset()
    whole = PartitionSpec(batch, length, outputs, unreduced=partial)
    if length is not None or mesh_platform() != "cpu":
        return jnp.einsum("bli,io->blo", x, kernel, out_sharding=whole)
    # Rows of all positions in one matrix: on CPUs the gradient is 1.7 times as fast as that of a
    # product with two leading dimensions, elsewhere it is the same program.
    merged = PartitionSpec(batch, inputs, reduced=spec.reduced)
    rows = jnp.reshape(x, (-1, x.shape[-1]), out_sharding=merged)
    out = PartitionSpec(batch, outputs, unreduced=partial)
    product = jnp.einsum("ni,io->no", rows, kernel, out_sharding=out)
    return jnp.reshape(product, (*x.shape[:2], kernel.shape[1]), out_sharding=whole)


@jax.custom_vjp
def _gradient_transposed(
    kernel: Float[Array, "inputs outputs"],
) -> Float[Array, "inputs outputs"]:
    """The kernel, whose gradient is made as the transpose of a product with the short side first.

    XLA's product of a long by a short side, over many rows, reaches 75 GFLOP/s on a core of a CPU
    where that of a short by a long side reaches 115. The barrier keeps XLA from turning it round.
    """
    return kernel


def _transposed_forward(kernel: Array) -> tuple[Array, None]:
    return kernel, None


def _transposed_backward(_: None, grad: Array) -> tuple[Array]:
    return (jax.lax.optimization_barrier(grad.T).T,)


_gradient_transposed.defvjp(_transposed_forward, _transposed_backward)


def is_partial(x: Array) -> bool:
    """Whether x is a partial sum."""
    return bool(jax.typeof(x).sharding.spec.unreduced)


def complete(*parts: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
    """The sum of its arguments, of which some may be partial sums, as the residual stream is split.

    Partial sums are added first and summed over devices once: by an all-reduce, or by a
    reduce-scatter where `length` is split.
    """
    if not _explicit_mesh():
        return functools.reduce(jnp.add, parts)
    partial = [part for part in parts if is_partial(part)]
    rest = [part for part in parts if not is_partial(part)]
    if partial:
        rest.append(functools.reduce(jnp.add, partial))
    residual = partition_spec(("batch", "length", "embed"))
    laid_out = [jax.sharding.reshard(part, residual) for part in rest]
    return functools.reduce(jnp.add, laid_out)


def look_up(
    table: Float[Array, "vocab embed"], ids: Int[Array, "batch length"]
) -> Float[Array, "batch length embed"]:
    """`table[ids]` for a table split along both dimensions; out-of-range ids are clamped.

    Neither a one-hot product (1.6 times the training time of a small T5) nor a gathered copy of
    the table: each device finds, in its columns and for the ids of its whole `fsdp` group, the rows
    that it owns; `tensor` adds up, and an all-to-all hands each device the columns of its own ids.

    Args:
      table: a parameter with logical axes (vocab, embed), as it is stored.
      ids: integers.
    """
    if not _explicit_mesh():
        return jnp.take(table, ids, axis=0, mode="clip")
    rows, columns = partition_spec(("vocab", "embed"))
    batch, length, _ = partition_spec(("batch", "length", "embed"))
    split_rows, split_columns = as_tuple(rows) == ("tensor",), as_tuple(columns)
    if (rows and not split_rows) or not set(split_columns) <= set(as_tuple(batch)):
        # Rules of the user's own: leave it to the compiler.
        whole = jax.sharding.reshard(table, PartitionSpec(None, None))
        return whole.at[ids].get(mode="clip", out_sharding=PartitionSpec(batch, length, None))
    scattered = split_rows and "tensor" in as_tuple(length)

    def part(table: Array, ids: Array) -> Array:
        for axis in reversed(split_columns):
            ids = jax.lax.all_gather(ids, axis, axis=0, tiled=True)
        index = jnp.clip(ids, 0, vocab - 1)
        if split_rows:
            index = index - jax.lax.axis_index("tensor") * table.shape[0]
            mine = (index >= 0) & (index < table.shape[0])
            found = jnp.where(mine[..., None], table[jnp.where(mine, index, 0)], 0)
            if scattered:
                found = jax.lax.psum_scatter(found, "tensor", scatter_dimension=1, tiled=True)
            else:
                found = jax.lax.psum(found, "tensor")
        else:
            found = table[index]
        for axis in split_columns:
            found = jax.lax.all_to_all(found, axis, 0, 2, tiled=True)
        return found

    vocab = table.shape[0]
    out = PartitionSpec(batch, "tensor" if scattered else None, None)
    specs = (PartitionSpec(rows, columns), PartitionSpec(batch, None))
    table, ids = (
        jax.sharding.reshard(x, spec) for x, spec in zip((table, ids), specs, strict=True)
    )
    found = jax.shard_map(part, in_specs=specs, out_specs=out)(table, ids)
    return jax.sharding.reshard(found, PartitionSpec(batch, length, None))
