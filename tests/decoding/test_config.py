"""The decoding configuration: what it refuses, and T5X's names for it."""

from __future__ import annotations

import gin
import pytest

from flan_jax.decoding import DecodeConfig
from flan_jax.decoding.t5x_names import beam_search, temperature_sample


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_decode_len": 0}, "max_decode_len must be a whole number of at least 1, found 0"),
        ({"num_decodes": 2.0}, "num_decodes must be a whole number of at least 1, found 2.0"),
        ({"topk": -1}, "topk must be a whole number of at least 0, found -1"),
        ({"temperature": -0.1}, r"temperature must be 0 \(greedy\) or more, found -0.1"),
        ({"temperature": float("nan")}, "temperature .* found nan"),
        ({"topp": 1.1}, r"topp must be in \[0, 1\]"),
        ({"method": "bean"}, "method .* found 'bean'; did you mean 'beam'"),
        ({"length_penalty": "t5"}, "length_penalty .* did you mean 't5x'"),
        ({"early_stopping": "always"}, "early_stopping must be"),
        ({"num_decodes": 4}, "4 greedy continuations would all be the same"),
        ({"method": "beam", "temperature": 1.0, "topk": 4}, "temperature and topk must be 0"),
        ({"method": "beam", "early_stopping": True}, 'early_stopping is an option of .*"hf" only'),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DecodeConfig(**{"max_decode_len": 8, **options})


def test_t5x_defaults():
    """T5X samples greedily unless `topk` is set, and searches with one beam and alpha 0.6."""
    assert temperature_sample(8) == DecodeConfig(8)
    assert beam_search(8) == DecodeConfig(8, method="beam", alpha=0.6)


def test_t5x_names_by_gin():
    with gin.unlock_config():
        gin.parse_config(
            """
            decoding.temperature_sample.temperature = 0.7
            decoding.temperature_sample.topk = 40
            decoding.temperature_sample.num_decodes = 3
            decoding.beam_search.alpha = 0.8
            """
        )
    try:
        sampled = DecodeConfig(8, temperature=0.7, topk=40, num_decodes=3)
        assert temperature_sample(8) == sampled
        assert beam_search(8, num_decodes=4) == DecodeConfig(
            8, method="beam", num_decodes=4, alpha=0.8
        )
    finally:
        gin.clear_config()


def test_t5x_takes_topk_or_topp():
    with pytest.raises(ValueError, match="set topk = 0 as well"):
        temperature_sample(8, topp=0.9)
    assert temperature_sample(8, topk=0, topp=0.9) == DecodeConfig(8, temperature=1.0, topp=0.9)
