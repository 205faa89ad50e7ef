"""The public functions: continuations of a batch of prompts, for every method and model class."""

from __future__ import annotations

import functools

import jax
from jaxtyping import Array, Int, Int32, Key

from flan_jax.decoding.beam import beam_search
from flan_jax.decoding.config import DecodeConfig
from flan_jax.decoding.decoder_only import read_prompts
from flan_jax.decoding.encoder_decoder import encode_inputs
from flan_jax.decoding.prefilled import Prefilled
from flan_jax.decoding.sample import Decoded, sample
from flan_jax.layout import constrain
from flan_jax.models.palm import Palm
from flan_jax.models.t5 import T5


def prefill(
    model: T5 | Palm,
    inputs: Int[Array, "batch inputs_length"],
    max_decode_len: int,
    inputs_bidirectional_attention: bool,
) -> Prefilled:
    """Reads the prompts; to be called where the rest is traced.

    Raises:
      TypeError: for another model class.
      ValueError: inputs are not [batch, length].
    """
    if not isinstance(model, T5 | Palm):
        raise TypeError(f"decoding knows T5 and Palm, found {type(model).__name__}.")
    if inputs.ndim != 2:
        raise ValueError(f"inputs must be [batch, length], found shape {inputs.shape}.")
    inputs = constrain(inputs, "batch", "length")
    if isinstance(model, T5):
        return encode_inputs(model, inputs, max_decode_len)
    return read_prompts(
        model, inputs, inputs_bidirectional_attention=inputs_bidirectional_attention
    )


def _decode(
    model: T5 | Palm,
    inputs: Int[Array, "batch inputs_length"],
    config: DecodeConfig,
    keys: Key[Array, " batch"] | None,
    inputs_bidirectional_attention: bool,
) -> Decoded:
    if config.method == "sample" and config.temperature > 0.0 and keys is None:
        raise ValueError("sampling needs keys: pass keys=item_keys(seed, item_ids).")
    prefilled = prefill(model, inputs, config.max_decode_len, inputs_bidirectional_attention)
    if config.topk > (vocab := prefilled.vocab_size):
        raise ValueError(
            f"topk must be in [0, {vocab}] (0: the whole vocabulary), found {config.topk}."
        )
    if config.method == "beam":
        return beam_search(prefilled, config)
    return sample(prefilled, config, keys)


@functools.partial(jax.jit, static_argnames=("config", "inputs_bidirectional_attention"))
def decode(
    model: T5 | Palm,
    inputs: Int[Array, "batch inputs_length"],
    config: DecodeConfig,
    *,
    keys: Key[Array, " batch"] | None = None,
    inputs_bidirectional_attention: bool = False,
) -> Decoded:
    """Continuations of each prompt, with their log-probabilities.

    Compiled once per shape and config; ends when all rows have. The prompts are read once, however
    many continuations each gets.

    Args:
      model: parameters; on a mesh, call it under `PjitPartitioner.use`.
      inputs: token ids, right-padded by 0. A row of zeros (batch filler) is decoded too, and its
        output means nothing.
      config: what to do.
      keys: one per row, from `item_keys`; needed to sample. Sample i of a row depends on its key,
        i, and the row's logits alone.
      inputs_bidirectional_attention: whether a decoder-only model's prompt sees itself whole, as
        `DecoderOnlyModel` has it; means nothing to a T5.

    Raises:
      ValueError: sampling without keys; topk beyond the vocabulary; inputs not [batch, length].
    """
    return _decode(model, inputs, config, keys, inputs_bidirectional_attention)


@functools.partial(
    jax.jit,
    static_argnames=(
        "max_decode_len",
        "eos_id",
        "temperature",
        "topk",
        "topp",
        "inputs_bidirectional_attention",
    ),
)
def generate(
    model: T5 | Palm,
    inputs: Int[Array, "batch inputs_length"],
    *,
    max_decode_len: int,
    eos_id: int = 1,
    temperature: float = 0.0,
    topk: int = 0,
    topp: float = 0.0,
    keys: Key[Array, " batch"] | None = None,
    inputs_bidirectional_attention: bool = False,
) -> Int32[Array, "batch max_decode_len"]:
    """Token ids of one continuation per row, greedy or sampled: up to and with EOS, then 0.

    `decode` with the ids alone; see there and `DecodeConfig`.
    """
    config = DecodeConfig(
        max_decode_len, temperature=temperature, topk=topk, topp=topp, eos_id=eos_id
    )
    # What else `decode` returns is not computed if nobody asks for it.
    return _decode(model, inputs, config, keys, inputs_bidirectional_attention).ids[:, 0]
