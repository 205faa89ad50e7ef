"""T5 v1.1 (https://arxiv.org/abs/1910.10683; v1.1: gated GELU, separate output head).

Parameters, masks and numerics are those of T5X's examples/t5; layers of a stack are stacked on a
leading axis "layers" and run by one `lax.scan`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gin
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_policies
from jaxtyping import Array, Bool, Float, Int, Key

from flan_jax.models.attention import (
    MultiHeadAttention,
    RelativePositionBias,
    attention_mask,
    causal_mask,
)
from flan_jax.models.layers import (
    Dense,
    Embed,
    MlpBlock,
    RMSNorm,
    activation,
    dropout,
    stack_layers,
)
from flan_jax.suggestions import did_you_mean

REMAT_POLICIES = ("none", "full", "dots")
_RESIDUAL = ("batch", "length", "embed")


@gin.configurable(module="network")
@dataclass(frozen=True)
class T5Config:
    """Hyperparameters; names and meaning as in T5X's network.T5Config, then our own.

    Attributes:
      dtype: of activations ("bfloat16" or "float32"); parameters, norms' statistics, softmax and
        output logits are float32 whatever it is.
      mlp_activations: multiplied together; ("gelu", "linear") is gated GELU.
      logits_via_embedding: use the embedding as output head, logits scaled by emb_dim**-0.5.
      float32_attention_logits: compute query @ key in float32 too.
      remat_policy: what the backward pass recomputes: "none", "full" (all but each layer's
        input) or "dots" (all but matrix products without batch dimensions). With fsdp > 1 use
        one of the latter two: "none" keeps every layer's gathered parameters until the backward
        pass.
    """

    vocab_size: int
    emb_dim: int = 512
    num_heads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    head_dim: int = 64
    mlp_dim: int = 2048
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.1
    dtype: str = "bfloat16"
    logits_via_embedding: bool = False
    float32_attention_logits: bool = False
    remat_policy: str = "none"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128

    def __post_init__(self) -> None:
        # gin passes lists; a config must be hashable to be a static part of the model's pytree.
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        for name in self.mlp_activations:
            activation(name)
        dtype = self.dtype if isinstance(self.dtype, str) else jnp.dtype(self.dtype).name
        object.__setattr__(self, "dtype", dtype)
        for value, known, what in (
            (dtype, ("bfloat16", "float32"), "dtype"),
            (self.remat_policy, REMAT_POLICIES, "remat_policy"),
        ):
            if value not in known:
                raise ValueError(
                    f"T5Config.{what} must be one of {known}, found {value!r}"
                    f"{did_you_mean(value, known)}"
                )
        if not 0.0 <= self.dropout_rate < 1.0:
            raise ValueError(f"T5Config.dropout_rate must be in [0, 1), found {self.dropout_rate}.")
        sizes = ("vocab_size", "emb_dim", "num_heads", "num_encoder_layers", "num_decoder_layers")
        for name in (*sizes, "head_dim", "mlp_dim"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"T5Config.{name} must be at least 1, found {getattr(self, name)}."
                )


@gin.configurable(module="network")
def Transformer(config: T5Config) -> T5Config:  # noqa: N802 (T5X's name)
    """The config itself: lets T5X's `module = @network.Transformer()` stand in gin files."""
    return config


def _dropouts(config: T5Config, key: Key[Array, ""] | None) -> Callable[[int, Array], Array]:
    """`drop(site, x)`: residual-stream dropout, one mask for all positions (as T5X)."""

    def drop(site: int, x: Array) -> Array:
        site_key = None if key is None else jax.random.fold_in(key, site)
        return dropout(x, config.dropout_rate, site_key, _RESIDUAL)

    return drop


def _mlp(block: MlpBlock, x: Array, config: T5Config, key: Key[Array, ""] | None) -> Array:
    def drop(hidden: Array) -> Array:
        return dropout(hidden, config.dropout_rate, key, ("batch", "length", "mlp"))

    return block(x, jnp.dtype(config.dtype), drop)


def _fold(key: Key[Array, ""] | None, data: int | Array) -> Key[Array, ""] | None:
    return None if key is None else jax.random.fold_in(key, data)


def _attention(config: T5Config, key: Array) -> MultiHeadAttention:
    return MultiHeadAttention(config.emb_dim, config.num_heads, config.head_dim, key)


def _attend(config: T5Config, block: MultiHeadAttention, key: Array | None) -> Callable[..., Array]:
    return functools.partial(
        block,
        dtype=jnp.dtype(config.dtype),
        float32_logits=config.float32_attention_logits,
        dropout_rate=config.dropout_rate,
        dropout_key=key,
    )


class EncoderLayer(nnx.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, config: T5Config, key: Key[Array, ""]):
        attention_key, mlp_key = jax.random.split(key)
        self.pre_attention_layer_norm = RMSNorm(config.emb_dim)
        self.attention = _attention(config, attention_key)
        self.pre_mlp_layer_norm = RMSNorm(config.emb_dim)
        self.mlp = MlpBlock(config.emb_dim, config.mlp_dim, config.mlp_activations, mlp_key)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "batch length length"],
        bias: Float[Array, "heads length length"],
        config: T5Config,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length embed"]:
        dtype, drop = jnp.dtype(config.dtype), _dropouts(config, key)
        y = self.pre_attention_layer_norm(x, dtype)
        x = x + drop(0, _attend(config, self.attention, _fold(key, 1))(y, y, mask, bias))
        y = self.pre_mlp_layer_norm(x, dtype)
        return x + drop(2, _mlp(self.mlp, y, config, _fold(key, 3)))


class DecoderLayer(nnx.Module):
    """Pre-norm causal self-attention, cross-attention and MLP."""

    def __init__(self, config: T5Config, key: Key[Array, ""]):
        self_key, cross_key, mlp_key = jax.random.split(key, 3)
        self.pre_self_attention_layer_norm = RMSNorm(config.emb_dim)
        self.self_attention = _attention(config, self_key)
        self.pre_cross_attention_layer_norm = RMSNorm(config.emb_dim)
        self.encoder_decoder_attention = _attention(config, cross_key)
        self.pre_mlp_layer_norm = RMSNorm(config.emb_dim)
        self.mlp = MlpBlock(config.emb_dim, config.mlp_dim, config.mlp_activations, mlp_key)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        encoded: Float[Array, "batch inputs_length embed"],
        mask: Bool[Array, "batch length length"],
        cross_mask: Bool[Array, "batch length inputs_length"],
        bias: Float[Array, "heads length length"],
        config: T5Config,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length embed"]:
        dtype, drop = jnp.dtype(config.dtype), _dropouts(config, key)
        y = self.pre_self_attention_layer_norm(x, dtype)
        x = x + drop(0, _attend(config, self.self_attention, _fold(key, 1))(y, y, mask, bias))
        y = self.pre_cross_attention_layer_norm(x, dtype)
        cross = _attend(config, self.encoder_decoder_attention, _fold(key, 4))
        x = x + drop(5, cross(y, encoded, cross_mask, None))
        y = self.pre_mlp_layer_norm(x, dtype)
        return x + drop(2, _mlp(self.mlp, y, config, _fold(key, 3)))


def _scan_layers(
    layers: nnx.Module,
    x: Float[Array, "batch length embed"],
    apply: Callable[[Any, Array, Key[Array, ""] | None], Array],
    config: T5Config,
    key: Key[Array, ""] | None,
) -> Float[Array, "batch length embed"]:
    """Runs x through each layer; layer i gets the dropout key fold_in(key, i)."""

    def body(x: Array, layer_and_index: tuple[nnx.Module, Array]) -> tuple[Array, None]:
        layer, index = layer_and_index
        return apply(layer, x, _fold(key, index)), None

    if config.remat_policy != "none":
        policy = {
            "full": checkpoint_policies.nothing_saveable,
            "dots": checkpoint_policies.dots_with_no_batch_dims_saveable,
        }[config.remat_policy]
        # Inside a scan nothing can undo the recomputation, so the costly CSE barrier is not needed.
        body = jax.checkpoint(body, policy=policy, prevent_cse=False)
    num_layers = jax.tree.leaves(layers)[0].shape[0]
    return jax.lax.scan(body, x, (layers, jnp.arange(num_layers)))[0]


def _relative_bias(
    config: T5Config, bidirectional: bool, key: Key[Array, ""]
) -> RelativePositionBias:
    return RelativePositionBias(
        config.num_heads,
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
        bidirectional,
        key,
    )


class Encoder(nnx.Module):
    """The encoder stack without the token embedding, which it shares with the decoder."""

    def __init__(self, config: T5Config, key: Key[Array, ""]):
        bias_key, layers_key = jax.random.split(key)
        self.relpos_bias = _relative_bias(config, True, bias_key)
        self.layers = stack_layers(
            functools.partial(EncoderLayer, config),
            jax.random.split(layers_key, config.num_encoder_layers),
        )
        self.encoder_norm = RMSNorm(config.emb_dim)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "batch length length"],
        config: T5Config,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length embed"]:
        dtype = jnp.dtype(config.dtype)
        x = _dropouts(config, _fold(key, 0))(0, x)
        bias = self.relpos_bias(x.shape[1], x.shape[1], dtype)

        def apply(layer: EncoderLayer, x: Array, key: Array | None) -> Array:
            return layer(x, mask, bias, config, key)

        x = _scan_layers(self.layers, x, apply, config, _fold(key, 1))
        # T5X does not share this one mask along the length; every other one it does.
        rate, final_key = config.dropout_rate, _fold(key, 2)
        return dropout(self.encoder_norm(x, dtype), rate, final_key, _RESIDUAL, broadcast_dim=None)


class Decoder(nnx.Module):
    """The decoder stack and output head, without the token embedding."""

    def __init__(self, config: T5Config, key: Key[Array, ""]):
        bias_key, layers_key, logits_key = jax.random.split(key, 3)
        self.relpos_bias = _relative_bias(config, False, bias_key)
        self.layers = stack_layers(
            functools.partial(DecoderLayer, config),
            jax.random.split(layers_key, config.num_decoder_layers),
        )
        self.decoder_norm = RMSNorm(config.emb_dim)
        if not config.logits_via_embedding:
            shape = (config.emb_dim, config.vocab_size)
            self.logits_dense = Dense(shape, ("embed", "vocab"), logits_key)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        encoded: Float[Array, "batch inputs_length embed"],
        mask: Bool[Array, "batch length length"],
        cross_mask: Bool[Array, "batch length inputs_length"],
        config: T5Config,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length embed"]:
        """Normalised decoder states; `T5.logits` turns them into logits."""
        dtype = jnp.dtype(config.dtype)
        x = _dropouts(config, _fold(key, 0))(0, x)
        bias = self.relpos_bias(x.shape[1], x.shape[1], dtype)

        def apply(layer: DecoderLayer, x: Array, key: Array | None) -> Array:
            return layer(x, encoded, mask, cross_mask, bias, config, key)

        x = _scan_layers(self.layers, x, apply, config, _fold(key, 1))
        return _dropouts(config, _fold(key, 2))(0, self.decoder_norm(x, dtype))


class T5(nnx.Module):
    """Encoder-decoder; a pytree of float32 parameters with `config` as its static part.

    Dropout keys are counters: fold_in(dropout_key, stack), then the layer's index, then the site
    in the layer; results do not depend on the mesh or on rematerialisation.
    """

    def __init__(self, config: T5Config, key: Key[Array, ""]):
        embed_key, encoder_key, decoder_key = jax.random.split(key, 3)
        self.config = config
        self.token_embedder = Embed(config.vocab_size, config.emb_dim, embed_key)
        self.encoder = Encoder(config, encoder_key)
        self.decoder = Decoder(config, decoder_key)

    def __call__(
        self, batch: Mapping[str, Array], *, dropout_key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch length vocab"]:
        """Float32 logits of every target position, by teacher forcing.

        Args:
          batch: encoder_input_tokens, decoder_input_tokens, decoder_target_tokens (for the padding
            mask) and, if packed, encoder_segment_ids and decoder_segment_ids.
          dropout_key: None for no dropout.
        """
        tokens, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
        encoder_segments = batch.get("encoder_segment_ids")
        decoder_segments = batch.get("decoder_segment_ids")
        encoded = self.encode(
            tokens, encoder_segment_ids=encoder_segments, dropout_key=_fold(dropout_key, 0)
        )
        x = self.token_embedder(batch["decoder_input_tokens"], jnp.dtype(self.config.dtype))
        real = targets > 0
        mask = attention_mask(real, real, decoder_segments, decoder_segments)
        mask &= causal_mask(targets.shape[1])
        cross_mask = attention_mask(real, tokens > 0, decoder_segments, encoder_segments)
        key = _fold(dropout_key, 1)
        return self.logits(self.decoder(x, encoded, mask, cross_mask, self.config, key))

    def encode(
        self,
        encoder_input_tokens: Int[Array, "batch length"],
        *,
        encoder_segment_ids: Int[Array, "batch length"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length embed"]:
        """Encoder states in `config.dtype`; padding (id 0) is masked on both sides."""
        real = encoder_input_tokens > 0
        mask = attention_mask(real, real, encoder_segment_ids, encoder_segment_ids)
        x = self.token_embedder(encoder_input_tokens, jnp.dtype(self.config.dtype))
        return self.encoder(x, mask, self.config, dropout_key)

    def logits(
        self, states: Float[Array, "batch length embed"]
    ) -> Float[Array, "batch length vocab"]:
        """Float32 logits of decoder states."""
        if self.config.logits_via_embedding:
            return self.token_embedder.attend(states)
        return self.decoder.logits_dense(states, "vocab", jnp.dtype("float32"))
