"""PaLM (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, section 2): a decoder-only model.

Each layer is y = x + MLP(LN(x)) + Attention(LN(x)), with SwiGLU, one key and value head that all
query heads share (multi-query), rotary position embeddings and no biases; input and output
embeddings are shared. Layers are stacked on a leading axis "layers" and run by one `lax.scan`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import gin
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from flan_jax.layout import einsum, out_sharding
from flan_jax.models.attention import attention_mask, attention_probs, causal_mask
from flan_jax.models.config_checks import settle
from flan_jax.models.layer_stack import fold, scan_layers
from flan_jax.models.layers import (
    ATTENTION_INIT,
    Dense,
    Embed,
    LayerNorm,
    MlpBlock,
    RMSNorm,
    dropout,
    stack_layers,
)
from flan_jax.models.lora import LoraConfig, add_adapters

NORMS = ("layer", "rms")
_RESIDUAL = ("batch", "length", "embed")


# Registered, not configurable: Python code that makes a config gets what it asks for, and gin's
# bindings go into `@network.PalmConfig()` alone.
@gin.register(module="network")
@dataclass(frozen=True)
class PalmConfig:
    """Hyperparameters of PaLM; names as in T5Config where they mean the same.

    Attributes:
      head_dim: of queries, and of the one key and the one value; even.
      mlp_activations: multiplied together; ("swish", "linear") is SwiGLU.
      dropout_rate: PaLM was pre-trained without dropout and finetuned with 0.1.
      dtype: of activations ("bfloat16" or "float32"); parameters, norms' statistics, rotations,
        softmax and output logits are float32 whatever it is.
      norm: "layer" (mean and variance, no bias) or "rms" (T5's).
      norm_epsilon: added to the variance (or the mean square).
      max_timescale: base of the rotations' wavelengths (RoFormer's 10,000).
      logits_via_embedding: use the embedding as output head, logits scaled by emb_dim**-0.5.
      float32_attention_logits: compute query @ key in float32 too.
      remat_policy: what the backward pass recomputes: "none", "full" (all but each layer's
        input) or "dots" (all but matrix products without batch dimensions). With fsdp > 1 use
        one of the latter two: "none" keeps every layer's gathered parameters until the backward
        pass.
      lora: low-rank adapters beside the kernels it names; None for none.
    """

    vocab_size: int
    emb_dim: int = 4096
    num_heads: int = 16
    num_layers: int = 32
    head_dim: int = 256
    mlp_dim: int = 16384
    mlp_activations: tuple[str, ...] = ("swish", "linear")
    dropout_rate: float = 0.0
    dtype: str = "bfloat16"
    norm: str = "layer"
    norm_epsilon: float = 1e-6
    max_timescale: float = 10_000.0
    logits_via_embedding: bool = True
    float32_attention_logits: bool = False
    remat_policy: str = "none"
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "emb_dim", "num_heads", "num_layers", "head_dim", "mlp_dim")
        settle(self, sizes, norm=NORMS)
        if self.head_dim % 2:
            raise ValueError(
                f"PalmConfig.head_dim must be even, found {self.head_dim}: rotary position"
                " embeddings rotate pairs."
            )


class Rotations(nnx.Pytree):
    """Cosines and sines of rotary position embeddings (Su et al. 2021, RoFormer, section 3.2.2).

    Pair i of a head (elements 2i and 2i + 1) is turned by position * max_timescale**(-2i / kv), so
    that the product of a query and a key depends on the difference of their positions only.
    """

    def __init__(self, positions: Int[Array, "#batch length"], head_dim: int, max_timescale: float):
        exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
        angles = positions[..., None].astype(jnp.float32) * max_timescale**-exponents
        self.cos = jnp.cos(angles)  # [#batch, length, kv / 2], float32
        self.sin = jnp.sin(angles)

    def turn_heads(
        self, x: Float[Array, "batch length heads kv"]
    ) -> Float[Array, "batch length heads kv"]:
        """The heads, each turned by its position; computed in float32, returned in x's dtype."""
        return _turn(x, self.cos[:, :, None, :], self.sin[:, :, None, :])

    def turn(self, x: Float[Array, "batch length kv"]) -> Float[Array, "batch length kv"]:
        """The same for one head."""
        return _turn(x, self.cos, self.sin)


def _turn(x: Array, cos: Array, sin: Array) -> Array:
    even, odd = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    turned = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def prefix_mask(
    real: Bool[Array, "batch length"],
    segments: Int[Array, "batch length"] | None = None,
    prefix: Bool[Array, "batch length"] | None = None,
) -> Bool[Array, "batch length length"]:
    """True where a position (axis 1) may attend to another (axis 2).

    That is, where both are real tokens of the same segment and the other is not later, or both are
    in the prefix (`decoder_causal_attention`), which sees itself whole.
    """
    allowed = causal_mask(real.shape[1])
    if prefix is not None:
        allowed = allowed | (prefix[:, :, None] & prefix[:, None, :])
    return attention_mask(real, real, segments, segments) & allowed


class MultiQueryAttention(nnx.Module):
    """Attention of many query heads over one key and value head (Shazeer 2019, arXiv:1911.02150).

    Logits are scaled by head_dim**-0.5. On a mesh the query heads are split over `tensor`; key and
    value, which all heads read, are whole on every device.
    """

    def __init__(self, config: PalmConfig, key: Key[Array, ""]):
        inner, embed = config.num_heads * config.head_dim, config.emb_dim
        keys = jax.random.split(key, 4)
        self.query = Dense((embed, inner), ("embed", "joined_kv"), keys[0], ATTENTION_INIT)
        self.key = Dense((embed, config.head_dim), ("embed", "kv"), keys[1], ATTENTION_INIT)
        self.value = Dense((embed, config.head_dim), ("embed", "kv"), keys[2], ATTENTION_INIT)
        self.out = Dense((inner, embed), ("joined_kv", "embed"), keys[3], ATTENTION_INIT)
        self.num_heads = config.num_heads

    # Dropout keys of the projections are for their adapters (lora.py).
    def project_query(
        self,
        x: Float[Array, "batch q embed"],
        rotations: Rotations,
        dtype: jnp.dtype,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch q heads kv"]:
        """Queries, turned by their positions and scaled."""
        joined = self.query(x, "joined_kv", dtype, fold(dropout_key, 1))
        shape = (*x.shape[:2], self.num_heads, joined.shape[2] // self.num_heads)
        layout = out_sharding("batch", "length", "heads", "kv")
        heads = jnp.reshape(joined, shape, out_sharding=layout)
        return rotations.turn_heads(heads) * jnp.asarray(shape[-1] ** -0.5, dtype)

    def project_key_value(
        self,
        x: Float[Array, "batch k embed"],
        rotations: Rotations,
        dtype: jnp.dtype,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "batch k kv"], Float[Array, "batch k kv"]]:
        """The key, turned by its position, and the value."""
        key = self.key(x, "kv", dtype, fold(dropout_key, 2))
        return rotations.turn(key), self.value(x, "kv", dtype, fold(dropout_key, 3))

    def project_out(
        self,
        x: Float[Array, "batch q heads kv"],
        dtype: jnp.dtype,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch q embed"]:
        shape = (*x.shape[:2], x.shape[2] * x.shape[3])
        joined = jnp.reshape(x, shape, out_sharding=out_sharding("batch", "length", "joined_kv"))
        return self.out(joined, "embed", dtype, fold(dropout_key, 4))

    def attend(
        self,
        query: Float[Array, "batch q heads kv"],
        key: Float[Array, "batch k kv"],
        value: Float[Array, "batch k kv"],
        mask: Bool[Array, "#batch q k"],
        *,
        dtype: jnp.dtype,
        float32_logits: bool = False,
        dropout_rate: float = 0.0,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch q embed"]:
        """What the layer adds for these queries, over the keys that the mask lets each see."""
        if float32_logits:
            query, key = query.astype(jnp.float32), key.astype(jnp.float32)
        axes = ("batch", "heads", "length", "length")
        logits = einsum("bqhd,bkd->bhqk", query, key, axes)
        probs = attention_probs(logits, mask[:, None], None, dtype)
        probs = dropout(probs, dropout_rate, dropout_key, axes)
        mixed = einsum("bhqk,bkd->bqhd", probs, value, ("batch", "length", "heads", "kv"))
        return self.project_out(mixed, dtype, dropout_key)


def _norm(config: PalmConfig) -> LayerNorm | RMSNorm:
    kind = LayerNorm if config.norm == "layer" else RMSNorm
    return kind(config.emb_dim, config.norm_epsilon)


class PalmLayer(nnx.Module):
    """Attention and MLP side by side, both fed by one norm."""

    def __init__(self, config: PalmConfig, key: Key[Array, ""]):
        attention_key, mlp_key = jax.random.split(key)
        self.layer_norm = _norm(config)
        self.attention = MultiQueryAttention(config, attention_key)
        self.mlp = MlpBlock(
            config.emb_dim, config.mlp_dim, config.mlp_activations, mlp_key, ATTENTION_INIT
        )

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "batch length length"],
        rotations: Rotations,
        config: PalmConfig,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length embed"]:
        dtype, rate = jnp.dtype(config.dtype), config.dropout_rate
        y = self.layer_norm(x, dtype)
        attended = self.attention.attend(
            self.attention.project_query(y, rotations, dtype, fold(key, 1)),
            *self.attention.project_key_value(y, rotations, dtype, fold(key, 1)),
            mask,
            dtype=dtype,
            float32_logits=config.float32_attention_logits,
            dropout_rate=rate,
            dropout_key=fold(key, 1),
        )
        fed = self.feed_forward(y, config, fold(key, 3))
        return x + dropout(attended + fed, rate, fold(key, 0), _RESIDUAL)

    def feed_forward(
        self,
        y: Float[Array, "batch length embed"],
        config: PalmConfig,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length embed"]:
        """The MLP of normalised states."""

        def drop(hidden: Array) -> Array:
            return dropout(hidden, config.dropout_rate, key, ("batch", "length", "mlp"))

        return self.mlp(y, jnp.dtype(config.dtype), drop, key)


class PalmDecoder(nnx.Module):
    """The stack of layers, its last norm and, if it is not the embedding, the output head."""

    def __init__(self, config: PalmConfig, key: Key[Array, ""]):
        layers_key, logits_key = jax.random.split(key)
        self.layers = stack_layers(
            functools.partial(PalmLayer, config), jax.random.split(layers_key, config.num_layers)
        )
        self.decoder_norm = _norm(config)
        if not config.logits_via_embedding:
            shape = (config.emb_dim, config.vocab_size)
            self.logits_dense = Dense(shape, ("embed", "vocab"), logits_key, ATTENTION_INIT)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "batch length length"],
        rotations: Rotations,
        config: PalmConfig,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length embed"]:
        """Normalised states; `Palm.logits` turns them into logits."""

        def apply(layer: PalmLayer, x: Array, key: Array | None) -> Array:
            return layer(x, mask, rotations, config, key)

        rate = config.dropout_rate
        x = dropout(x, rate, fold(key, 0), _RESIDUAL)
        x = scan_layers(self.layers, x, apply, config.remat_policy, fold(key, 1))
        return dropout(self.decoder_norm(x, jnp.dtype(config.dtype)), rate, fold(key, 2), _RESIDUAL)


class Palm(nnx.Module):
    """A pytree of float32 parameters with `config` as its static part.

    Dropout keys are counters, as those of `T5`; results do not depend on the mesh or on
    rematerialisation.
    """

    def __init__(self, config: PalmConfig, key: Key[Array, ""]):
        embed_key, decoder_key = jax.random.split(key)
        self.config = config
        self.token_embedder = Embed(config.vocab_size, config.emb_dim, embed_key)
        self.decoder = PalmDecoder(config, decoder_key)
        add_adapters(self, config.lora, key)

    def __call__(
        self, batch: Mapping[str, Array], *, dropout_key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch length vocab"]:
        """Float32 logits of every position, by teacher forcing.

        Args:
          batch: decoder_input_tokens, decoder_target_tokens (for the padding mask) and, if packed,
            decoder_segment_ids and decoder_positions. With decoder_causal_attention, inputs see
            each other (prefix language model); without, attention is causal throughout.
          dropout_key: None for no dropout.
        """
        targets, prefix = batch["decoder_target_tokens"], batch.get("decoder_causal_attention")
        segments, positions = batch.get("decoder_segment_ids"), batch.get("decoder_positions")
        prefix = None if prefix is None else prefix > 0
        mask = prefix_mask(targets > 0, segments, prefix)
        if positions is None:
            positions = jnp.arange(targets.shape[1])[None]
        x = self.embed(batch["decoder_input_tokens"])
        states = self.decoder(x, mask, self.rotations(positions), self.config, dropout_key)
        return self.logits(states, fold(dropout_key, 3))

    def embed(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length embed"]:
        """Embeddings in `config.dtype`."""
        return self.token_embedder(tokens, jnp.dtype(self.config.dtype))

    def rotations(self, positions: Int[Array, "#batch length"]) -> Rotations:
        """What turns queries and keys at these positions, which count from 0 in each segment."""
        return Rotations(positions, self.config.head_dim, self.config.max_timescale)

    def logits(
        self,
        states: Float[Array, "batch length embed"],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length vocab"]:
        """Float32 logits of normalised states; the key is for an adapter of the output head."""
        if self.config.logits_via_embedding:
            return self.token_embedder.attend(states)
        return self.decoder.logits_dense(states, "vocab", jnp.dtype("float32"), dropout_key)
