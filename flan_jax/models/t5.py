"""T5 v1.1 (https://arxiv.org/abs/1910.10683; v1.1: gated GELU, separate output head).

Parameters, masks and numerics are those of T5X's examples/t5; layers of a stack are stacked on a
leading axis "layers" and run by one `lax.scan`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import gin
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from flan_jax.layout import complete, whole_length
from flan_jax.models.attention import MultiHeadAttention, RelativePositionBias
from flan_jax.models.config_checks import settle
from flan_jax.models.dot_product import IMPLEMENTATIONS, Visibility, resolve, segments_of
from flan_jax.models.head_loss import Head
from flan_jax.models.layer_stack import fold, scan_layers
from flan_jax.models.layers import (
    Dense,
    Embed,
    MlpBlock,
    RMSNorm,
    dropout,
    output_head,
    stack_layers,
)
from flan_jax.models.lora import LoraConfig, add_adapters

_RESIDUAL = ("batch", "length", "embed")


# Registered, not configurable: gin's bindings go into `@network.T5Config()` alone, and Python code
# that makes a config (of a checkpoint, say) gets what it asks for.
@gin.register(module="network")
@dataclass(frozen=True)
class T5Config:
    """Hyperparameters; names and meaning as in T5X's network.T5Config, then our own.

    Attributes:
      dtype: of activations ("bfloat16" or "float32"); parameters, norms' statistics, softmax and
        output logits are float32 whatever it is.
      mlp_activations: multiplied together; ("gelu", "linear") is gated GELU.
      logits_via_embedding: use the embedding as output head, logits scaled by emb_dim**-0.5.
      float32_attention_logits: compute query @ key in float32 too.
      attention: what computes attention: see `flan_jax.models.dot_product`.
      remat_policy: what the backward pass computes again: see `layer_stack.scan_layers`. With
        fsdp > 1, "none" keeps every layer's gathered parameters until the backward pass.
      relative_attention_per_layer: each layer has a relative position bias of its own, as in umT5
        and T5X's scalable_t5; else the layers of a stack share one.
      lora: low-rank adapters beside the kernels it names; None for none.
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
    attention: str = "auto"
    remat_policy: str = "none"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    relative_attention_per_layer: bool = False
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "emb_dim", "num_heads", "num_encoder_layers", "num_decoder_layers")
        settle(self, (*sizes, "head_dim", "mlp_dim"), attention=IMPLEMENTATIONS)


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

    return block(x, jnp.dtype(config.dtype), drop, key)


def _attention(config: T5Config, key: Array) -> MultiHeadAttention:
    return MultiHeadAttention(config.emb_dim, config.num_heads, config.head_dim, key)


def _attend(config: T5Config, block: MultiHeadAttention, key: Array | None) -> Callable[..., Array]:
    return functools.partial(
        block,
        dtype=jnp.dtype(config.dtype),
        implementation=resolve(config.attention, config.dtype),
        float32_logits=config.float32_attention_logits,
        dropout_rate=config.dropout_rate,
        dropout_key=key,
    )


class EncoderLayer(nnx.Module):
    """Pre-norm self-attention and MLP; without a `bias` of the stack it has one of its own."""

    def __init__(self, config: T5Config, key: Key[Array, ""]):
        attention_key, mlp_key = jax.random.split(key)
        self.pre_attention_layer_norm = RMSNorm(config.emb_dim)
        self.attention = _attention(config, attention_key)
        self.pre_mlp_layer_norm = RMSNorm(config.emb_dim)
        self.mlp = MlpBlock(config.emb_dim, config.mlp_dim, config.mlp_activations, mlp_key)
        if config.relative_attention_per_layer:
            self.relpos_bias = _relative_bias(config, True, jax.random.fold_in(key, 0))

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        seen: Visibility | Bool[Array, "batch length length"],
        bias: Float[Array, "heads ..."] | None,
        config: T5Config,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length embed"]:
        dtype, drop = jnp.dtype(config.dtype), _dropouts(config, key)
        if bias is None:
            bias = _bias(self.relpos_bias, x, config)
        y = whole_length(self.pre_attention_layer_norm(x, dtype))
        attend = _attend(config, self.attention, fold(key, 1))
        x = x + drop(0, complete(attend(y, y, seen, bias)))
        y = whole_length(self.pre_mlp_layer_norm(x, dtype))
        return x + drop(2, complete(_mlp(self.mlp, y, config, fold(key, 3))))


class DecoderLayer(nnx.Module):
    """Pre-norm causal self-attention, cross-attention and MLP; `bias` as in EncoderLayer."""

    def __init__(self, config: T5Config, key: Key[Array, ""]):
        self_key, cross_key, mlp_key = jax.random.split(key, 3)
        self.pre_self_attention_layer_norm = RMSNorm(config.emb_dim)
        self.self_attention = _attention(config, self_key)
        self.pre_cross_attention_layer_norm = RMSNorm(config.emb_dim)
        self.encoder_decoder_attention = _attention(config, cross_key)
        self.pre_mlp_layer_norm = RMSNorm(config.emb_dim)
        self.mlp = MlpBlock(config.emb_dim, config.mlp_dim, config.mlp_activations, mlp_key)
        if config.relative_attention_per_layer:
            self.relpos_bias = _relative_bias(config, False, jax.random.fold_in(key, 0))

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        encoded: Float[Array, "batch inputs_length embed"],
        seen: Visibility | Bool[Array, "batch length length"],
        cross_seen: Visibility | Bool[Array, "batch length inputs_length"],
        bias: Float[Array, "heads ..."] | None,
        config: T5Config,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length embed"]:
        dtype, drop = jnp.dtype(config.dtype), _dropouts(config, key)
        if bias is None:
            bias = _bias(self.relpos_bias, x, config)
        y = whole_length(self.pre_self_attention_layer_norm(x, dtype))
        attend = _attend(config, self.self_attention, fold(key, 1))
        x = x + drop(0, complete(attend(y, y, seen, bias)))
        y = whole_length(self.pre_cross_attention_layer_norm(x, dtype))
        cross = _attend(config, self.encoder_decoder_attention, fold(key, 4))
        x = x + drop(5, complete(cross(y, encoded, cross_seen, None)))
        y = whole_length(self.pre_mlp_layer_norm(x, dtype))
        return x + drop(2, complete(_mlp(self.mlp, y, config, fold(key, 3))))


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


def _bias(relpos_bias: RelativePositionBias, x: Array, config: T5Config) -> Array:
    length, implementation = x.shape[1], resolve(config.attention, config.dtype)
    return relpos_bias.for_attention(length, length, jnp.dtype(config.dtype), implementation)


class Encoder(nnx.Module):
    """The encoder stack without the token embedding, which it shares with the decoder."""

    def __init__(self, config: T5Config, key: Key[Array, ""]):
        bias_key, layers_key = jax.random.split(key)
        if not config.relative_attention_per_layer:
            self.relpos_bias = _relative_bias(config, True, bias_key)
        self.layers = stack_layers(
            functools.partial(EncoderLayer, config),
            jax.random.split(layers_key, config.num_encoder_layers),
        )
        self.encoder_norm = RMSNorm(config.emb_dim)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        seen: Visibility,
        config: T5Config,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length embed"]:
        dtype = jnp.dtype(config.dtype)
        x = _dropouts(config, fold(key, 0))(0, x)
        bias = None
        if not config.relative_attention_per_layer:
            bias = _bias(self.relpos_bias, x, config)

        def apply(layer: EncoderLayer, x: Array, key: Array | None) -> Array:
            return layer(x, seen, bias, config, key)

        x = scan_layers(self.layers, x, apply, config.remat_policy, fold(key, 1))
        # T5X does not share this one mask along the length; every other one it does.
        rate, final_key = config.dropout_rate, fold(key, 2)
        return dropout(self.encoder_norm(x, dtype), rate, final_key, _RESIDUAL, broadcast_dim=None)


class Decoder(nnx.Module):
    """The decoder stack and output head, without the token embedding."""

    def __init__(self, config: T5Config, key: Key[Array, ""]):
        bias_key, layers_key, logits_key = jax.random.split(key, 3)
        if not config.relative_attention_per_layer:
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
        seen: Visibility | Bool[Array, "batch length length"],
        cross_seen: Visibility | Bool[Array, "batch length inputs_length"],
        config: T5Config,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length embed"]:
        """Normalised decoder states; `T5.logits` turns them into logits."""
        dtype = jnp.dtype(config.dtype)
        x = _dropouts(config, fold(key, 0))(0, x)
        bias = None
        if not config.relative_attention_per_layer:
            bias = _bias(self.relpos_bias, x, config)
        encoded = whole_length(encoded)  # once for all layers

        def apply(layer: DecoderLayer, x: Array, key: Array | None) -> Array:
            return layer(x, encoded, seen, cross_seen, bias, config, key)

        x = scan_layers(self.layers, x, apply, config.remat_policy, fold(key, 1))
        return _dropouts(config, fold(key, 2))(0, self.decoder_norm(x, dtype))


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
        add_adapters(self, config.lora, key)

    def __call__(
        self, batch: Mapping[str, Array], *, dropout_key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch length vocab"]:
        """Float32 logits of every target position, by teacher forcing.

        Args:
          batch: see `states`.
          dropout_key: None for no dropout.
        """
        return self.logits(self.states(batch, dropout_key), fold(dropout_key, 2))

    def states(
        self, batch: Mapping[str, Array], dropout_key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch length embed"]:
        """Normalised decoder states of every target position, of which `logits` makes logits.

        Args:
          batch: encoder_input_tokens, decoder_input_tokens, decoder_target_tokens (for the padding
            mask) and, if packed, encoder_segment_ids and decoder_segment_ids.
          dropout_key: None for no dropout.
        """
        tokens, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
        inputs = segments_of(tokens > 0, batch.get("encoder_segment_ids"))
        outputs = segments_of(targets > 0, batch.get("decoder_segment_ids"))
        encoded = self._encode(tokens, inputs, fold(dropout_key, 0))
        x = self.token_embedder(batch["decoder_input_tokens"], jnp.dtype(self.config.dtype))
        seen, cross_seen = Visibility(outputs, outputs, causal=True), Visibility(outputs, inputs)
        return self.decoder(x, encoded, seen, cross_seen, self.config, fold(dropout_key, 1))

    def encode(
        self,
        encoder_input_tokens: Int[Array, "batch length"],
        *,
        encoder_segment_ids: Int[Array, "batch length"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length embed"]:
        """Encoder states in `config.dtype`; padding (id 0) is masked on both sides."""
        segments = segments_of(encoder_input_tokens > 0, encoder_segment_ids)
        return self._encode(encoder_input_tokens, segments, dropout_key)

    def _encode(self, tokens: Array, segments: Array, dropout_key: Array | None) -> Array:
        x = self.token_embedder(tokens, jnp.dtype(self.config.dtype))
        return self.encoder(x, Visibility(segments, segments), self.config, dropout_key)

    def head(self) -> Head | None:
        """The output head for the loss; None if it has an adapter: take `logits` then."""
        dense = None if self.config.logits_via_embedding else self.decoder.logits_dense
        return output_head(self.token_embedder, dense, self.config.dtype)

    def logits(
        self,
        states: Float[Array, "batch length embed"],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length vocab"]:
        """Float32 logits of decoder states; the key is for an adapter of the output head."""
        states = whole_length(states)
        if self.config.logits_via_embedding:
            return self.token_embedder.attend(states)
        return self.decoder.logits_dense(states, "vocab", jnp.dtype("float32"), dropout_key)
