"""Running layers that are stacked on a leading axis, and what dropout keys and remat mean there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_policies
from jaxtyping import Array, Float, Key

REMAT_POLICIES = ("none", "full", "attention", "dots", "products", "parameters")
# Of which policy keeps what, besides each layer's input.
_ATTENTION = ("attention_out", "attention_lse")
_KEPT = {
    "full": (),
    "attention": _ATTENTION,
    "dots": (*_ATTENTION, "product"),
    "products": (*_ATTENTION, "product", "gathered_input"),
    "parameters": (*_ATTENTION, "product", "gathered_input"),
}


def fold(key: Key[Array, ""] | None, data: int | Array) -> Key[Array, ""] | None:
    """`jax.random.fold_in`, where no key (no dropout) stays none."""
    return None if key is None else jax.random.fold_in(key, data)


def scan_layers(
    layers: nnx.Module,
    x: Float[Array, "batch length embed"],
    apply: Callable[[Any, Array, Key[Array, ""] | None], Array],
    remat_policy: str,
    key: Key[Array, ""] | None,
) -> Float[Array, "batch length embed"]:
    """Runs x through each layer; layer i gets the dropout key fold_in(key, i).

    Args:
      layers: made by `stack_layers`.
      x: what the first layer reads.
      apply: called with a layer, its input and its dropout key.
      remat_policy: what the backward pass computes again, from most to least: "full", all but
        each layer's input; "attention", what the flash kernel gives neither; "dots", nor results
        of products with kernels; "products", nor gathers the inputs of these (sequence
        parallelism) again; "parameters", nor parameters, which are gathered before the first
        layer; "none": nothing.
      key: None for no dropout.
    """

    def body(x: Array, layer_and_index: tuple[nnx.Module, Array]) -> tuple[Array, None]:
        layer, index = layer_and_index
        return apply(layer, x, fold(key, index)), None

    if remat_policy != "none":
        policy = checkpoint_policies.save_only_these_names(*_KEPT[remat_policy])
        # Inside a scan nothing can undo the recomputation, so the costly CSE barrier is not needed.
        body = jax.checkpoint(body, policy=policy, prevent_cse=False)
    num_layers = jax.tree.leaves(layers)[0].shape[0]
    if remat_policy == "parameters":
        layers = _gathered(layers, x.dtype)
    return jax.lax.scan(body, x, (layers, jnp.arange(num_layers)))[0]


def _gathered(layers: nnx.Module, dtype: jnp.dtype) -> nnx.Module:
    """The layers, with kernels that are whole along `fsdp` beside those that are stored."""
    layers = jax.tree.map(lambda leaf: leaf, layers)  # so as not to change the caller's
    for _, module in nnx.iter_modules(layers):
        gather = getattr(module, "gather", None)  # dense layers have one
        if gather is not None:
            gather(dtype)
    return layers
