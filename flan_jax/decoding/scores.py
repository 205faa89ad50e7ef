"""Log-probabilities of given continuations, for example to rank the options of a question."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int

from flan_jax.decoding.generate import prefill
from flan_jax.decoding.sampling import token_logprobs
from flan_jax.layout import out_sharding
from flan_jax.models.palm import Palm
from flan_jax.models.t5 import T5


class Scored(NamedTuple):
    """Log-probabilities (natural logarithm) of targets.

    Attributes:
      total: of each target, the sum over its tokens; 0 for one without tokens.
      per_token: of each token, given the prompt and the tokens before it; 0 at padding.
      greedy: whether all tokens of a target are the likeliest at their place.
    """

    total: Float32[Array, "batch targets"]
    per_token: Float32[Array, "batch targets length"]
    greedy: Bool[Array, "batch targets"]


@functools.partial(jax.jit, static_argnames=("inputs_bidirectional_attention",))
def score(
    model: T5 | Palm,
    inputs: Int[Array, "batch inputs_length"],
    targets: Int[Array, "batch targets length"],
    *,
    inputs_bidirectional_attention: bool = False,
) -> Scored:
    """Log-probability of each of a prompt's targets; the prompt is read once for all of them.

    Attention is over all targets of a row at once: meant for options, of which targets * length is
    hundreds; split long ones over several calls.

    Args:
      model: parameters.
      inputs: prompts, right-padded by 0.
      targets: token ids, EOS included if it is to count, right-padded by 0.
      inputs_bidirectional_attention: see `decode`.

    Raises:
      ValueError: shapes that do not fit.
    """
    if targets.ndim != 3 or targets.shape[0] != inputs.shape[0]:
        raise ValueError(
            f"targets must be [batch, targets, length] with the batch of inputs {inputs.shape},"
            f" found shape {targets.shape}; one target per prompt is targets[:, None]."
        )
    prefilled = prefill(model, inputs, 1, inputs_bidirectional_attention)
    logits = prefilled.teacher_forced(targets)
    layout = out_sharding("batch", "length")
    tokens = jnp.reshape(targets, logits.shape[:2], out_sharding=layout)
    of_tokens = token_logprobs(logits, tokens)
    logprobs = jnp.where(tokens > 0, of_tokens, 0.0)
    # The likeliest token has the largest logit; the sums around both are the same.
    best = jnp.max(logits, axis=-1) - jax.nn.logsumexp(logits, axis=-1)
    likeliest = (tokens == 0) | (of_tokens >= best)
    shape, layout = targets.shape, out_sharding("batch", None, None)
    per_token = jnp.reshape(logprobs, shape, out_sharding=layout)
    greedy = jnp.all(jnp.reshape(likeliest, shape, out_sharding=layout), axis=2)
    return Scored(jnp.sum(per_token, axis=2), per_token, greedy)
