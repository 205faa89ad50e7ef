"""Which parameters are trained; the others get neither gradients nor optimizer state."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from flan_jax.errors import UserError
from flan_jax.models.lora import is_adapter
from flan_jax.sharding import named_leaves
from flan_jax.suggestions import did_you_mean


@dataclass(frozen=True)
class Trainable:
    """The trained parameters of a model, by name.

    Attributes:
      names: of the trained parameters.
      frozen_dtype: what the others are kept in.
    """

    names: frozenset[str]
    frozen_dtype: str = "float32"

    def of(self, tree: Any) -> Any:
        """A tree of the same classes as `tree` (like the parameters), with trained leaves only.

        Frozen leaves become None, which JAX takes for an empty subtree.
        """
        return self._map(tree, lambda trained, leaf: leaf if trained else None)

    def put(self, params: Any, trained: Any) -> Any:
        """The parameters with the leaves of `trained`, a tree that `of` made, in their places."""
        new = iter(jax.tree.leaves(trained))
        return self._map(params, lambda is_trained, leaf: next(new) if is_trained else leaf)

    def stored(self, params: Any) -> Any:
        """The parameters in the dtypes they are kept in; for arrays, tracers and their shapes."""

        def cast(trained: bool, leaf: Any) -> Any:
            if trained or leaf.dtype == jnp.dtype(self.frozen_dtype):
                return leaf
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return leaf.update(dtype=jnp.dtype(self.frozen_dtype))
            return leaf.astype(self.frozen_dtype)

        return self._map(params, cast)

    def _map(self, tree: Any, function: Callable[[bool, Any], Any]) -> Any:
        leaves = [function(name in self.names, leaf) for name, leaf in named_leaves(tree).items()]
        return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def as_patterns(argument: str, patterns: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """One or several patterns as a tuple; None stays none.

    Raises:
      UserError: one is no regular expression.
    """
    if patterns is None:
        return None
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"trainer.Trainer.{argument}: {pattern!r} is no regular expression: {error}"
            ) from error
    return patterns


def select(
    params: Any,
    trainable: Sequence[str] | None,
    frozen: Sequence[str],
    frozen_dtype: str = "float32",
) -> Trainable:
    """The parameters that patterns leave to be trained; see `Trainer` for what these mean.

    Args:
      params: a model, or the tree of its shapes.
      trainable, frozen: regular expressions, each for whole names.
      frozen_dtype: what the frozen ones are kept in.

    Raises:
      UserError: a pattern matches no parameter, or nothing is left to be trained.
    """
    names = list(named_leaves(params))
    adapters = {name for name in names if is_adapter(name)}
    if trainable is None:
        chosen = adapters or set(names)
    else:
        chosen = adapters | _matching(names, trainable, "trainable")
    chosen -= _matching(names, frozen, "frozen")
    if not chosen:
        raise UserError(
            f"trainer.Trainer.frozen {tuple(frozen)} and trainable {trainable} leave no parameter "
            "to be trained"
        )
    return Trainable(frozenset(chosen), frozen_dtype)


def _matching(names: Iterable[str], patterns: Sequence[str], argument: str) -> set[str]:
    names, found = list(names), set()
    for pattern in patterns:
        matched = {name for name in names if re.fullmatch(pattern, name)}
        if not matched:
            raise UserError(
                f"trainer.Trainer.{argument}: {pattern!r} matches no parameter's whole name"
                f"{did_you_mean(pattern, names)}\nThe model's parameters are:\n  "
                + "\n  ".join(names)
            )
        found |= matched
    return found
