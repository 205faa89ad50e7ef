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

from flan_jax.layout import complete, constrain, out_sharding, whole_length
from flan_jax.models.config_checks import settle
from flan_jax.models.dot_product import (
    IMPLEMENTATIONS,
    Visibility,
    dot_product_attention,
    kept_keys,
    resolve,
    segments_of,
)
from flan_jax.models.head_loss import Head
from flan_jax.models.layer_stack import fold, scan_layers
from flan_jax.models.layers import (
    ATTENTION_INIT,
    Dense,
    Embed,
    LayerNorm,
    MlpBlock,
    RMSNorm,
    dropout,
    output_head,
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
      attention: what computes attention: see `flan_jax.models.dot_product`.
      remat_policy: what the backward pass computes again: see `layer_stack.scan_layers`. With
        fsdp > 1, "none" keeps every layer's gathered parameters until the backward pass.
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
    attention: str = "auto"
    remat_policy: str = "none"
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "emb_dim", "num_heads", "num_layers", "head_dim", "mlp_dim")
        settle(self, sizes, norm=NORMS, attention=IMPLEMENTATIONS)
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
        # Of both elements of each pair: [#batch, length, kv], float32.
        self.cos = jnp.repeat(jnp.cos(angles), 2, axis=-1)
        self.sin = jnp.repeat(jnp.sin(angles), 2, axis=-1)

    def turn_heads(
        self, x: Float[Array, "batch length heads kv"]
    ) -> Float[Array, "batch length heads kv"]:
        """The heads, each turned by its position; computed in float32, returned in x's dtype."""
        return _turn(x, self.cos[:, :, None, :], self.sin[:, :, None, :])

    def turn(self, x: Float[Array, "batch length kv"]) -> Float[Array, "batch length kv"]:
        """The same for one head."""
        return _turn(x, self.cos, self.sin)


def _turn(x: Float[Array, "*rows kv"], cos: Array, sin: Array) -> Float[Array, "*rows kv"]:
    # (a, b) becomes (-b, a) by a product with a matrix of 0, 1, -1, which is exact: TPUs multiply
    # at once what they are slow to pick from the lanes of a register.
    pairs = jnp.asarray([[0.0, 1.0], [-1.0, 0.0]], x.dtype)
    quarter_turn = jnp.kron(jnp.eye(x.shape[-1] // 2, dtype=x.dtype), pairs)
    with jax.named_scope("permutation"):
        turned = jnp.einsum("...d,de->...e", x, quarter_turn, precision=jax.lax.Precision.HIGHEST)
    return (x.astype(jnp.float32) * cos + turned.astype(jnp.float32) * sin).astype(x.dtype)


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
        layout = out_sharding("batch", None, "heads", "kv")
        heads = jnp.reshape(joined, shape, out_sharding=layout)
        return rotations.turn_heads(heads) * jnp.asarray(shape[-1] ** -0.5, dtype)

    def project_key_value(
        self,
        x: Float[Array, "batch k embed"],
        rotations: Rotations,
        dtype: jnp.dtype,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "batch k kv"], Float[Array, "batch k kv"]]:
        """The key, turned by its position, and the value; whole along the length.

        x may be split along it: each device then makes its part, and the parts are gathered.
        """
        key = self.key(x, "kv", dtype, fold(dropout_key, 2))
        value = self.value(x, "kv", dtype, fold(dropout_key, 3))
        key, value = (constrain(part, "batch", None, None) for part in (key, value))
        return rotations.turn(key), value

    def project_out(
        self,
        x: Float[Array, "batch q heads kv"],
        dtype: jnp.dtype,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch q embed"]:
        shape = (*x.shape[:2], x.shape[2] * x.shape[3])
        joined = jnp.reshape(x, shape, out_sharding=out_sharding("batch", None, "joined_kv"))
        return self.out(joined, "embed", dtype, fold(dropout_key, 4))

    def attend(
        self,
        query: Float[Array, "batch q heads kv"],
        key: Float[Array, "batch k kv"],
        value: Float[Array, "batch k kv"],
        seen: Visibility | Bool[Array, "#batch q k"],
        config: PalmConfig,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch q embed"]:
        """What the layer adds for these queries; on a mesh a partial sum, for `layout.complete`."""
        if config.float32_attention_logits:
            query, key = query.astype(jnp.float32), key.astype(jnp.float32)
        shape, dtype = (key.shape[0], key.shape[1], self.num_heads), jnp.dtype(config.dtype)
        kept = kept_keys(shape, config.dropout_rate, dropout_key, dtype)
        key, value = key[:, :, None], value[:, :, None]
        implementation = resolve(config.attention, config.dtype)
        mixed = dot_product_attention(query, key, value, seen, None, kept, implementation)
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
        seen: Visibility,
        rotations: Rotations,
        config: PalmConfig,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length embed"]:
        dtype = jnp.dtype(config.dtype)
        y = self.layer_norm(x, dtype)
        whole = whole_length(y)
        attended = self.attention.attend(
            self.attention.project_query(whole, rotations, dtype, fold(key, 1)),
            *self.attention.project_key_value(y, rotations, dtype, fold(key, 1)),
            seen,
            config,
            fold(key, 1),
        )
        fed = self.feed_forward(whole, config, fold(key, 3))
        added = complete(attended, fed)
        return x + dropout(added, config.dropout_rate, fold(key, 0), _RESIDUAL)

    def feed_forward(
        self,
        y: Float[Array, "batch length embed"],
        config: PalmConfig,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length embed"]:
        """The MLP of normalised states; on a mesh a partial sum, for `layout.complete`."""

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
        seen: Visibility,
        rotations: Rotations,
        config: PalmConfig,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length embed"]:
        """Normalised states; `Palm.logits` turns them into logits."""

        def apply(layer: PalmLayer, x: Array, key: Array | None) -> Array:
            return layer(x, seen, rotations, config, key)

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
          batch: see `states`.
          dropout_key: None for no dropout.
        """
        return self.logits(self.states(batch, dropout_key), fold(dropout_key, 3))

    def states(
        self, batch: Mapping[str, Array], dropout_key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch length embed"]:
        """Normalised states of every position, of which `logits` makes logits.

        Args:
          batch: decoder_input_tokens, decoder_target_tokens (for the padding mask) and, if packed,
            decoder_segment_ids and decoder_positions. With decoder_causal_attention, inputs see
            each other (prefix language model); without, attention is causal throughout.
          dropout_key: None for no dropout.
        """
        targets, prefix = batch["decoder_target_tokens"], batch.get("decoder_causal_attention")
        segments = segments_of(targets > 0, batch.get("decoder_segment_ids"))
        prefix = None if prefix is None else prefix > 0
        seen = Visibility(segments, segments, causal=True, prefix=prefix)
        positions = batch.get("decoder_positions")
        if positions is None:
            positions = jnp.arange(targets.shape[1])[None]
        x = self.embed(batch["decoder_input_tokens"])
        return self.decoder(x, seen, self.rotations(positions), self.config, dropout_key)

    def embed(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length embed"]:
        """Embeddings in `config.dtype`."""
        return self.token_embedder(tokens, jnp.dtype(self.config.dtype))

    def rotations(self, positions: Int[Array, "#batch length"]) -> Rotations:
        """What turns queries and keys at these positions, which count from 0 in each segment."""
        return Rotations(positions, self.config.head_dim, self.config.max_timescale)

    def head(self) -> Head | None:
        """The output head for the loss; None if it has an adapter: take `logits` then."""
        dense = None if self.config.logits_via_embedding else self.decoder.logits_dense
        return output_head(self.token_embedder, dense, self.config.dtype)

    def logits(
        self,
        states: Float[Array, "batch length embed"],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length vocab"]:
        """Float32 logits of normalised states; the key is for an adapter of the output head."""
        states = whole_length(states)
        if self.config.logits_via_embedding:
            return self.token_embedder.attend(states)
        return self.decoder.logits_dense(states, "vocab", jnp.dtype("float32"), dropout_key)
