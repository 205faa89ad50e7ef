"""Generation: encode once, then one compiled loop over a key-value cache.

Greedy here is the true argmax; T5X's default "greedy" is a length-normalised search with one beam.
Sampling draws from counter-based keys, one per item and step, so an item's sample depends neither
on its batch nor on its position in it.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32, Key

from flan_jax.models.attention import MultiHeadAttention, attention_probs
from flan_jax.models.t5 import T5, DecoderLayer
from flan_jax.sharding import constrain, einsum

_CACHE = ("batch", "heads", "length", "kv")


class KeyValue(NamedTuple):
    """Keys and values of one layer: heads before positions, so a step reads them in order."""

    key: Float[Array, "batch heads length kv"]
    value: Float[Array, "batch heads length kv"]


class Prefill(NamedTuple):
    """What all decoding steps share.

    Attributes:
      layers: the decoder's layers one by one, in `config.dtype`. A Python loop over them compiles
        to straight code that updates the cache in place; a scan would slice the stacked parameters
        and copy the whole cache each step.
      cross: cross-attention keys and values per layer.
      cross_mask: real encoder tokens.
      bias: decoder self-attention bias by offset, from -(max_decode_len - 1) to 0 and on.
    """

    layers: tuple[DecoderLayer, ...]
    cross: tuple[KeyValue, ...]
    cross_mask: Bool[Array, "batch 1 1 inputs_length"]
    bias: Float[Array, "heads offsets"]


class _LoopState(NamedTuple):
    step: Int32[Array, ""]
    token: Int32[Array, " batch"]  # the last one, fed to the next step; 0 starts
    ended: Bool[Array, " batch"]
    output: Int32[Array, "batch max_decode_len"]
    caches: tuple[KeyValue, ...]


def item_keys(seed: int, item_ids: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """Sampling keys that depend on the seed and each item's id only."""
    base = jax.random.key(seed)
    return jax.vmap(functools.partial(jax.random.fold_in, base))(jnp.asarray(item_ids))


def prefill(
    model: T5, encoder_input_tokens: Int[Array, "batch inputs_length"], max_decode_len: int
) -> Prefill:
    """Encodes the inputs and projects them to every layer's cross-attention keys and values."""
    dtype = jnp.dtype(model.config.dtype)
    encoded = model.encode(encoder_input_tokens)

    def layer_at(i: int) -> DecoderLayer:
        return jax.tree.map(lambda x: x[i].astype(dtype), model.decoder.layers)

    layers = tuple(layer_at(i) for i in range(model.config.num_decoder_layers))
    cross = tuple(_key_value(layer.encoder_decoder_attention, encoded, dtype) for layer in layers)
    cross_mask = (encoder_input_tokens > 0)[:, None, None, :]
    offsets = jnp.arange(-(max_decode_len - 1), max_decode_len)
    bias = model.decoder.relpos_bias.by_offset(offsets, dtype)
    return Prefill(layers, cross, cross_mask, bias)


def _key_value(
    attention: MultiHeadAttention, x: Float[Array, "batch length embed"], dtype: jnp.dtype
) -> KeyValue:
    key, value = attention.project_key_value(x, dtype)
    return KeyValue(jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2))


def _attend(
    attention: MultiHeadAttention,
    x: Float[Array, "batch 1 embed"],
    memory: KeyValue,
    mask: Bool[Array, "#batch 1 1 length"],
    bias: Float[Array, "heads 1 length"] | None,
    model: T5,
) -> Float[Array, "batch 1 embed"]:
    dtype = jnp.dtype(model.config.dtype)
    query, key = attention.project_query(x, dtype), memory.key
    if model.config.float32_attention_logits:
        query, key = query.astype(jnp.float32), key.astype(jnp.float32)
    logits = einsum("bqhd,bhkd->bhqk", query, key, ("batch", "heads", None, None))
    probs = attention_probs(logits, mask, bias, dtype)
    mixed = einsum("bhqk,bhkd->bqhd", probs, memory.value, ("batch", "length", "heads", "kv"))
    return attention.project_out(mixed, dtype)


def decode_step(
    model: T5,
    shared: Prefill,
    caches: tuple[KeyValue, ...],
    x: Float[Array, "batch 1 embed"],
    step: Int[Array, ""],
) -> tuple[Float[Array, "batch 1 vocab"], tuple[KeyValue, ...]]:
    """Logits after one more embedded token, at position `step`, and the caches with it."""
    dtype = jnp.dtype(model.config.dtype)
    length = caches[0].key.shape[2]
    mask = (jnp.arange(length) <= step)[None, None, None, :]
    bias = jax.lax.dynamic_slice_in_dim(shared.bias, length - 1 - step, length, axis=1)[:, None]
    updated = []
    for layer, cache, cross in zip(shared.layers, caches, shared.cross, strict=True):
        y = layer.pre_self_attention_layer_norm(x, dtype)
        new = _key_value(layer.self_attention, y, dtype)
        cache = KeyValue(
            jax.lax.dynamic_update_slice_in_dim(cache.key, new.key, step, axis=2),
            jax.lax.dynamic_update_slice_in_dim(cache.value, new.value, step, axis=2),
        )
        updated.append(cache)
        x = x + _attend(layer.self_attention, y, cache, mask, bias, model)
        y = layer.pre_cross_attention_layer_norm(x, dtype)
        cross_attention = layer.encoder_decoder_attention
        x = x + _attend(cross_attention, y, cross, shared.cross_mask, None, model)
        x = x + layer.mlp(layer.pre_mlp_layer_norm(x, dtype), dtype)
    return model.logits(model.decoder.decoder_norm(x, dtype)), tuple(updated)


def _next_token(
    logits: Float[Array, "batch vocab"],
    temperature: float,
    topk: int,
    keys: Key[Array, " batch"] | None,
    step: Int[Array, ""],
) -> Int32[Array, " batch"]:
    if temperature == 0.0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    assert keys is not None
    logits = constrain(logits, "batch", None) / temperature
    if topk > 0:
        threshold = jax.lax.top_k(logits, topk)[0][:, -1:]
        logits = jnp.where(logits >= threshold, logits, -jnp.inf)

    def draw(key: Key[Array, ""], row: Float[Array, " vocab"]) -> Int[Array, ""]:
        return jax.random.categorical(jax.random.fold_in(key, step), row)

    return jax.vmap(draw)(keys, logits).astype(jnp.int32)


def _check(max_decode_len: int, temperature: float, topk: int, keys: object, vocab: int) -> None:
    if max_decode_len < 1:
        raise ValueError(f"max_decode_len must be at least 1, found {max_decode_len}.")
    if temperature < 0.0:
        raise ValueError(f"temperature must be 0 (greedy) or more, found {temperature}.")
    if not 0 <= topk <= vocab:
        raise ValueError(f"topk must be in [0, {vocab}] (0: the whole vocabulary), found {topk}.")
    if temperature > 0.0 and keys is None:
        raise ValueError("sampling needs keys: pass keys=item_keys(seed, item_ids).")


@functools.partial(jax.jit, static_argnames=("max_decode_len", "eos_id", "temperature", "topk"))
def generate(
    model: T5,
    encoder_input_tokens: Int[Array, "batch inputs_length"],
    *,
    max_decode_len: int,
    eos_id: int = 1,
    temperature: float = 0.0,
    topk: int = 0,
    keys: Key[Array, " batch"] | None = None,
) -> Int32[Array, "batch max_decode_len"]:
    """Token ids of one continuation per row: up to and with EOS, then 0.

    Compiled once per shape; the loop ends when every row has ended.

    Args:
      model: parameters.
      encoder_input_tokens: right-padded by 0; a row of zeros (batch filler) is decoded too, and
        its output means nothing.
      max_decode_len: ids returned per row.
      eos_id: ends a row.
      temperature: 0: argmax; else logits are divided by it and sampled.
      topk: sample among the topk likeliest tokens (and those tied with the last); 0: among all.
      keys: one per row, from `item_keys`; required with temperature > 0.

    Raises:
      ValueError: for arguments out of range, or sampling without keys.
    """
    _check(max_decode_len, temperature, topk, keys, model.config.vocab_size)
    batch, config = encoder_input_tokens.shape[0], model.config
    dtype = jnp.dtype(config.dtype)
    shared = prefill(model, encoder_input_tokens, max_decode_len)
    cache_shape = (batch, config.num_heads, max_decode_len, config.head_dim)
    empty = constrain(jnp.zeros(cache_shape, dtype), *_CACHE)
    # Cast once and not in every step; a table that is also the output head stays float32.
    embed = model.token_embedder
    if not config.logits_via_embedding:
        embed = jax.tree.map(lambda x: x.astype(dtype), embed)

    def unfinished(state: _LoopState) -> Array:
        return (state.step < max_decode_len) & ~jnp.all(state.ended)

    def advance(state: _LoopState) -> _LoopState:
        x = embed(state.token[:, None], dtype)
        logits, caches = decode_step(model, shared, state.caches, x, state.step)
        token = _next_token(logits[:, 0], temperature, topk, keys, state.step)
        token = jnp.where(state.ended, 0, token)
        ended = state.ended | (token == eos_id)
        output = jax.lax.dynamic_update_slice_in_dim(
            state.output, token[:, None], state.step, axis=1
        )
        return _LoopState(state.step + 1, token, ended, output, caches)

    state = _LoopState(
        step=jnp.zeros((), jnp.int32),
        token=constrain(jnp.zeros((batch,), jnp.int32), "batch"),
        ended=constrain(jnp.zeros((batch,), bool), "batch"),
        output=constrain(jnp.zeros((batch, max_decode_len), jnp.int32), "batch", None),
        caches=(KeyValue(empty, empty),) * config.num_decoder_layers,
    )
    return jax.lax.while_loop(unfinished, advance, state).output
