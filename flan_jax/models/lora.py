"""LoRA: low-rank adapters beside frozen kernels (Hu et al., 2021, https://arxiv.org/abs/2106.09685).

A `Dense` that `LoraConfig.targets` names gets two more parameters, `lora_a` [inputs, rank] and
`lora_b` [rank, outputs], and computes x @ kernel + (alpha / rank) * (x @ lora_a) @ lora_b; the
product lora_a @ lora_b, which has the kernel's size, is never formed in training. `merge_lora`
forms it once, for a model without adapters that computes the same.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import variance_scaling
from jaxtyping import Array, Float, Key

from flan_jax.errors import UserError
from flan_jax.layout import einsum
from flan_jax.models.layers import Dense, param
from flan_jax.sharding import named_leaves
from flan_jax.suggestions import did_you_mean

ADAPTER_PARAMETERS = ("lora_a", "lora_b")

# The paper draws A from a Gaussian and leaves its scale open. With variance 1 / inputs, x @ A has
# the scale of x whatever the width, so one alpha and one learning rate serve all sizes.
LORA_A_INIT = variance_scaling(1.0, "fan_in", "normal")


@gin.register(module="lora")
@dataclass(frozen=True)
class LoraConfig:
    """Which kernels get adapters, and how large.

    Attributes:
      rank: columns of A and rows of B.
      alpha: the product A @ B is scaled by alpha / rank.
      targets: regular expressions for names of dense layers, such as
        `decoder/layers/self_attention/query`; one must match the end of a name. Layers of a stack
        share a name. For example "attention/(query|value)" takes those of all attention blocks.
      dropout: rate at which the adapters' inputs are dropped in training.
    """

    rank: int = 16
    alpha: float = 16.0
    targets: str | tuple[str, ...] = ("attention/(query|value)",)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        targets = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)
        object.__setattr__(self, "targets", targets)
        if self.rank < 1:
            raise ValueError(f"LoraConfig.rank must be at least 1, found {self.rank}.")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"LoraConfig.dropout must be in [0, 1), found {self.dropout}.")
        if not targets:
            raise ValueError("LoraConfig.targets must name at least one dense layer, found none.")
        for pattern in targets:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"LoraConfig.targets: {pattern!r} is no regular expression: {error}"
                ) from error

    @property
    def scale(self) -> float:
        """Factor of A @ B."""
        return self.alpha / self.rank


def dense_layers(module: nnx.Module) -> dict[str, Dense]:
    """All dense layers in a module by their names, in the order of the names."""
    found: dict[str, Dense] = {}
    for name, child in vars(module).items():
        if isinstance(child, Dense):
            found[name] = child
        elif isinstance(child, nnx.Module):
            found |= {f"{name}/{inner}": dense for inner, dense in dense_layers(child).items()}
    return dict(sorted(found.items()))


def add_adapters(model: nnx.Module, config: LoraConfig | None, key: Key[Array, ""]) -> None:
    """Gives the dense layers that `config` names their adapters; does nothing without a config.

    A is random and B is zero, so the model computes what it did before. Each A is keyed by its
    layer's name: it does not depend on what else is adapted.

    Args:
      model: a finished model; layers may be stacked along a leading axis.
      config: what to adapt.
      key: the model's own key.

    Raises:
      UserError: a pattern matches no dense layer.
    """
    if config is None:
        return
    layers = dense_layers(model)
    for name in target_names(layers, config.targets):
        dense, name_key = layers[name], jax.random.fold_in(key, zlib.crc32(name.encode()))
        *lead, inputs, outputs = dense.kernel.get_value().shape
        *lead_axes, in_axis, out_axis = dense.kernel.logical_axes
        shape_a, shape_b = (*lead, inputs, config.rank), (*lead, config.rank, outputs)
        # The initializer counts leading dimensions as independent matrices.
        init = LORA_A_INIT if not lead else _stacked_init
        value = init(name_key, shape_a, jnp.float32)
        dense.lora_a = param(value, (*lead_axes, in_axis, "lora_rank"))
        dense.lora_b = param(jnp.zeros(shape_b, jnp.float32), (*lead_axes, "lora_rank", out_axis))
        dense.lora_scale, dense.lora_dropout = config.scale, config.dropout


def _stacked_init(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any) -> Array:
    keys = jax.random.split(key, shape[0])
    return jax.vmap(lambda each: LORA_A_INIT(each, shape[1:], dtype))(keys)


def target_names(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Names whose end one of the patterns matches.

    Raises:
      UserError: a pattern matches none of them.
    """
    names = list(names)
    found: set[str] = set()
    for pattern in patterns:
        matched = [name for name in names if re.search(f"(?:{pattern})$", name)]
        if not matched:
            ends = {"/".join(name.split("/")[-n:]) for name in names for n in (1, 2)}
            raise UserError(
                f"lora.LoraConfig.targets: {pattern!r} matches the end of no dense layer's name"
                f"{did_you_mean(pattern, {*names, *ends})}\nThe model's dense layers are:\n  "
                + "\n  ".join(names)
            )
        found.update(matched)
    return [name for name in names if name in found]


def has_dropout(config: Any) -> bool:
    """Whether training a model of this configuration draws random numbers."""
    return config.dropout_rate > 0 or (config.lora is not None and config.lora.dropout > 0)


def is_adapter(name: str) -> bool:
    """Whether a parameter (by its full name) belongs to an adapter."""
    return name.rsplit("/", 1)[-1] in ADAPTER_PARAMETERS


def fresh_names(params: Any) -> list[str]:
    """Parameters that a checkpoint of the model without adapters does not hold.

    They are the ones to be initialised when a LoRA run starts from such a checkpoint.

    Args:
      params: a model, or the tree of its shapes (`jax.eval_shape`).
    """
    return [name for name in named_leaves(params) if is_adapter(name)]


def merged_kernel(kernel: Any, a: Any, b: Any, scale: float) -> np.ndarray:
    """Kernel + scale * a @ b on the host, computed in float32, in the kernel's dtype.

    A kernel in bfloat16 is rounded after the addition: small updates may vanish in it.

    Args:
      kernel: [..., inputs, outputs], of one layer or stacked.
      a: [..., inputs, rank].
      b: [..., rank, outputs].
      scale: `LoraConfig.scale`.
    """
    kernel = np.asarray(kernel)
    product = np.asarray(a, np.float32) @ np.asarray(b, np.float32)
    return (kernel.astype(np.float32) + np.float32(scale) * product).astype(kernel.dtype)


def merge_lora(model: Any) -> Any:
    """The model without adapters (`config.lora` None) that computes what `model` computes.

    Works on devices, sharded or not, and inside `jax.jit`. Kernels are float32, as in training;
    products are taken in full float32 precision.

    Args:
      model: a `T5` or `Palm`. Without adapters it is returned as it is.
    """
    config = model.config
    if config.lora is None:
        return model
    plain = dataclasses.replace(config, lora=None)
    abstract = jax.eval_shape(lambda: type(model)(plain, jax.random.key(0)))
    values = named_leaves(model)
    for name, dense in dense_layers(model).items():
        if dense.lora_a is not None:
            values[f"{name}/kernel"] = _merged(dense)
    leaves = [values[name] for name in named_leaves(abstract)]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def _merged(dense: Dense) -> Float[Array, "*layers inputs outputs"]:
    assert dense.lora_a is not None
    assert dense.lora_b is not None
    kernel = dense.kernel.get_value()
    a, b = (x.get_value().astype(jnp.float32) for x in (dense.lora_a, dense.lora_b))
    with jax.default_matmul_precision("highest"):
        product = einsum("...ir,...ro->...io", a, b, dense.kernel.logical_axes)
    return (kernel.astype(jnp.float32) + dense.lora_scale * product).astype(kernel.dtype)
