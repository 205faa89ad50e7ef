"""How to decode: one value that gin can bind, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import gin

from flan_jax.suggestions import did_you_mean

Method = Literal["sample", "beam"]
LengthPenalty = Literal["t5x", "hf"]


@gin.configurable(module="decoding")
@dataclass(frozen=True)
class DecodeConfig:
    """How continuations are found; names are T5X's where it has one.

    Attributes:
      max_decode_len: most tokens of a continuation, EOS included.
      method: "sample" (greedy at temperature 0) or "beam".
      num_decodes: samples per prompt, or beams.
      temperature: 0 for the likeliest token, whatever topk and topp are; else logits are divided by
        it and sampled.
      topk: sample among this many tokens; 0 for all. T5X's default, 1, is our temperature 0.
      topp: sample among the likeliest tokens with this total probability; 0 (or 1) for all. With
        topk, of what that leaves.
      alpha: exponent of the length penalty of beam search.
      length_penalty: what a beam's log-probability is divided by, and when the search ends: "t5x":
        ((5 + length) / 6)**alpha (Wu et al. 2016, https://arxiv.org/abs/1609.08144); "hf":
        length**alpha, as `transformers` has it.
      early_stopping: only for "hf": True: a row ends when all its beams have; False: when the
        best unfinished beam is not better at its present length; "never": ... at any length.
      eos_id: ends a continuation; negative: nothing does.
    """

    max_decode_len: int
    method: Method = "sample"
    num_decodes: int = 1
    temperature: float = 0.0
    topk: int = 0
    topp: float = 0.0
    alpha: float = 0.6
    length_penalty: LengthPenalty = "t5x"
    early_stopping: bool | Literal["never"] = False
    eos_id: int = 1

    def __post_init__(self) -> None:
        for name, least in (("max_decode_len", 1), ("num_decodes", 1), ("topk", 0)):
            _check_whole(name, getattr(self, name), least)
        if not self.temperature >= 0.0:
            raise ValueError(f"temperature must be 0 (greedy) or more, found {self.temperature}.")
        if not 0.0 <= self.topp <= 1.0:
            raise ValueError(f"topp must be in [0, 1] (0: all tokens), found {self.topp}.")
        _check_known("method", self.method, ("sample", "beam"))
        _check_known("length_penalty", self.length_penalty, ("t5x", "hf"))
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(
                f'early_stopping must be True, False or "never", found {self.early_stopping!r}.'
            )
        if self.method == "beam":
            self._check_beam()
        elif self.temperature == 0.0 and self.num_decodes > 1:
            raise ValueError(
                f"num_decodes={self.num_decodes} greedy continuations would all be the same: set"
                ' temperature above 0, or method to "beam".'
            )

    def _check_beam(self) -> None:
        drawn = [name for name in ("temperature", "topk", "topp") if getattr(self, name)]
        if drawn:
            raise ValueError(
                f'beam search draws nothing: {" and ".join(drawn)} must be 0 (or method "sample").'
            )
        if self.early_stopping is not False and self.length_penalty == "t5x":
            raise ValueError(
                'early_stopping is an option of length_penalty "hf" only; with "t5x" a row ends'
                " when no beam can become better."
            )


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, found {value!r}.")


def _check_known(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(
            f"{name} must be one of {known}, found {value!r}{did_you_mean(str(value), known)}"
        )
