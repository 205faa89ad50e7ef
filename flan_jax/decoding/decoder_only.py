"""PaLM as the decoding loops see it: prompts read once, then one step after another.

Prompts are right-padded, each row its own length n. The model reads them shifted, [0, t1, ..., tn],
as T5X's `DecoderFeatureConverter` lays them out; with bidirectional inputs these n + 1 positions
see each other. Position n, whose logits predict the first new token, is read again by the first
step: its keys and values are those of each continuation, so what continuations share is positions
0 to n - 1, and step s is position n + s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
from flan_jax.models.dot_product import Visibility, attention_probs, causal_mask, segments_of
from flan_jax.models.layers import Embed
from flan_jax.models.palm import MultiQueryAttention, Palm, PalmLayer

_CACHE = ("length", "kv")
_LOGITS = ("batch", "heads", None, None)
_MIXED = ("batch", "length", "heads", "kv")


@dataclass(frozen=True)
class ReadPrompts:
    """A PaLM that has read its prompts (`Prefilled`).

    Attributes:
      model: parameters.
      embed: the token embedding as it is looked up.
      first_tokens: the last token of each prompt (0 for an empty one).
      lengths: tokens of each prompt.
      prompts_mask: the positions that continuations share.
      layers: the layers one by one, in `config.dtype` (see `EncodedInputs`).
      prompts: keys and values of the prompts per layer, [batch, prompt_length + 1, kv].
    """

    model: Palm
    embed: Embed
    first_tokens: Int32[Array, " batch"]
    lengths: Int32[Array, " batch"]
    prompts_mask: Bool[Array, "batch prompt_length"]
    layers: tuple[PalmLayer, ...]
    prompts: tuple[KeyValue, ...]

    @property
    def vocab_size(self) -> int:
        return self.model.config.vocab_size

    def empty_caches(self, num_decodes: int, max_decode_len: int) -> tuple[KeyValue, ...]:
        """[batch * decodes, length, kv] per layer, in `config.dtype`."""
        config = self.model.config
        shape = (self.lengths.shape[0] * num_decodes, max_decode_len, config.head_dim)
        empty = constrain(jnp.zeros(shape, jnp.dtype(config.dtype)), "batch", *_CACHE)
        return (KeyValue(empty, empty),) * config.num_layers

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
        model, dtype = self.model, jnp.dtype(self.model.config.dtype)
        x = self.embed(tokens, dtype)
        # All continuations of a prompt are at the same position.
        rotations = model.rotations((self.lengths + step)[:, None])
        updated = []
        for layer, cache, prompt in zip(self.layers, caches, self.prompts, strict=True):
            y = layer.layer_norm(x, dtype)
            query = layer.attention.project_query(y, rotations, dtype)
            key, value = layer.attention.project_key_value(y, rotations, dtype)
            cache = write(cache, merge(key, "kv"), merge(value, "kv"), step)
            updated.append(cache)
            attended = self._attend(layer.attention, query, prompt, cache, step)
            x = x + complete(attended, layer.feed_forward(y, model.config))
        return model.logits(model.decoder.decoder_norm(x, dtype)), tuple(updated)

    def _attend(
        self,
        attention: MultiQueryAttention,
        query: Float[Array, "batch decodes heads kv"],
        prompt: KeyValue,
        own: KeyValue,
        step: Int32[Array, ""],
    ) -> Float[Array, "batch decodes embed"]:
        """Attention to the prompt and to what each continuation has generated, in one softmax."""
        config, dtype = self.model.config, jnp.dtype(self.model.config.dtype)
        prompt_key, own_key = prompt.key, own.key
        prompt_length, num_decodes = prompt_key.shape[1], query.shape[1]
        if config.float32_attention_logits:
            query, prompt_key, own_key = (
                x.astype(jnp.float32) for x in (query, prompt_key, own_key)
            )
        to_prompt = einsum("bnhd,bkd->bhnk", query, prompt_key, _LOGITS)
        rows = merge(query, "heads", "kv")
        to_own = einsum("rhd,rkd->rhk", rows, own_key, ("batch", "heads", None))
        to_own = jnp.swapaxes(split(to_own, num_decodes, "heads", "length"), 1, 2)
        logits = jnp.concatenate([to_prompt, to_own], axis=-1)
        generated = jnp.broadcast_to(
            jnp.arange(own_key.shape[1]) <= step, (query.shape[0], own_key.shape[1])
        )
        mask = jnp.concatenate([self.prompts_mask, constrain(generated, "batch", None)], axis=1)
        probs = attention_probs(logits, mask[:, None, None, :], None, dtype)
        mixed = einsum("bhnk,bkd->bnhd", probs[..., :prompt_length], prompt.value, _MIXED)
        of_own = merge(jnp.swapaxes(probs[..., prompt_length:], 1, 2), "heads", "length")
        mixed_own = einsum("rhk,rkd->rhd", of_own, own.value, ("batch", "heads", "kv"))
        mixed += split(mixed_own, num_decodes, "heads", "kv")
        return attention.project_out(mixed, dtype)

    def teacher_forced(
        self, targets: Int[Array, "batch decodes length"]
    ) -> Float[Array, "batch decodes*length vocab"]:
        """See `Prefilled.teacher_forced`. All continuations of a prompt are queries of one
        attention, which takes (decodes * length) * (prompt + decodes * length) logits per head.
        """
        rows, decodes, length = targets.shape
        model, dtype = self.model, jnp.dtype(self.model.config.dtype)
        shape, layout = (rows, decodes * length), out_sharding("batch", "length")
        tokens = jnp.reshape(shifted(self.first_tokens, targets), shape, out_sharding=layout)
        steps = jnp.tile(jnp.arange(length), decodes)
        same = jnp.repeat(jnp.arange(decodes), length)
        own_mask = causal_mask(decodes * length) & (same[:, None] == same[None, :])
        mask = jnp.concatenate(
            [
                self._to_all(self.prompts_mask[:, None, :], 1, shape[1]),
                self._to_all(own_mask, 0, rows),
            ],
            axis=2,
        )
        rotations = model.rotations(self.lengths[:, None] + steps)
        x = model.embed(tokens)
        for layer, prompt in zip(self.layers, self.prompts, strict=True):
            y = layer.layer_norm(x, dtype)
            own = layer.attention.project_key_value(y, rotations, dtype)
            key, value = (jnp.concatenate(pair, axis=1) for pair in zip(prompt, own, strict=True))
            attended = layer.attention.attend(
                layer.attention.project_query(y, rotations, dtype),
                key,
                value,
                mask,
                model.config,
            )
            x = x + complete(attended, layer.feed_forward(y, model.config))
        return model.logits(model.decoder.decoder_norm(x, dtype))

    def _to_all(self, mask: Bool[Array, "#batch #q k"], axis: int, size: int) -> Array:
        shape = list(mask.shape)
        shape[axis] = size
        return constrain(jnp.broadcast_to(mask, shape), "batch", None, None)


def read_prompts(
    model: Palm,
    prompts: Int[Array, "batch prompt_length"],
    *,
    inputs_bidirectional_attention: bool,
) -> ReadPrompts:
    """Runs the prompts through the model and keeps every layer's keys and values.

    Args:
      model: parameters.
      prompts: right-padded by 0.
      inputs_bidirectional_attention: whether a prompt sees itself whole (a prefix language model);
        attention is causal if not.
    """
    config, dtype = model.config, jnp.dtype(model.config.dtype)
    lengths = jnp.sum(prompts > 0, axis=1).astype(jnp.int32)
    tokens = jnp.pad(prompts, ((0, 0), (1, 0)))
    index = jnp.arange(tokens.shape[1])
    real = index <= lengths[:, None]
    segments = segments_of(real, None)
    prefix = real if inputs_bidirectional_attention else None
    seen = Visibility(segments, segments, causal=True, prefix=prefix)
    rotations = model.rotations(index[None])

    def read(x: Array, layer: Any) -> tuple[Array, KeyValue]:
        y = layer.layer_norm(x, dtype)
        key, value = layer.attention.project_key_value(y, rotations, dtype)
        attended = layer.attention.attend(
            layer.attention.project_query(y, rotations, dtype),
            key,
            value,
            seen,
            config,
        )
        return x + complete(attended, layer.feed_forward(y, config)), KeyValue(key, value)

    _, stacked = jax.lax.scan(read, model.embed(tokens), model.decoder.layers)
    layers = tuple(layer_at(model.decoder.layers, i, dtype) for i in range(config.num_layers))
    prompt_caches = tuple(KeyValue(*(x[i] for x in stacked)) for i in range(config.num_layers))
    is_last = index == lengths[:, None]
    first_tokens = jnp.sum(jnp.where(is_last, tokens, 0), axis=1).astype(jnp.int32)
    prompts_mask = index < lengths[:, None]
    embed = looked_up(model.token_embedder, config.logits_via_embedding, dtype)
    return ReadPrompts(model, embed, first_tokens, lengths, prompts_mask, layers, prompt_caches)
