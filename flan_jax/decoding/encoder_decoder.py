"""T5 as the decoding loops see it: inputs encoded once, then one step after another."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32

from flan_jax.decoding.prefilled import (
    KeyValue,
    layer_at,
    looked_up,
    merge,
    reorder,
    shifted,
    split,
    write,
)
from flan_jax.layout import complete, constrain, einsum, out_sharding
from flan_jax.models.attention import MultiHeadAttention
from flan_jax.models.dot_product import Visibility, attention_probs, segments_of
from flan_jax.models.layers import Embed
from flan_jax.models.t5 import T5, DecoderLayer

_CACHE = ("heads", "length", "kv")
_LOGITS = ("batch", "heads", None, None)
_MIXED = ("batch", "length", "heads", "kv")


@dataclass(frozen=True)
class EncodedInputs:
    """A T5 that has read its inputs (`Prefilled`).

    Continuations of one input take the place of a sequence's positions in the layers, so all of
    them look at one copy of its keys and values.

    Attributes:
      model: parameters.
      embed: the token embedding as it is looked up.
      encoded: encoder states in `config.dtype`.
      inputs_mask: real encoder tokens.
      layers: the decoder's layers one by one, in `config.dtype`. A Python loop over them compiles
        to straight code that updates the cache in place; a scan would slice the stacked parameters
        and copy the whole cache each step.
      cross: cross-attention keys and values per layer, [batch, heads, inputs_length, kv]: heads
        before positions, so a step reads them in order.
      biases: self-attention bias of each layer (one object if they share it) by offset, from
        -(max_decode_len - 1) to 0 and on.
    """

    model: T5
    embed: Embed
    encoded: Float[Array, "batch inputs_length embed"]
    inputs_mask: Bool[Array, "batch inputs_length"]
    layers: tuple[DecoderLayer, ...]
    cross: tuple[KeyValue, ...]
    biases: tuple[Float[Array, "heads offsets"], ...]

    @property
    def first_tokens(self) -> Int32[Array, " batch"]:
        """T5's decoder starts from the padding id."""
        return constrain(jnp.zeros(self.encoded.shape[:1], jnp.int32), "batch")

    @property
    def vocab_size(self) -> int:
        return self.model.config.vocab_size

    def empty_caches(self, num_decodes: int, max_decode_len: int) -> tuple[KeyValue, ...]:
        """[batch * decodes, heads, length, kv] per layer, in `config.dtype`."""
        config = self.model.config
        rows = self.encoded.shape[0] * num_decodes
        shape = (rows, config.num_heads, max_decode_len, config.head_dim)
        empty = constrain(jnp.zeros(shape, jnp.dtype(config.dtype)), "batch", *_CACHE)
        return (KeyValue(empty, empty),) * config.num_decoder_layers

    def reorder(
        self, caches: tuple[KeyValue, ...], parents: Int[Array, "batch decodes"]
    ) -> tuple[KeyValue, ...]:
        """See `Prefilled.reorder`."""
        return reorder(caches, parents, _CACHE)

    def step(
        self,
        caches: tuple[KeyValue, ...],
        tokens: Int32[Array, "batch decodes"],
        step: Int32[Array, ""],
    ) -> tuple[Float[Array, "batch decodes vocab"], tuple[KeyValue, ...]]:
        """See `Prefilled.step`."""
        dtype = jnp.dtype(self.model.config.dtype)
        x = self.embed(tokens, dtype)
        updated = []
        for layer, cache, cross, bias in zip(
            self.layers, caches, self.cross, self.biases, strict=True
        ):
            y = layer.pre_self_attention_layer_norm(x, dtype)
            key, value = layer.self_attention.project_key_value(y, dtype)
            cache = write(cache, merge(key, "heads", "kv"), merge(value, "heads", "kv"), step)
            updated.append(cache)
            x = x + complete(self._attend_own(layer.self_attention, y, cache, bias, step))
            y = layer.pre_cross_attention_layer_norm(x, dtype)
            x = x + complete(self._attend_inputs(layer.encoder_decoder_attention, y, cross))
            x = x + complete(layer.mlp(layer.pre_mlp_layer_norm(x, dtype), dtype))
        return self.model.logits(self.model.decoder.decoder_norm(x, dtype)), tuple(updated)

    def _attend_own(
        self,
        attention: MultiHeadAttention,
        x: Float[Array, "batch decodes embed"],
        cache: KeyValue,
        bias: Float[Array, "heads offsets"],
        step: Int32[Array, ""],
    ) -> Float[Array, "batch decodes embed"]:
        """Self-attention of each continuation to what it has generated."""
        length = cache.key.shape[-2]
        mask = (jnp.arange(length) <= step)[None, None, None, :]
        bias = jax.lax.dynamic_slice_in_dim(bias, length - 1 - step, length, axis=1)[:, None]
        query, key, dtype = self._query_key(attention, x, cache)
        query = merge(query, "heads", "kv")
        logits = einsum("rhd,rhkd->rhk", query, key, ("batch", "heads", None))
        probs = attention_probs(logits[:, :, None], mask, bias, dtype)[:, :, 0]
        mixed = einsum("rhk,rhkd->rhd", probs, cache.value, ("batch", "heads", "kv"))
        return attention.project_out(split(mixed, x.shape[1], "heads", "kv"), dtype)

    def _attend_inputs(
        self,
        attention: MultiHeadAttention,
        x: Float[Array, "batch decodes embed"],
        cross: KeyValue,
    ) -> Float[Array, "batch decodes embed"]:
        query, key, dtype = self._query_key(attention, x, cross)
        logits = einsum("bnhd,bhkd->bhnk", query, key, _LOGITS)
        probs = attention_probs(logits, self.inputs_mask[:, None, None, :], None, dtype)
        return attention.project_out(einsum("bhnk,bhkd->bnhd", probs, cross.value, _MIXED), dtype)

    def _query_key(
        self, attention: MultiHeadAttention, x: Array, memory: KeyValue
    ) -> tuple[Array, Array, jnp.dtype]:
        dtype = jnp.dtype(self.model.config.dtype)
        query, key = attention.project_query(x, dtype), memory.key
        if self.model.config.float32_attention_logits:
            query, key = query.astype(jnp.float32), key.astype(jnp.float32)
        return query, key, dtype

    def teacher_forced(
        self, targets: Int[Array, "batch decodes length"]
    ) -> Float[Array, "batch decodes*length vocab"]:
        """See `Prefilled.teacher_forced`. The continuations are packed in one row of the decoder,
        whose self-attention therefore takes (decodes * length)**2 logits per head.
        """
        rows, decodes, length = targets.shape
        layout = out_sharding("batch", "length")
        tokens = jnp.reshape(
            shifted(self.first_tokens, targets), (rows, decodes * length), out_sharding=layout
        )
        real = jnp.reshape(targets > 0, tokens.shape, out_sharding=layout)
        own = segments_of(real, jnp.repeat(jnp.arange(decodes), length)[None])
        seen = Visibility(own, own, causal=True)
        cross_seen = Visibility(segments_of(real, None), segments_of(self.inputs_mask, None))
        x = self.model.token_embedder(tokens, jnp.dtype(self.model.config.dtype))
        states = self.model.decoder(x, self.encoded, seen, cross_seen, self.model.config, None)
        return self.model.logits(states)


def encode_inputs(
    model: T5, encoder_input_tokens: Int[Array, "batch inputs_length"], max_decode_len: int
) -> EncodedInputs:
    """Encodes the inputs and projects them to every layer's cross-attention keys and values."""
    config, dtype = model.config, jnp.dtype(model.config.dtype)
    encoded = model.encode(encoder_input_tokens)
    num_layers = config.num_decoder_layers
    layers = tuple(layer_at(model.decoder.layers, i, dtype) for i in range(num_layers))
    cross = []
    for layer in layers:
        key, value = layer.encoder_decoder_attention.project_key_value(encoded, dtype)
        cross.append(KeyValue(jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)))
    offsets = jnp.arange(-(max_decode_len - 1), max_decode_len)
    if getattr(config, "relative_attention_per_layer", False):
        biases = tuple(layer.relpos_bias.by_offset(offsets, dtype) for layer in layers)
    else:
        biases = (model.decoder.relpos_bias.by_offset(offsets, dtype),) * num_layers
    embed = looked_up(model.token_embedder, config.logits_via_embedding, dtype)
    inputs_mask = encoder_input_tokens > 0
    return EncodedInputs(model, embed, encoded, inputs_mask, layers, tuple(cross), biases)
