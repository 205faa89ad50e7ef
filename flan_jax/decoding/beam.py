"""Beam search: one search, with T5X's or Hugging Face's rules for scores and for its end.

Every step keeps, of all continuations by one token of a row's live beams, the 2 * beams likeliest:
at most half of them can end in EOS, so as many as there are beams live on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from flan_jax.decoding.config import DecodeConfig
from flan_jax.decoding.prefilled import Caches, Prefilled, take_decodes
from flan_jax.decoding.sample import Decoded
from flan_jax.layout import constrain

# Score of a place that no continuation has taken; T5X's number.
NO_SCORE = -1e7


@dataclass(frozen=True)
class T5XRules:
    """T5X's: only what ended in EOS counts, unless nothing did in the whole row.

    Attributes:
      alpha: exponent of the length penalty.
    """

    alpha: float
    limit_ends: bool = False  # are continuations of max_decode_len finished ones?
    best_only: bool = False  # must a finished continuation be among the first `beams`?
    stop_when_full: bool = False

    def penalty(self, length: int | Array) -> Array:
        """Divides the log-probability of a continuation of `length` tokens."""
        return ((5.0 + jnp.asarray(length, jnp.float32)) / 6.0) ** self.alpha

    def last_length(self, length: Array, max_decode_len: int) -> int | Array:
        """The length at which a live beam is compared with the finished ones."""
        del length
        return max_decode_len


@dataclass(frozen=True)
class HFRules:
    """Those of `transformers` (checked against 4.57 and 5.x): what reaches the limit counts too.

    Attributes:
      alpha: exponent of the length (its `length_penalty`).
      early_stopping: as there.
    """

    alpha: float
    early_stopping: bool | Literal["never"]
    limit_ends: bool = True
    best_only: bool = True

    @property
    def stop_when_full(self) -> bool:
        return self.early_stopping is True

    def penalty(self, length: int | Array) -> Array:
        """See `T5XRules.penalty`."""
        return jnp.asarray(length, jnp.float32) ** self.alpha

    def last_length(self, length: Array, max_decode_len: int) -> int | Array:
        """See `T5XRules.last_length`."""
        never = self.early_stopping == "never" and self.alpha > 0.0
        return max_decode_len if never else length


Rules = T5XRules | HFRules


class _Finished(NamedTuple):
    """The best continuations so far that live no longer, best first."""

    scores: Float32[Array, "batch beams"]
    logprobs: Float32[Array, "batch beams"]
    taken: Bool[Array, "batch beams"]  # whether the place holds one
    ended: Bool[Array, "batch beams"]  # by EOS
    lengths: Int32[Array, "batch beams"]
    ids: Int32[Array, "batch beams max_decode_len"]


class _State(NamedTuple):
    step: Int32[Array, ""]
    logprobs: Float32[Array, "batch beams"]  # of the live beams, best first
    tokens: Int32[Array, "batch beams"]
    ids: Int32[Array, "batch beams max_decode_len"]
    caches: Caches
    finished: _Finished
    done: Bool[Array, " batch"]  # nothing can improve the finished ones of this row


class _Candidates(NamedTuple):
    """The likeliest continuations of the live beams by one token, best first."""

    logprobs: Float32[Array, "batch candidates"]
    tokens: Int32[Array, "batch candidates"]
    parents: Int32[Array, "batch candidates"]
    ids: Int32[Array, "batch candidates max_decode_len"]


def rules_of(config: DecodeConfig) -> Rules:
    """The rules that `config.length_penalty` names."""
    if config.length_penalty == "t5x":
        return T5XRules(config.alpha)
    return HFRules(config.alpha, config.early_stopping)


def beam_search(prefilled: Prefilled, config: DecodeConfig) -> Decoded:
    """The `num_decodes` best continuations of each prompt that the search finds.

    Rows do not influence each other, but for rounding. Where fewer were found than there are beams,
    the rest have no ids, length 0 and score -1e7.
    """
    rules, beams = rules_of(config), config.num_decodes
    # Room for two candidates a beam in a tiny vocabulary.
    candidates = min(2 * beams, beams * prefilled.vocab_size)

    def unfinished(state: _State) -> Array:
        return (state.step < config.max_decode_len) & ~jnp.all(state.done)

    def advance(state: _State) -> _State:
        logits, caches = prefilled.step(state.caches, state.tokens, state.step)
        found = _extend(state, logits, candidates)
        is_eos = found.tokens == config.eos_id
        at_limit = state.step + 1 == config.max_decode_len
        complete = is_eos | (at_limit & rules.limit_ends)
        finished = _finish(state, found, complete, is_eos, rules)
        alive = jnp.where(complete, NO_SCORE, 0.0) + found.logprobs
        logprobs, index = jax.lax.top_k(alive, beams)
        tokens, parents, ids = take_decodes((found.tokens, found.parents, found.ids), index)
        done = state.done | _settled(finished, logprobs, state.step + 1, rules, config)
        caches = prefilled.reorder(caches, parents) if beams > 1 else caches
        return _State(state.step + 1, logprobs, tokens, ids, caches, finished, done)

    end = jax.lax.while_loop(unfinished, advance, _start(prefilled, config))
    return _result(end, config)


def _start(prefilled: Prefilled, config: DecodeConfig) -> _State:
    first, beams = prefilled.first_tokens, config.num_decodes
    shape = (first.shape[0], beams)

    def full(value: float, dtype: type = jnp.float32) -> Array:
        return constrain(jnp.full(shape, value, dtype), "batch", None)

    ids = constrain(jnp.zeros((*shape, config.max_decode_len), jnp.int32), "batch", None, None)
    nothing = full(0, jnp.int32)
    finished = _Finished(full(NO_SCORE), full(0.0), nothing > 0, nothing > 0, nothing, ids)
    # All beams of a row begin alike: only the first may be extended.
    logprobs = full(0.0) + jnp.where(jnp.arange(beams) == 0, 0.0, NO_SCORE)
    return _State(
        step=jnp.zeros((), jnp.int32),
        logprobs=logprobs,
        tokens=constrain(jnp.broadcast_to(first[:, None], shape), "batch", None),
        ids=ids,
        caches=prefilled.empty_caches(beams, config.max_decode_len),
        finished=finished,
        done=constrain(jnp.zeros(first.shape, bool), "batch"),
    )


def _extend(
    state: _State, logits: Float[Array, "batch beams vocab"], candidates: int
) -> _Candidates:
    vocab = logits.shape[-1]
    logits = constrain(logits, "batch", None, None)
    totals = jax.nn.log_softmax(logits, axis=-1) + state.logprobs[..., None]
    best, index = jax.lax.top_k(totals.reshape(totals.shape[0], -1), candidates)
    parents, tokens = index // vocab, (index % vocab).astype(jnp.int32)
    ids = jax.lax.dynamic_update_slice_in_dim(
        take_decodes(state.ids, parents), tokens[..., None], state.step, axis=2
    )
    return _Candidates(best, tokens, parents, ids)


def _finish(
    state: _State,
    found: _Candidates,
    complete: Bool[Array, "batch candidates"],
    is_eos: Bool[Array, "batch candidates"],
    rules: Rules,
) -> _Finished:
    """The best of the finished continuations of before and of this step."""
    beams, length = state.logprobs.shape[1], state.step + 1
    eligible = complete & ~state.done[:, None]
    if rules.best_only:
        eligible &= jnp.arange(complete.shape[1]) < beams
    new = _Finished(
        scores=jnp.where(eligible, found.logprobs / rules.penalty(length), NO_SCORE),
        logprobs=found.logprobs,
        taken=eligible,
        ended=is_eos,
        lengths=constrain(jnp.broadcast_to(length, complete.shape), "batch", None),
        ids=found.ids,
    )
    merged = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), state.finished, new)
    _, index = jax.lax.top_k(merged.scores, beams)
    return take_decodes(merged, index)


def _settled(
    finished: _Finished,
    live_logprobs: Float[Array, "batch beams"],
    length: Int[Array, ""],
    rules: Rules,
    config: DecodeConfig,
) -> Bool[Array, " batch"]:
    """Whether a row has as many finished continuations as beams, and none can become better."""
    full = jnp.all(finished.taken, axis=1)
    if rules.stop_when_full:
        return full
    hoped = live_logprobs[:, 0] / rules.penalty(rules.last_length(length, config.max_decode_len))
    return full & (finished.scores[:, -1] >= hoped)


def _result(end: _State, config: DecodeConfig) -> Decoded:
    """Finished continuations from the worst to the best; live ones in rows without any."""
    live = _Finished(
        scores=end.logprobs,
        logprobs=end.logprobs,
        taken=end.logprobs > NO_SCORE,
        ended=end.logprobs > 0,
        lengths=jnp.full_like(end.tokens, config.max_decode_len),
        ids=end.ids,
    )
    some = jnp.any(end.finished.taken, axis=1)

    def choose(finished: Array, live: Array) -> Array:
        shaped = some.reshape(-1, *(1,) * (live.ndim - 1))
        return jnp.where(shaped, finished, live)[:, ::-1]

    kept = jax.tree.map(choose, end.finished, live)
    taken = kept.taken
    return Decoded(
        ids=jnp.where(taken[..., None], kept.ids, 0),
        lengths=jnp.where(taken, kept.lengths, 0),
        ended=taken & kept.ended,
        logprobs=kept.logprobs,
        scores=kept.scores,
        steps=end.step,
    )
