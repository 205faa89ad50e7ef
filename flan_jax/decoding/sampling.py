"""Which token comes next: the likeliest, or one drawn from what temperature and filters leave.

The order is fixed: logits are divided by the temperature, the `topk` likeliest are kept, and among
them, renormalised, the likeliest that together have probability `topp` (Holtzman et al. 2020,
https://arxiv.org/abs/1904.09751). Tokens tied with the last one kept are kept too, so what is kept
does not depend on the order of the vocabulary.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, Key

from flan_jax.layout import constrain, out_sharding

_BITS_OF_ONE = int(np.float32(1.0).view(np.int32))
_BLOCK = 128


def item_keys(seed: int, item_ids: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """Keys that depend on the seed and each item's id only."""
    base = jax.random.key(seed)
    return jax.vmap(functools.partial(jax.random.fold_in, base))(jnp.asarray(item_ids))


def sample_keys(keys: Key[Array, " batch"], num_decodes: int) -> Key[Array, "batch decodes"]:
    """Keys of the samples 0, 1, ... of each item: sample i is the same however many there are."""
    # Index by index: on a mesh, JAX 0.10's fold_in fails for one key and several numbers together.
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    keys = constrain(keys, "batch")
    return jnp.stack([fold(keys, index) for index in range(num_decodes)], axis=1)


def keep_topk(logits: Float[Array, "... vocab"], k: int) -> Float[Array, "... vocab"]:
    """The k largest logits and those tied with the last of them; -inf for the others."""
    # Not the last of them by its place: XLA would merge the slice into a sort of the whole
    # vocabulary, on CPUs forty times the time.
    threshold = jnp.min(jax.lax.top_k(logits, k)[0], axis=-1, keepdims=True)
    return jnp.where(logits >= threshold, logits, -jnp.inf)


def keep_topp(logits: Float[Array, "... vocab"], p: float) -> Float[Array, "... vocab"]:
    """The fewest likeliest tokens with total probability p or more, and ties; -inf for the others.

    That is, all tokens at least as likely as the largest threshold whose tokens have mass p. It is
    found by bisection over the bits of a float32 (which order as integers do for numbers that are
    not negative): 30 sums, where sorting a vocabulary would take several times as long.
    """
    probs = jax.nn.softmax(logits, axis=-1)

    def enough(bits: Int32[Array, ...]) -> Array:
        threshold = jax.lax.bitcast_convert_type(bits, jnp.float32)[..., None]
        return jnp.sum(jnp.where(probs >= threshold, probs, 0.0), axis=-1) >= p

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # `low` is enough, `high` is not
        middle = (low + high) // 2
        passed = enough(middle)
        return jnp.where(passed, middle, low), jnp.where(passed, high, middle)

    low = jnp.zeros_like(probs[..., 0], jnp.int32)
    bounds = (low, jnp.full_like(low, _BITS_OF_ONE + 1))
    low, _ = jax.lax.fori_loop(0, 31, halve, bounds)
    threshold = jax.lax.bitcast_convert_type(low, jnp.float32)[..., None]
    return jnp.where(probs >= threshold, logits, -jnp.inf)


def argmax(logits: Float[Array, "... vocab"]) -> Int32[Array, ...]:
    """Index of the largest logit, the first of equals.

    XLA's own is a scalar loop on CPUs, an eighth of the time of a small T5's step; the largest of
    each block is found by vector instructions, and only one block is searched.
    """
    vocab = logits.shape[-1]
    # On a mesh the vocabulary may be split: how to search it is the compiler's affair.
    if vocab % _BLOCK or out_sharding() is not None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    blocks = logits.reshape(*logits.shape[:-1], vocab // _BLOCK, _BLOCK)
    first = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1, keepdims=True)
    block = jnp.take_along_axis(blocks, first[..., None], axis=-2)[..., 0, :]
    return (first[..., 0] * _BLOCK + jnp.argmax(block, axis=-1)).astype(jnp.int32)


def next_token(
    logits: Float[Array, "batch decodes vocab"],
    step: Int32[Array, ""],
    keys: Key[Array, "batch decodes"] | None,
    *,
    temperature: float,
    topk: int = 0,
    topp: float = 0.0,
) -> Int32[Array, "batch decodes"]:
    """The token that follows each sequence.

    Args:
      logits: of the model, float32.
      step: each step draws from a key of its own.
      keys: one per sequence (`sample_keys`); not needed at temperature 0.
      temperature: 0: the likeliest (the first of equals).
      topk, topp: 0 for no such filter.
    """
    if temperature == 0.0:
        return argmax(logits)
    assert keys is not None
    logits = constrain(logits, "batch", None, None) / temperature
    if topk > 0:
        logits = keep_topk(logits, topk)
    if 0.0 < topp < 1.0:
        logits = keep_topp(logits, topp)

    def noise(key: Key[Array, ""]) -> Float[Array, " vocab"]:
        return jax.random.gumbel(jax.random.fold_in(key, step), logits.shape[-1:], logits.dtype)

    # `jax.random.categorical` to the bit, with an argmax that is faster on CPUs.
    return argmax(logits + jax.vmap(jax.vmap(noise))(keys))


def token_logprobs(
    logits: Float[Array, "batch decodes vocab"], tokens: Int[Array, "batch decodes"]
) -> Float[Array, "batch decodes"]:
    """Log-probability of each token under the model itself, before temperature and filters."""
    # A masked sum, not a gather: it stays local when the vocabulary is split over devices.
    is_token = jnp.arange(logits.shape[-1]) == tokens[..., None]
    chosen = jnp.sum(jnp.where(is_token, logits, 0.0), axis=-1)
    return chosen - jax.nn.logsumexp(logits, axis=-1)
