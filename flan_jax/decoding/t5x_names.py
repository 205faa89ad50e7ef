"""T5X's names of decoding functions, for gin files written for it.

They stand wherever a `DecodeConfig` is wanted, with T5X's arguments and defaults:

    infer_script.infer.decoding = @decoding.beam_search()
    decoding.beam_search.num_decodes = 4
    decoding.beam_search.alpha = 0.6

In T5X the number of continuations comes from `predict_batch_with_aux.num_decodes` of the model and
the length from the length of the targets; here both are arguments.
"""

from __future__ import annotations

import gin

from flan_jax.decoding.config import DecodeConfig


@gin.configurable(module="decoding")
def temperature_sample(
    max_decode_len: int = 128,
    num_decodes: int = 1,
    temperature: float = 1.0,
    topk: int = 1,
    topp: float = 0.0,
    eos_id: int = 1,
) -> DecodeConfig:
    """Sampling. As in T5X, `topk` is 1 unless it is set, which is greedy, and 0 is no limit.

    Raises:
      ValueError: both `topk` and `topp` are set.
    """
    if topk and topp:
        raise ValueError(
            f"temperature_sample: topk={topk} and topp={topp} exclude each other in T5X; topk is 1"
            " unless it is set, so set topk = 0 as well (decoding.DecodeConfig takes both)."
        )
    greedy = topk == 1 or temperature == 0.0
    return DecodeConfig(
        max_decode_len,
        num_decodes=num_decodes,
        temperature=0.0 if greedy else temperature,
        topk=0 if greedy else topk,
        topp=topp,
        eos_id=eos_id,
    )


@gin.configurable(module="decoding")
def beam_search(
    max_decode_len: int = 128, num_decodes: int = 1, alpha: float = 0.6, eos_id: int = 1
) -> DecodeConfig:
    """Beam search with T5X's rules; with one beam it is what T5X decodes by if nothing is set."""
    return DecodeConfig(
        max_decode_len, method="beam", num_decodes=num_decodes, alpha=alpha, eos_id=eos_id
    )
