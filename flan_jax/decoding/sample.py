"""The loop that samples, greedy at temperature 0, and what decoding returns."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, Key

from flan_jax.decoding.config import DecodeConfig
from flan_jax.decoding.prefilled import Caches, Prefilled
from flan_jax.decoding.sampling import next_token, sample_keys, token_logprobs
from flan_jax.layout import constrain


class Decoded(NamedTuple):
    """Continuations of each prompt.

    Attributes:
      ids: up to and with EOS, then 0; without the prompt.
      lengths: ids of each, EOS included.
      ended: by EOS; False: by max_decode_len.
      logprobs: sum of the log-probabilities of its tokens under the model (natural logarithm),
        before temperature and filters.
      scores: what continuations are ranked by: log-probabilities, of beams with the length penalty.
        Samples stand in the order of their index, beams from the worst to the best (as in T5X).
      steps: how many steps the loop took, the same for all rows.
    """

    ids: Int32[Array, "batch decodes max_decode_len"]
    lengths: Int32[Array, "batch decodes"]
    ended: Bool[Array, "batch decodes"]
    logprobs: Float32[Array, "batch decodes"]
    scores: Float32[Array, "batch decodes"]
    steps: Int32[Array, ""]

    def best(self) -> Int32[Array, "batch max_decode_len"]:
        """The ids with the highest score in each row (the last of equals)."""
        decodes = self.scores.shape[1]
        index = decodes - 1 - jnp.argmax(self.scores[:, ::-1], axis=1)
        is_best = jnp.arange(decodes) == index[:, None]
        return jnp.sum(jnp.where(is_best[..., None], self.ids, 0), axis=1)


class _State(NamedTuple):
    step: Int32[Array, ""]
    tokens: Int32[Array, "batch decodes"]  # the last ones, fed to the next step
    ended: Bool[Array, "batch decodes"]
    ids: Int32[Array, "batch decodes max_decode_len"]
    logprobs: Float32[Array, "batch decodes"]
    caches: Caches


def sample(
    prefilled: Prefilled, config: DecodeConfig, keys: Key[Array, " batch"] | None
) -> Decoded:
    """Samples `num_decodes` continuations of each prompt; ends when all of them have."""
    first = prefilled.first_tokens
    shape = (first.shape[0], config.num_decodes)
    lanes = None if config.temperature == 0.0 or keys is None else sample_keys(keys, shape[1])

    def unfinished(state: _State) -> Array:
        return (state.step < config.max_decode_len) & ~jnp.all(state.ended)

    def advance(state: _State) -> _State:
        logits, caches = prefilled.step(state.caches, state.tokens, state.step)
        tokens = next_token(
            logits,
            state.step,
            lanes,
            temperature=config.temperature,
            topk=config.topk,
            topp=config.topp,
        )
        tokens = jnp.where(state.ended, 0, tokens)
        added = jnp.where(state.ended, 0.0, token_logprobs(logits, tokens))
        ids = jax.lax.dynamic_update_slice_in_dim(state.ids, tokens[..., None], state.step, axis=2)
        ended = state.ended | (tokens == config.eos_id)
        return _State(state.step + 1, tokens, ended, ids, state.logprobs + added, caches)

    empty = constrain(jnp.zeros((*shape, config.max_decode_len), jnp.int32), "batch", None, None)
    zeros = constrain(jnp.zeros(shape, jnp.float32), "batch", None)
    start = _State(
        step=jnp.zeros((), jnp.int32),
        tokens=constrain(jnp.broadcast_to(first[:, None], shape), "batch", None),
        ended=zeros > 0,
        ids=empty,
        logprobs=zeros,
        caches=prefilled.empty_caches(config.num_decodes, config.max_decode_len),
    )
    end = jax.lax.while_loop(unfinished, advance, start)
    # A continuation may hold id 0 itself, so lengths are not counted from the ids that are not 0.
    is_eos = end.ids == config.eos_id
    lengths = jnp.where(end.ended, jnp.argmax(is_eos, axis=2) + 1, config.max_decode_len)
    return Decoded(
        end.ids, lengths.astype(jnp.int32), end.ended, end.logprobs, end.logprobs, end.step
    )
