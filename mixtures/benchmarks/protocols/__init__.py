"""Protocols of the benchmarks; importing this registers all of them and reads no data."""

from flan_jax.mixtures.benchmarks.protocols import (
    aqua,
    bbh,
    civil_comments,
    gsm8k,
    instruct_eval,
    lm_eval,
    mgsm,
    mmlu,
    open_ended,
    strategyqa,
    toxicity,
    tydiqa,
    winogender,
)

__all__ = [
    "aqua",
    "bbh",
    "civil_comments",
    "gsm8k",
    "instruct_eval",
    "lm_eval",
    "mgsm",
    "mmlu",
    "open_ended",
    "strategyqa",
    "toxicity",
    "tydiqa",
    "winogender",
]
