"""Answers by likelihood: of the options of a question, the one that the model finds likeliest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flan_jax.evaluation.requests import Request, Vocabulary
from flan_jax.evaluation.store import Generation

# The fewest tokens that continuations are padded to.
_SHORTEST = 4
# Files hold what summing in another order does not change.
_DECIMALS = 4


def continuation_tokens(
    requests: Sequence[Request], vocabulary: Vocabulary, rows: int, shape: tuple[int, int]
) -> np.ndarray:
    """The continuations of a batch: int32 [rows, *shape], padded by 0.

    Without end-of-sequence ids: what is compared is how likely the texts begin the answer, as
    lm-evaluation-harness compares them. Rows beyond the requests are copies of the first one, since
    a model means nothing over padding alone.
    """
    tokens = np.zeros((rows, *shape), np.int32)
    for i, request in enumerate(requests):
        for j, text in enumerate(request.continuations):
            ids = vocabulary.encode(text)
            tokens[i, j, : len(ids)] = ids
    tokens[len(requests) :] = tokens[0]
    return tokens


def continuation_shape(requests: Sequence[Request], vocabulary: Vocabulary) -> tuple[int, int]:
    """(most continuations of a request, padded length of the longest) over all `requests`.

    One shape for a whole protocol, and its length a power of two: few shapes are compiled.
    """
    lengths = [len(vocabulary.encode(text)) for r in requests for text in r.continuations]
    longest = max(_SHORTEST, *lengths)
    return max(len(r.continuations) for r in requests), 1 << (longest - 1).bit_length()


def best_option(request: Request, ranked: Generation, ranking: str) -> str:
    """The option, as the prompt asks for it, of the highest score; the first of equals.

    Args:
      request: with its continuations, one for each option.
      ranked: has their log-probabilities in nats, summed over tokens.
      ranking: `sum`: as they are; `per_token`: divided by the tokens of the continuation;
        `per_character`: by its characters, without the space before it (`acc_norm` of
        lm-evaluation-harness).
    """
    lengths: Sequence[float] = [1] * len(ranked.scores)
    if ranking == "per_token":
        lengths = [max(1, count) for count in ranked.tokens]
    elif ranking == "per_character":
        lengths = [max(1, len(text.strip())) for text in request.continuations]
    values = [score / length for score, length in zip(ranked.scores, lengths, strict=True)]
    return request.options[values.index(max(values))]


def option_scores(request: Request, ranked: Generation) -> dict[str, float]:
    """Log-probability by option in nats, rounded for files."""
    rounded = (round(score, _DECIMALS) for score in ranked.scores)
    return dict(zip(request.options, rounded, strict=True))
