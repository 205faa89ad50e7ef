"""What the harness asks of a generation, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from flan_jax.decoding import DecodeConfig
from flan_jax.errors import UserError
from flan_jax.suggestions import did_you_mean

# The harness's names for the most new tokens, the first that is given counts.
LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
KNOWN = (*LENGTH_NAMES, "until", "do_sample", "temperature", "top_k", "top_p", "num_beams")


class Generation(NamedTuple):
    """How to generate.

    Attributes:
      config: how to decode.
      until: texts at which an output is cut.
    """

    config: DecodeConfig
    until: tuple[str, ...]


def read_arguments(given: Mapping[str, Any], max_gen_toks: int) -> Generation:
    """From `generation_kwargs` of a task, or `--gen_kwargs`.

    A temperature counts unless `do_sample` is false; with `do_sample` alone it is 1. Without
    `top_k` all tokens may be drawn (transformers has 50). `num_beams` is transformers' beam search
    with its length penalty of 1.

    Args:
      given: arguments by name.
      max_gen_toks: the most new tokens if the arguments do not say.

    Raises:
      UserError: an argument is not known, or has an impossible value.
    """
    unknown = [name for name in given if name not in KNOWN]
    if unknown:
        raise UserError(
            f"generation argument {unknown[0]!r} is not known here{did_you_mean(unknown[0], KNOWN)}"
            f" ({', '.join(KNOWN)})"
        )
    until = given.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    lengths = [given[name] for name in LENGTH_NAMES if given.get(name) is not None]
    do_sample = given.get("do_sample")
    temperature = float(given.get("temperature") or 0.0)
    if do_sample is False:
        temperature = 0.0
    elif do_sample and temperature == 0.0 and "temperature" not in given:
        temperature = 1.0
    beams = int(given.get("num_beams") or 1)
    try:
        config = DecodeConfig(
            max_decode_len=int(lengths[0]) if lengths else max_gen_toks,
            method="beam" if beams > 1 else "sample",
            num_decodes=beams,
            temperature=temperature,
            topk=int(given.get("top_k") or 0) if temperature else 0,
            topp=float(given.get("top_p") or 0.0) if temperature else 0.0,
            **({"alpha": 1.0, "length_penalty": "hf"} if beams > 1 else {}),
        )
    except ValueError as error:
        raise UserError(f"generation arguments {dict(given)}: {error}") from error
    return Generation(config, tuple(text for text in until if text))


def cut(text: str, until: tuple[str, ...]) -> str:
    """`text` up to the first of the texts in `until`."""
    for stop in until:
        text = text.split(stop)[0]
    return text
