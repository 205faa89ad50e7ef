"""T5 attention: bucketed relative position bias, multi-head attention."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from flan_jax.layout import constrain, einsum, out_sharding
from flan_jax.models.dot_product import Visibility, dot_product_attention, kept_keys
from flan_jax.models.layer_stack import fold
from flan_jax.models.layers import ATTENTION_INIT, RELATIVE_BIAS_INIT, Dense, param


def relative_position_bucket(
    offset: Int[Array, " *shape"],
    *,
    bidirectional: bool,
    num_buckets: int = 32,
    max_distance: int = 128,
) -> Int[Array, " *shape"]:
    """Bucket of `offset` = key position - query position (T5 paper, section 2.1).

    Half of the (one-sided) buckets hold one distance each, the other half grow logarithmically up
    to `max_distance`, beyond which all share the last. Bidirectional: the upper half of the
    buckets are for keys after the query. Otherwise such keys fall in bucket 0.
    """
    buckets = num_buckets // 2 if bidirectional else num_buckets
    distance = jnp.abs(offset) if bidirectional else jnp.maximum(-offset, 0)
    exact = buckets // 2
    # The float32 epsilon keeps log finite at 0 and is part of T5X's formula: without it some
    # distances that are exact powers land one bucket lower.
    ratio = distance.astype(jnp.float32) / exact + jnp.finfo(jnp.float32).eps
    position = jnp.log(ratio) / math.log(max_distance / exact) * (buckets - exact)
    far = jnp.minimum(exact + position.astype(jnp.int32), buckets - 1)
    bucket = jnp.where(distance < exact, distance, far)
    return bucket + jnp.where(offset > 0, buckets, 0) if bidirectional else bucket


class RelativePositionBias(nnx.Module):
    """A learned bias per head and bucket of distance, of one layer or shared by those of a stack.

    In a packed row, positions count from the start of the row: within a segment the differences,
    all that matters, are the same as those of in-segment positions.
    """

    def __init__(
        self,
        num_heads: int,
        num_buckets: int,
        max_distance: int,
        bidirectional: bool,
        key: Key[Array, ""],
    ):
        table = RELATIVE_BIAS_INIT(key, (num_heads, num_buckets), jnp.float32)
        self.rel_embedding = param(table, ("heads", "relpos_buckets"))
        self.max_distance = max_distance
        self.bidirectional = bidirectional

    def by_offset(
        self, offsets: Int[Array, " offsets"], dtype: jnp.dtype
    ) -> Float[Array, "heads offsets"]:
        """The bias at each offset (key position - query position)."""
        table = constrain(self.rel_embedding.get_value().astype(dtype), "heads", "relpos_buckets")
        bucket = relative_position_bucket(
            offsets,
            bidirectional=self.bidirectional,
            num_buckets=table.shape[1],
            max_distance=self.max_distance,
        )
        # A product with a small one-hot: its gradient is a product too, not a scatter.
        one_hot = jax.nn.one_hot(bucket, table.shape[1], dtype=dtype, axis=0)
        return einsum("hr,ro->ho", table, one_hot, ("heads", None))

    def for_attention(
        self, q_length: int, k_length: int, dtype: jnp.dtype, implementation: str
    ) -> Float[Array, "heads ..."]:
        """The bias as `dot_product_attention` takes it under this implementation."""
        if implementation != "flash":
            return self(q_length, k_length, dtype)
        from flan_jax.kernels.flash_attention import laid_out_bias  # imports Pallas

        # Rounded as the others round it.
        offsets = jnp.arange(-(q_length - 1), k_length)
        rows = laid_out_bias(self.by_offset(offsets, dtype), q_length, k_length)
        return constrain(rows, "heads", None, None)

    def __call__(self, q_length: int, k_length: int, dtype: jnp.dtype) -> Float[Array, "heads q k"]:
        """The bias of all pairs of positions.

        It depends on k - q only (a Toeplitz matrix), so q + k - 1 values are computed and laid out
        by a reshape: repeating a row of length n + 1 and reading rows of length n shifts each row
        by one.
        """
        offsets = jnp.arange(-(q_length - 1), k_length)
        n = offsets.size
        row = jnp.pad(self.by_offset(offsets, dtype), ((0, 0), (0, 1)))
        heads = row.shape[0]
        rows = jnp.broadcast_to(row[:, None, :], (heads, q_length, n + 1))
        flat = rows.reshape(heads, q_length * (n + 1))[:, : q_length * n]
        bias = flat.reshape(heads, q_length, n)[:, :, q_length - 1 :]
        return constrain(bias, "heads", None, None)


class MultiHeadAttention(nnx.Module):
    """Multi-head dot-product attention with 2-D kernels and no 1 / sqrt(head_dim).

    The scaling is folded into the query's initial distribution, as in T5X: under Adafactor's
    relative step sizes the two are equivalent.
    """

    def __init__(self, emb_dim: int, num_heads: int, head_dim: int, key: Key[Array, ""]):
        inner = num_heads * head_dim
        keys = jax.random.split(key, 4)

        def query_init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
            return ATTENTION_INIT(key, shape, dtype) / math.sqrt(head_dim)

        down, up = ("embed", "joined_kv"), ("joined_kv", "embed")
        self.query = Dense((emb_dim, inner), down, keys[0], query_init)
        self.key = Dense((emb_dim, inner), down, keys[1], ATTENTION_INIT)
        self.value = Dense((emb_dim, inner), down, keys[2], ATTENTION_INIT)
        self.out = Dense((inner, emb_dim), up, keys[3], ATTENTION_INIT)
        self.num_heads = num_heads

    def _heads(self, x: Array) -> Float[Array, "batch length heads kv"]:
        shape = (*x.shape[:2], self.num_heads, x.shape[2] // self.num_heads)
        return jnp.reshape(x, shape, out_sharding=out_sharding("batch", None, "heads", "kv"))

    # Dropout keys of the projections are for their adapters (lora.py).
    def project_query(
        self,
        x: Float[Array, "batch q embed"],
        dtype: jnp.dtype,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch q heads kv"]:
        return self._heads(self.query(x, "joined_kv", dtype, fold(dropout_key, 1)))

    def project_key_value(
        self,
        x: Float[Array, "batch k embed"],
        dtype: jnp.dtype,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "batch k heads kv"], Float[Array, "batch k heads kv"]]:
        key = self._heads(self.key(x, "joined_kv", dtype, fold(dropout_key, 2)))
        value = self.value(x, "joined_kv", dtype, fold(dropout_key, 3))
        return key, self._heads(value)

    def project_out(
        self,
        x: Float[Array, "batch q heads kv"],
        dtype: jnp.dtype,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch q embed"]:
        shape = (*x.shape[:2], x.shape[2] * x.shape[3])
        joined = jnp.reshape(x, shape, out_sharding=out_sharding("batch", None, "joined_kv"))
        return self.out(joined, "embed", dtype, fold(dropout_key, 4))

    def __call__(
        self,
        x: Float[Array, "batch q embed"],
        memory: Float[Array, "batch k embed"],
        seen: Visibility | Bool[Array, "batch q k"],
        bias: Float[Array, "heads ..."] | None,
        *,
        dtype: jnp.dtype,
        implementation: str = "plain",
        float32_logits: bool = False,
        dropout_rate: float = 0.0,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch q embed"]:
        """What attention adds for x: on a mesh a partial sum, for `layout.complete`.

        Args:
          x, memory: what queries, and keys and values, are made of; from `layout.whole_length`.
          seen, bias, implementation: see `dot_product_attention`.
          dtype: of the computation.
          float32_logits: compute query @ key in float32.
          dropout_rate: of attention weights; one mask for all queries, as in T5X.
          dropout_key: None for no dropout.
        """
        query = self.project_query(x, dtype, dropout_key)
        key, value = self.project_key_value(memory, dtype, dropout_key)
        if float32_logits:
            query, key = query.astype(jnp.float32), key.astype(jnp.float32)
        shape = (key.shape[0], key.shape[1], self.num_heads)
        kept = kept_keys(shape, dropout_rate, dropout_key, dtype)
        mixed = dot_product_attention(query, key, value, seen, bias, kept, implementation)
        return self.project_out(mixed, dtype, dropout_key)
