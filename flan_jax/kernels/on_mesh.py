"""`flash_attention` on a mesh with Explicit axes: each device attends for its rows and heads."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from flan_jax.kernels.flash_attention import flash_attention

MeshAxes = str | tuple[str, ...] | None


def flash_attention_on_mesh(
    query: Float[Array, "batch q heads kv"],
    key: Float[Array, "batch k key_heads kv"],
    value: Float[Array, "batch k key_heads kv"],
    *,
    batch_axes: MeshAxes,
    head_axes: MeshAxes,
    query_segments: Int[Array, "batch q"],
    key_segments: Int[Array, "batch k"],
    prefix: Bool[Array, "batch k"] | None = None,
    bias_by_offset: Float[Array, "heads offsets"] | Float[Array, "heads 8 padded"] | None = None,
    key_weights: Float[Array, "batch heads k"] | None = None,
    **options: Any,
) -> Float[Array, "batch q heads kv"]:
    """`flash_attention`, split over a mesh; arguments as there, and:

    Args:
      batch_axes, head_axes: mesh axes over which the batch and the heads are split, and along which
        the operands must be laid out. A single key head is whole on every device, and its gradient
        is summed over `head_axes`; the bias's is over `batch_axes`. Lengths are whole.
      options: the keyword arguments of `flash_attention` that are no arrays.
    """
    rows, heads = PartitionSpec(batch_axes), head_axes
    key_heads = None if key.shape[2] == 1 else head_axes
    keys = PartitionSpec(batch_axes, None, key_heads, None)
    arrays = {
        "query": (query, PartitionSpec(batch_axes, None, heads, None)),
        "key": (key, keys),
        "value": (value, keys),
        "query_segments": (query_segments, rows),
        "key_segments": (key_segments, rows),
        "prefix": (prefix, rows),
        "bias_by_offset": (bias_by_offset, PartitionSpec(heads)),
        "key_weights": (key_weights, PartitionSpec(batch_axes, heads, None)),
    }
    given = {name: array for name, (array, _) in arrays.items() if array is not None}
    specs = {name: arrays[name][1] for name in given}

    def local(given: dict[str, Array]) -> Array:
        return flash_attention(**given, **options)

    # JAX's interpreter cannot keep track of what varies over which axes; results are the same.
    tracked = not options.get("interpret", False)
    return jax.shard_map(local, in_specs=(specs,), out_specs=specs["query"], check_vma=tracked)(
        given
    )
