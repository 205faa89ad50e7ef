"""Dot-product attention: which keys a query sees, and the implementations that compute it.

    plain   two matrix products and a softmax, for any platform; the reference of the others
    flash   a Pallas kernel for TPUs (`flan_jax.kernels`): no [q, k] array in memory
    cudnn   the flash kernels of NVIDIA's cuDNN, in bfloat16

"auto" is the one for the mesh that a program is compiled for, not for this machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flan_jax.layout import constrain, einsum, mesh_device_kind, mesh_platform, out_sharding
from flan_jax.models.layers import dropout
from flan_jax.sharding import partition_spec

IMPLEMENTATIONS = ("auto", "plain", "flash", "cudnn")

# Added to (here: put in place of) masked logits, as in T5X; finite, so that the softmax of a fully
# masked row (a padding query) is uniform and not NaN.
MASKED = -1e10


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Visibility:
    """Which keys each query sees: those of its own segment, as far as causality allows.

    Attributes:
      query_segments, key_segments: 0 marks padding, which sees and is seen by nothing.
      causal: whether keys after the query are hidden.
      prefix: positions that see each other whatever `causal` says (of one segment).
    """

    query_segments: Int[Array, "batch q"]
    key_segments: Int[Array, "batch k"]
    causal: bool = field(default=False, metadata={"static": True})
    prefix: Bool[Array, "batch k"] | None = None

    def mask(self) -> Bool[Array, "batch q k"]:
        """True where a query sees a key."""
        queries, keys = self.query_segments, self.key_segments
        mask = attention_mask(queries > 0, keys > 0, queries, keys)
        if not self.causal:
            return mask
        allowed = causal_mask(queries.shape[1])
        if self.prefix is not None:
            allowed = allowed | (self.prefix[:, :, None] & self.prefix[:, None, :])
        return mask & allowed


def segments_of(
    real: Bool[Array, "batch length"], segments: Int[Array, "batch length"] | None
) -> Int[Array, "batch length"]:
    """Segment ids of a row for `Visibility`: 0 on padding, one segment if the row is not packed."""
    return jnp.where(real, 1 if segments is None else segments + 1, 0)


def attention_mask(
    queries: Bool[Array, "batch q"],
    keys: Bool[Array, "batch k"],
    query_segments: Int[Array, "batch q"] | None = None,
    key_segments: Int[Array, "batch k"] | None = None,
) -> Bool[Array, "batch q k"]:
    """True where both sides are real tokens and, if packed, of the same segment."""
    mask = queries[:, :, None] & keys[:, None, :]
    if query_segments is not None and key_segments is not None:
        mask &= query_segments[:, :, None] == key_segments[:, None, :]
    return mask


def causal_mask(length: int) -> Bool[Array, "1 length length"]:
    """True where the key is not after the query."""
    index = jnp.arange(length)
    return (index[:, None] >= index[None, :])[None]


def resolve(implementation: str, dtype: str) -> str:
    """What "auto" means for the current mesh; other names as they are.

    TPUs before v4 have no flash kernel here, and cuDNN none for float32.
    """
    if implementation != "auto":
        return implementation
    platform = mesh_platform()
    if platform == "tpu":
        return "plain" if mesh_device_kind() in ("TPU v2", "TPU v3") else "flash"
    return "cudnn" if platform == "gpu" and dtype == "bfloat16" else "plain"


def kept_keys(
    shape: tuple[int, int, int], rate: float, key: Key[Array, ""] | None, dtype: jnp.dtype
) -> Float[Array, "batch heads k"] | None:
    """What dropout of attention weights multiplies them by: 0 or 1 / (1 - rate); None for nothing.

    One mask for all queries, as in T5X.

    Args:
      shape: batch, keys, heads.
    """
    if key is None or rate == 0.0:
        return None
    batch, keys, heads = shape
    axes = ("batch", "heads", None, None)
    ones = constrain(jnp.ones((batch, heads, 1, keys), dtype), *axes)
    return dropout(ones, rate, key, axes)[:, :, 0]


def dot_product_attention(
    query: Float[Array, "batch q heads kv"],
    key: Float[Array, "batch k #heads kv"],
    value: Float[Array, "batch k #heads kv"],
    seen: Visibility | Bool[Array, "batch q k"],
    bias: Float[Array, "heads ..."] | None = None,
    kept: Float[Array, "batch heads k"] | None = None,
    implementation: str = "plain",
) -> Float[Array, "batch q heads kv"]:
    """softmax(query @ key + bias) @ value over the keys that each query sees, in value's dtype.

    Softmax is in float32; there is no 1 / sqrt(kv). Of a query that sees no key, the result is
    finite and of no meaning.

    Args:
      query: split over heads.
      key, value: as many heads as queries, or one for all.
      seen: a mask only if "plain".
      bias: [heads, q, k]; for "flash" from `kernels.flash_attention.laid_out_bias`.
      kept: multiplies the weights after the softmax; from `kept_keys`.
      implementation: one of IMPLEMENTATIONS but "auto"; see `resolve`.
    """
    if implementation == "flash" and isinstance(seen, Visibility):
        return _flash(query, key, value, seen, bias, kept)
    mask = seen.mask() if isinstance(seen, Visibility) else seen
    if implementation == "cudnn":
        return _cudnn(query, key, value, mask, bias, kept)
    return _plain(query, key, value, mask, bias, kept)


def _plain(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    bias: Array | None,
    kept: Array | None,
) -> Array:
    axes, mixed = ("batch", "heads", None, None), ("batch", None, "heads", "kv")
    one_head = key.shape[2] != query.shape[2]
    if one_head:
        key, value = (jnp.reshape(x, (*x.shape[:2], x.shape[3])) for x in (key, value))
    heads_first = not one_head and mesh_platform() in (None, "cpu")
    if heads_first:
        # On CPUs a product over heads that lie between length and kv takes up to twice as long,
        # its gradients too. Elsewhere the compiler lays arrays out as it likes.
        query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
        equations, mixed = ("bhqd,bhkd->bhqk", "bhqk,bhkd->bhqd"), ("batch", "heads", None, "kv")
    else:
        single = ("bqhd,bkd->bhqk", "bhqk,bkd->bqhd")
        equations = single if one_head else ("bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd")
    logits = einsum(equations[0], query, key, axes)
    probs = attention_probs(logits, mask[:, None], bias, value.dtype)
    if kept is not None:
        probs = probs * kept[:, :, None]
    out = einsum(equations[1], probs, value, mixed)
    return jnp.swapaxes(out, 1, 2) if heads_first else out


def _flash(
    query: Array,
    key: Array,
    value: Array,
    seen: Visibility,
    bias: Array | None,
    kept: Array | None,
) -> Array:
    # Here, as CPUs have no use for the kernels, and Pallas takes a while to import.
    from flan_jax.kernels.flash_attention import flash_attention
    from flan_jax.kernels.on_mesh import flash_attention_on_mesh

    if out_sharding() is None:
        attend = flash_attention
    else:
        batch, _, heads, _ = partition_spec(("batch", None, "heads", None))
        attend = functools.partial(flash_attention_on_mesh, batch_axes=batch, head_axes=heads)
    return attend(
        query,
        key,
        value,
        query_segments=seen.query_segments,
        key_segments=seen.key_segments,
        causal=seen.causal,
        prefix=seen.prefix,
        bias_by_offset=bias,
        key_weights=kept,
    )


def _cudnn(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    bias: Array | None,
    kept: Array | None,
) -> Array:
    if kept is not None:  # dropping weights of a key, for all queries, is dropping its value
        value = value * jnp.swapaxes(kept, 1, 2)[..., None]
    heads = (*key.shape[:2], query.shape[2], key.shape[3])
    key, value = (jnp.broadcast_to(x, heads) for x in (key, value))
    return _per_device(
        lambda query, key, value, mask, bias: jax.nn.dot_product_attention(
            query, key, value, bias, mask, scale=1.0, implementation="cudnn"
        ),
        (query, ("batch", None, "heads", None)),
        (key, ("batch", None, "heads", None)),
        (value, ("batch", None, "heads", None)),
        (mask[:, None], ("batch", None, None, None)),
        (None if bias is None else bias[None], (None, "heads", None, None)),
    )


def _per_device(
    function: Callable[..., Array], *arrays: tuple[Array | None, tuple[str | None, ...]]
) -> Array:
    """`function` of the part of each array that a device has; the result is laid out as the first.

    Arrays come with their logical axes, and may be None.
    """
    values = [array for array, _ in arrays]
    if out_sharding() is None:
        return function(*values)
    given = [i for i, array in enumerate(values) if array is not None]
    specs = [partition_spec(arrays[i][1]) for i in given]

    def local(*parts: Array) -> Array:
        filled: list[Array | None] = [None] * len(values)
        for i, part in zip(given, parts, strict=True):
            filled[i] = part
        return function(*filled)

    present = [jax.sharding.reshard(values[i], spec) for i, spec in zip(given, specs, strict=True)]
    mapped = jax.shard_map(local, in_specs=tuple(specs), out_specs=specs[0], check_vma=False)
    return mapped(*present)


def attention_probs(
    logits: Float[Array, "batch heads q k"],
    mask: Bool[Array, "#batch 1 q k"],
    bias: Float[Array, "heads q k"] | None,
    dtype: jnp.dtype,
) -> Float[Array, "batch heads q k"]:
    """Softmax of logits + bias over the unmasked keys, in float32, returned in `dtype`."""
    if bias is not None:
        logits = logits + bias.astype(logits.dtype)[None]
    return _masked_softmax(logits.astype(jnp.float32), mask).astype(dtype)


# By itself JAX would keep three arrays of the size of the logits: this keeps its result.
@jax.custom_vjp
def _masked_softmax(
    logits: Float[Array, "batch heads q k"], mask: Bool[Array, "#batch 1 q k"]
) -> Float[Array, "batch heads q k"]:
    return jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=-1)


def _masked_softmax_forward(logits: Array, mask: Array) -> tuple[Array, tuple[Array, Array]]:
    probs = _masked_softmax(logits, mask)
    return probs, (probs, mask)


def _masked_softmax_backward(kept: tuple[Array, Array], grad: Array) -> tuple[Array, None]:
    probs, mask = kept
    weighted = probs * grad
    grad = weighted - probs * jnp.sum(weighted, axis=-1, keepdims=True)
    # Of a fully masked row the probabilities are not zero, but do not depend on the logits.
    return jnp.where(mask, grad, 0.0), None


_masked_softmax.defvjp(_masked_softmax_forward, _masked_softmax_backward)
