"""What the decoding loops ask of a model class: the contract between them, and shared caches."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32, PyTree

from flan_jax.layout import constrain, out_sharding
from flan_jax.models.layers import Embed

# Keys and values of what each continuation has generated: [batch * decodes, ..., length, kv]. (With
# dimensions of size 1 in between XLA would copy the cache in each step.)
Caches = PyTree[Float[Array, "batch*decodes ..."]]


class KeyValue(NamedTuple):
    """Keys and values of one layer, each position a row of its own: [..., length, kv]."""

    key: Float[Array, "*lead length kv"]
    value: Float[Array, "*lead length kv"]


class Prefilled(Protocol):
    """A model that has read a batch of prompts and can go on from each in several ways.

    What was read is kept once per prompt, whatever the number of its continuations ("decodes":
    samples or beams); what a continuation adds goes to `Caches`. Step 0 reads `first_tokens`.
    """

    @property
    def first_tokens(self) -> Int32[Array, " batch"]:
        """The last token before each continuation."""
        ...

    @property
    def vocab_size(self) -> int:
        """Length of a row of logits."""
        ...

    def empty_caches(self, num_decodes: int, max_decode_len: int) -> Caches:
        """Room for `max_decode_len` steps."""
        ...

    def step(
        self, caches: Caches, tokens: Int32[Array, "batch decodes"], step: Int32[Array, ""]
    ) -> tuple[Float[Array, "batch decodes vocab"], Caches]:
        """Float32 logits after one more token of each continuation, and the caches with it."""
        ...

    def reorder(self, caches: Caches, parents: Int[Array, "batch decodes"]) -> Caches:
        """Caches in which each continuation goes on from another of its row (`take_decodes`)."""
        ...

    def teacher_forced(
        self, targets: Int[Array, "batch decodes length"]
    ) -> Float[Array, "batch decodes*length vocab"]:
        """Float32 logits of every position of given continuations (right-padded by 0), each read
        independently of the others.
        """
        ...


def layer_at(layers: Any, index: int, dtype: jnp.dtype) -> Any:
    """One of a stack of layers, in the dtype of its computations."""
    return jax.tree.map(lambda x: x[index].astype(dtype), layers)


def looked_up(embed: Embed, is_head: bool, dtype: jnp.dtype) -> Embed:
    """The embedding as steps look it up: cast once and not in every step. A table that is also the
    output head (`is_head`) stays float32 instead of being kept twice.
    """
    return embed if is_head else jax.tree.map(lambda x: x.astype(dtype), embed)


def write(
    cache: KeyValue, key: Float[Array, "*lead kv"], value: Float[Array, "*lead kv"], step: Array
) -> KeyValue:
    """The cache with the keys and values of position `step`; in a loop it is updated in place."""
    update = jax.lax.dynamic_update_slice_in_dim
    return KeyValue(
        update(cache.key, key[..., None, :], step, axis=cache.key.ndim - 2),
        update(cache.value, value[..., None, :], step, axis=cache.value.ndim - 2),
    )


def shifted(
    first_tokens: Int[Array, " batch"], targets: Int[Array, "batch decodes length"]
) -> Int[Array, "batch decodes length"]:
    """What a decoder reads to predict `targets`: `first_tokens`, then all but the last of them."""
    first = jnp.broadcast_to(first_tokens[:, None, None], (*targets.shape[:2], 1))
    first = constrain(first.astype(targets.dtype), "batch", None, None)
    return jnp.concatenate([first, targets[:, :, :-1]], axis=2)


def take_decodes(tree: PyTree[Array], index: Int[Array, "batch picked"]) -> PyTree[Array]:
    """Those continuations of each row, [batch, decodes, ...] to [batch, picked, ...].

    On a mesh every device looks up its own: continuations are not split over devices.
    """

    def take(x: Array) -> Array:
        return jax.vmap(lambda row, i: row[i])(x, index)

    return jax.tree.map(take, tree)


def merge(x: Float[Array, "batch decodes ..."], *axes: str) -> Float[Array, "batch*decodes ..."]:
    """One leading dimension of two; `axes` are the logical axes of the others."""
    shape = (x.shape[0] * x.shape[1], *x.shape[2:])
    return jnp.reshape(x, shape, out_sharding=out_sharding("batch", *axes))


def split(
    x: Float[Array, "batch*decodes ..."], num_decodes: int, *axes: str
) -> Float[Array, "batch decodes ..."]:
    """Undoes `merge`."""
    shape = (x.shape[0] // num_decodes, num_decodes, *x.shape[1:])
    return jnp.reshape(x, shape, out_sharding=out_sharding("batch", None, *axes))


def reorder(caches: Caches, parents: Int[Array, "batch decodes"], axes: tuple[str, ...]) -> Caches:
    """`Prefilled.reorder` for caches with these logical axes after the first."""

    def pick(x: Array) -> Array:
        return merge(take_decodes(split(x, parents.shape[1], *axes), parents), *axes)

    return jax.tree.map(pick, caches)
