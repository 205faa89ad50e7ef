"""Small layers as plain pytrees: dense, embedding, RMS norm, gated MLP, dropout.

Modules hold only parameters (float32, with the logical name of every dimension); what they compute
in (`dtype`) is passed on the call. They are Flax NNX modules used as pytrees: transform functions
of them by `jax.jit`, `jax.grad`, `jax.vmap`, `jax.lax.scan`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name, checkpoint_policies
from jax.nn.initializers import normal, variance_scaling
from jaxtyping import Array, Float, Int, Key

from flan_jax.layout import (
    GATHERED,
    complete,
    constrain,
    einsum,
    gather_fsdp,
    gathered_before,
    is_partial,
    look_up,
    product,
)
from flan_jax.models.head_loss import Head
from flan_jax.models.layer_stack import fold
from flan_jax.suggestions import did_you_mean

# Distributions of T5X's examples/t5/layers.py: truncated normal over fan-in for dense kernels,
# untruncated for attention, Glorot uniform for the relative bias, unit normal for embeddings.
DENSE_INIT = variance_scaling(1.0, "fan_in", "truncated_normal")
ATTENTION_INIT = variance_scaling(1.0, "fan_in", "normal")
RELATIVE_BIAS_INIT = variance_scaling(1.0, "fan_avg", "uniform")
EMBEDDING_INIT = normal(stddev=1.0)

# Names in policies of `jax.checkpoint`.
DROPOUT_MASK = "dropout_mask"
PRODUCT = "product"

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),  # tanh form, as flax.linen.gelu
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}


def activation(name: str) -> Callable[[Array], Array]:
    """An activation by T5X's name; ValueError with a suggestion for an unknown one."""
    if name not in ACTIVATIONS:
        raise ValueError(
            f"unknown activation {name!r} (known: {', '.join(sorted(ACTIVATIONS))})"
            f"{did_you_mean(name, ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def param(value: Array, axes: Sequence[str]) -> nnx.Param:
    """A parameter that carries its logical axes."""
    if len(axes) != value.ndim:
        raise ValueError(f"{tuple(axes)} names {len(axes)} axes of an array of {value.shape}.")
    return nnx.Param(value, logical_axes=tuple(axes))


def stack_layers(make: Callable[[Array], nnx.Module], keys: Key[Array, " layers"]) -> nnx.Module:
    """One module whose parameters have a leading axis "layers", made by `make(key)` per layer."""
    stacked = jax.vmap(make)(keys)

    def name_axis(variable: nnx.Variable) -> nnx.Variable:
        axes = ("layers", *variable.logical_axes)
        return nnx.Param(variable.get_value(), logical_axes=axes)

    return jax.tree.map(name_axis, stacked, is_leaf=lambda node: isinstance(node, nnx.Variable))


def _cheap_again(function: Callable[..., Array]) -> Callable[..., Array]:
    """The function, of which the backward pass computes again what it needs of the inputs.

    Only inputs are kept, and gathered parameters and dropout masks. For functions whose
    intermediate results are quick to compute and long to write and read: less memory and, where
    memory is slow, less time. In a scan, where layers are, CSE cannot undo it; elsewhere it may.
    """
    policy = checkpoint_policies.save_only_these_names(GATHERED, DROPOUT_MASK)
    return jax.checkpoint(function, prevent_cse=False, policy=policy)


class Dense(nnx.Module):
    """x @ kernel, no bias; plus lora_scale * (x @ lora_a) @ lora_b if `lora.add_adapters` says so.

    The gradient of an adapter needs neither the kernel's gradient nor a matrix of its size.
    """

    lora_a: nnx.Param | None = None
    lora_b: nnx.Param | None = None
    lora_scale: float = 1.0
    lora_dropout: float = 0.0
    # The kernel in the dtype of the computation, if it was gathered for all layers beforehand.
    gathered: nnx.Variable | None = None

    def __init__(
        self,
        shape: tuple[int, int],
        axes: tuple[str, str],
        key: Key[Array, ""],
        init: Callable[..., Array] = DENSE_INIT,
    ):
        self.kernel = param(init(key, shape, jnp.float32), axes)

    def __call__(
        self,
        x: Float[Array, "batch length inputs"],
        out_axis: str,
        dtype: jnp.dtype,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length outputs"]:
        """The product in `dtype`; `dropout_key` is for the input of the adapter.

        On a mesh see `layout.product`: x is from `layout.whole_length` or split along its inputs,
        and then the product may be a partial sum, for `layout.complete`.
        """
        in_axis = self.kernel.logical_axes[-2]
        kernel = self.kernel.get_value()
        if self.gathered is None:
            kernel = gather_fsdp(kernel.astype(dtype), in_axis, out_axis, x=x)
        else:
            whole = self.gathered.get_value()
            kernel = gathered_before(kernel, whole, in_axis, out_axis, x=x)
        multiply = functools.partial(product, in_axis=in_axis, out_axis=out_axis)
        x = x.astype(dtype)
        out = _cheap_again(multiply)(x, kernel)
        if self.lora_a is not None:
            if is_partial(out):
                out = complete(out)
            out = out + self._adapter(x, out_axis, dropout_key)
        return out if is_partial(out) else checkpoint_name(out, PRODUCT)

    def gather(self, dtype: jnp.dtype) -> None:
        """Gathers the kernels of a stack of layers, for all of them at once."""
        axes = self.kernel.logical_axes
        kernel = gather_fsdp(self.kernel.get_value().astype(dtype), *axes)
        self.gathered = nnx.Variable(jax.lax.stop_gradient(kernel))

    def _adapter(
        self,
        x: Float[Array, "batch length inputs"],
        out_axis: str,
        dropout_key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length outputs"]:
        assert self.lora_a is not None
        assert self.lora_b is not None
        in_axis = self.kernel.logical_axes[-2]
        axes = ("batch", None, None if in_axis == "embed" else in_axis)
        # A mask of its own for every position, as in the paper's code.
        kept = dropout(constrain(x, *axes), self.lora_dropout, dropout_key, axes, None)
        a, b = (
            gather_fsdp(matrix.get_value().astype(x.dtype), *matrix.logical_axes[-2:])
            for matrix in (self.lora_a, self.lora_b)
        )
        low = einsum("bli,ir->blr", kept, a, ("batch", None, "lora_rank"))
        out_axes = ("batch", None, None if out_axis == "embed" else out_axis)
        out = einsum("blr,ro->blo", low * self.lora_scale, b, out_axes)
        return constrain(out, "batch", "length", out_axis)


class Embed(nnx.Module):
    """Token embeddings, also usable as the output head."""

    def __init__(self, vocab_size: int, emb_dim: int, key: Key[Array, ""]):
        table = EMBEDDING_INIT(key, (vocab_size, emb_dim), jnp.float32)
        self.embedding = param(table, ("vocab", "embed"))

    def __call__(
        self, tokens: Int[Array, "batch length"], dtype: jnp.dtype
    ) -> Float[Array, "batch length embed"]:
        return look_up(self.embedding.get_value().astype(dtype), tokens)

    def attend(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length vocab"]:
        """Float32 logits x @ embedding.T, scaled by 1 / sqrt(embed) as in T5 v1.0."""
        table = gather_fsdp(self.embedding.get_value(), "vocab", "embed")
        scaled = x.astype(jnp.float32) * x.shape[-1] ** -0.5
        return einsum("ble,ve->blv", scaled, table, ("batch", "length", "vocab"))


def output_head(embedding: Embed, logits_dense: Dense | None, dtype: str) -> Head | None:
    """The head of a model for its loss: a dense layer, or else the embedding, scaled.

    None if the dense layer has an adapter, whose product is never formed.
    """
    if logits_dense is None:
        table = embedding.embedding.get_value()
        return Head(table, is_embedding=True, scale=table.shape[1] ** -0.5, dtype=dtype)
    if logits_dense.lora_a is not None:
        return None
    return Head(logits_dense.kernel.get_value(), is_embedding=False, scale=1.0, dtype=dtype)


class RMSNorm(nnx.Module):
    """Scale by the root mean square: no mean, no bias; statistics in float32 (T5's LayerNorm)."""

    def __init__(self, features: int, epsilon: float = 1e-6):
        self.scale = param(jnp.ones((features,), jnp.float32), ("embed",))
        self.epsilon = epsilon

    def __call__(
        self, x: Float[Array, "batch length embed"], dtype: jnp.dtype
    ) -> Float[Array, "batch length embed"]:
        def norm(x: Array, scale: Array) -> Array:
            x = x.astype(jnp.float32)
            mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
            return (x * jax.lax.rsqrt(mean_square + self.epsilon)).astype(dtype) * scale

        scale = constrain(self.scale.get_value().astype(dtype), None)
        return _cheap_again(norm)(x, scale)


class LayerNorm(nnx.Module):
    """Scale by the standard deviation, mean taken off, no bias; statistics in float32."""

    def __init__(self, features: int, epsilon: float = 1e-6):
        self.scale = param(jnp.ones((features,), jnp.float32), ("embed",))
        self.epsilon = epsilon

    def __call__(
        self, x: Float[Array, "batch length embed"], dtype: jnp.dtype
    ) -> Float[Array, "batch length embed"]:
        def norm(x: Array, scale: Array) -> Array:
            x = x.astype(jnp.float32)
            centred = x - jnp.mean(x, axis=-1, keepdims=True)
            variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
            return (centred * jax.lax.rsqrt(variance + self.epsilon)).astype(dtype) * scale

        scale = constrain(self.scale.get_value().astype(dtype), None)
        return _cheap_again(norm)(x, scale)


class MlpBlock(nnx.Module):
    """Feed-forward block; several activations are multiplied (gated GELU: gelu, linear).

    Kernels are named as in T5X: `wi` for a single activation, else `wi_0`, `wi_1`, ...; and `wo`.
    """

    def __init__(
        self,
        emb_dim: int,
        mlp_dim: int,
        activations: Sequence[str],
        key: Key[Array, ""],
        init: Callable[..., Array] = DENSE_INIT,
    ):
        names = ["wi"] if len(activations) == 1 else [f"wi_{i}" for i in range(len(activations))]
        keys = jax.random.split(key, len(names) + 1)
        for i, name in enumerate(names):
            setattr(self, name, Dense((emb_dim, mlp_dim), ("embed", "mlp"), keys[i], init))
        self.wo = Dense((mlp_dim, emb_dim), ("mlp", "embed"), keys[-1], init)
        self.activations = tuple(zip(names, activations, strict=True))

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        dtype: jnp.dtype,
        dropout: Callable[[Array], Array] = lambda hidden: hidden,
        adapter_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length embed"]:
        """`dropout` is applied to the hidden layer; `adapter_key` is for adapters (lora.py)."""
        names, kinds = zip(*self.activations, strict=True)
        parts = [
            getattr(self, name)(x, "mlp", dtype, fold(adapter_key, i))
            for i, name in enumerate(names, start=1)
        ]

        def down(parts: list[Array]) -> Array:
            active = [activation(kind)(part) for kind, part in zip(kinds, parts, strict=True)]
            hidden = functools.reduce(jnp.multiply, active)
            return self.wo(dropout(hidden), "embed", dtype, fold(adapter_key, 0))

        # Of gated GELU two arrays are kept, not eight.
        return _cheap_again(down)(parts)


def dropout(
    x: Array,
    rate: float,
    key: Key[Array, ""] | None,
    axes: Sequence[str | None],
    broadcast_dim: int | None = -2,
) -> Array:
    """Zeroes elements at `rate`, scales the rest by 1 / (1 - rate); identity without a key.

    One mask is shared along `broadcast_dim`: T5X's broadcast along the length, which Mesh
    TensorFlow T5 used to save memory. `axes` are the logical axes of x.
    """
    if key is None or rate == 0.0:
        return x
    shape, mask_axes = list(x.shape), list(axes)
    if broadcast_dim is not None:
        shape[broadcast_dim], mask_axes[broadcast_dim] = 1, None
    keep = constrain(jax.random.bernoulli(key, 1.0 - rate, shape), *mask_axes)
    keep = checkpoint_name(keep, DROPOUT_MASK)
    return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros((), x.dtype))
