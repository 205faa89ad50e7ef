"""Decoding: prompts are read once, then one compiled loop runs over a key-value cache."""

from flan_jax.decoding.config import DecodeConfig
from flan_jax.decoding.generate import decode, generate
from flan_jax.decoding.sample import Decoded
from flan_jax.decoding.sampling import item_keys
from flan_jax.decoding.scores import Scored, score

__all__ = ["DecodeConfig", "Decoded", "Scored", "decode", "generate", "item_keys", "score"]
