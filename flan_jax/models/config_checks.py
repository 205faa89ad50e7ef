"""What all architectures' configurations have in common: lists made hashable, values checked."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from flan_jax.models.layer_stack import REMAT_POLICIES
from flan_jax.models.layers import activation
from flan_jax.suggestions import did_you_mean

DTYPES = ("bfloat16", "float32")
# By the fields' annotations: the type, and in words.
_KINDS: dict[str, tuple[type, str]] = {
    "int": (numbers.Integral, "a whole number"),
    "float": (numbers.Real, "a number"),
    "bool": (bool, "True or False"),
}


def settle(config: Any, sizes: Sequence[str], **choices: Sequence[str]) -> None:
    """Brings a frozen configuration into its one form and checks it; for `__post_init__`.

    Args:
      config: has `mlp_activations`, `dtype`, `remat_policy`, `dropout_rate` and `sizes`.
      sizes: names of fields that must be at least 1.
      **choices: the known values of further fields.

    Raises:
      ValueError: naming the field, what it is, and what it may be.
    """
    kind = type(config).__name__
    _check_kinds(config, kind)
    # gin passes lists; a config must be hashable to be a static part of the model's pytree.
    object.__setattr__(config, "mlp_activations", tuple(config.mlp_activations))
    for name in config.mlp_activations:
        activation(name)
    if not isinstance(config.dtype, str):
        object.__setattr__(config, "dtype", jnp.dtype(config.dtype).name)
    for name, known in {"dtype": DTYPES, "remat_policy": REMAT_POLICIES, **choices}.items():
        value = getattr(config, name)
        if value not in known:
            raise ValueError(
                f"{kind}.{name} must be one of {tuple(known)}, found {value!r}"
                f"{did_you_mean(value, known)}"
            )
    if not 0.0 <= config.dropout_rate < 1.0:
        raise ValueError(f"{kind}.dropout_rate must be in [0, 1), found {config.dropout_rate}.")
    for name in sizes:
        if getattr(config, name) < 1:
            raise ValueError(f"{kind}.{name} must be at least 1, found {getattr(config, name)}.")


def _check_kinds(config: Any, kind: str) -> None:
    """Values come from gin files and from JSON of others, which promise no types."""
    for field in dataclasses.fields(config):
        if field.type not in _KINDS:
            continue
        wanted, words = _KINDS[field.type]
        value = getattr(config, field.name)
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise ValueError(f"{kind}.{field.name} must be {words}, found {value!r}.")
