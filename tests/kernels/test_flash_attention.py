"""The kernels, run by Pallas's interpreter, against attention written out plainly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import Array

from flan_jax.kernels import pieces
from flan_jax.kernels.flash_attention import LOG_SUM, OUT, flash_attention


@dataclass(frozen=True)
class Case:
    """Sizes and options of a random problem."""

    batch: int = 1
    q: int = 128
    k: int = 128
    heads: int = 2
    single: bool = False  # one key head for all
    kv: int = 64
    bias: bool = False
    causal: bool = False
    prefix: bool = False
    weights: bool = False
    packed: bool = True  # segments one after the other; else each position's is drawn
    seed: int = 0


def problem(case: Case) -> tuple[dict[str, Array], dict[str, Any], Array]:
    """What gradients flow to, the other arguments, and the output's gradient."""
    rng = np.random.default_rng(case.seed)

    def normal(*shape: int, scale: float = 1.0) -> Array:
        return jnp.asarray(rng.normal(size=shape) * scale, jnp.float32)

    def segments(length: int) -> np.ndarray:
        drawn = rng.integers(0, 4, size=(case.batch, length)).astype(np.int32)
        return -np.sort(-drawn, axis=1) if case.packed else drawn

    query_segments = segments(case.q)
    key_segments = query_segments if case.q == case.k else segments(case.k)
    query_segments[0, case.q // 2 :] = 0
    arrays = {
        "query": normal(case.batch, case.q, case.heads, case.kv, scale=2 * case.kv**-0.5),
        "key": normal(case.batch, case.k, (1 if case.single else case.heads), case.kv),
        "value": normal(case.batch, case.k, (1 if case.single else case.heads), case.kv),
    }
    if case.bias:
        arrays["bias_by_offset"] = normal(case.heads, case.q + case.k - 1)
    rest: dict[str, Any] = {
        "query_segments": jnp.asarray(query_segments),
        "key_segments": jnp.asarray(key_segments),
        "causal": case.causal,
    }
    if case.prefix:
        rest["prefix"] = jnp.asarray(rng.random((case.batch, case.k)) < 0.5)
    if case.weights:
        kept = rng.random((case.batch, case.heads, case.k)) < 0.8
        rest["key_weights"] = jnp.asarray(kept / 0.8, jnp.float32)
    return arrays, rest, normal(case.batch, case.q, case.heads, case.kv)


def plain(arrays: dict[str, Array], rest: dict[str, Any]) -> Array:
    query, key, value = arrays["query"], arrays["key"], arrays["value"]
    q, k = query.shape[1], key.shape[1]
    key, value = (jnp.broadcast_to(x, (*x.shape[:2], *query.shape[2:])) for x in (key, value))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key)
    if "bias_by_offset" in arrays:
        offset = np.arange(k)[None, :] - np.arange(q)[:, None]
        scores += arrays["bias_by_offset"][:, offset + q - 1]
    mine, theirs = rest["query_segments"][:, :, None], rest["key_segments"][:, None, :]
    mask = (mine == theirs) & (mine > 0)
    if rest["causal"]:
        allowed = np.tril(np.ones((q, k), bool))[None]
        if "prefix" in rest:
            allowed = allowed | (rest["prefix"][:, :, None] & rest["prefix"][:, None, :])
        mask &= allowed
    probs = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf), axis=-1, where=mask[:, None])
    if "key_weights" in rest:
        probs *= rest["key_weights"][:, :, None, :]
    return jnp.einsum("bhqk,bkhd->bqhd", probs, value)


def check(case: Case, **blocks: int) -> None:
    """Values and all gradients, to 1e-5 of the largest element (or of what it is computed from)."""
    arrays, rest, out_grad = problem(case)

    def kernel(arrays: dict[str, Array]) -> Array:
        return flash_attention(**arrays, **rest, **blocks, interpret=True)

    found, pullback = jax.vjp(jax.jit(kernel), arrays)
    expected, plain_pullback = jax.vjp(jax.jit(lambda arrays: plain(arrays, rest)), arrays)
    gradients, plain_gradients = pullback(out_grad)[0], plain_pullback(out_grad)[0]
    compare("output", found, expected)
    for name in arrays:
        # Where all are 0, as if each query sees one key, they are differences of sums of this size.
        least_scale = 1.0 if plain_gradients[name].any() else case.kv**0.5
        compare(name, gradients[name], plain_gradients[name], least_scale)


def compare(name: str, found: Array, expected: Array, least_scale: float = 1.0) -> None:
    scale = max(least_scale, float(jnp.max(jnp.abs(expected))))
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-5, err_msg=name)


def test_relative_bias_and_segments() -> None:
    check(Case(batch=2, bias=True))


def test_multi_query_causal() -> None:
    check(Case(heads=3, single=True, kv=128, causal=True))


FIXED = {
    "tiles of several blocks": (Case(q=512, k=512, bias=True), {"block_q": 256, "block_k": 256}),
    "dropout": (Case(batch=2, q=256, k=128, heads=4, bias=True, weights=True), {}),
    "odd lengths": (Case(q=140, k=270, heads=3, bias=True, packed=False), {}),
    "cross attention": (Case(batch=2, q=128, k=384, packed=False), {}),
    "causal with bias": (Case(q=256, k=256, causal=True, bias=True), {"block_k": 128}),
    "prefix": (
        Case(batch=2, q=256, k=256, heads=2, single=True, kv=128, causal=True, prefix=True),
        {"block_k": 128, "block_q": 128},
    ),
    "wide heads": (
        Case(q=384, k=384, single=True, kv=256, causal=True, weights=True, packed=False),
        {"block_k": 128},
    ),
    "many narrow heads": (Case(batch=2, heads=5, single=True, kv=32, weights=True), {}),
    "padded heads": (Case(heads=3, kv=20, bias=True), {}),
    "single key head with bias": (Case(heads=2, single=True, bias=True), {}),
}


ALWAYS = ("dropout", "odd lengths", "wide heads")  # between them, every option but prefixes


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ALWAYS else pytest.mark.exhaustive) for n in FIXED],
)
def test_fixed(name: str) -> None:
    case, blocks = FIXED[name]
    check(case, **blocks)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    causal = draw(st.booleans())
    q = draw(st.integers(1, 260))
    heads = draw(st.integers(1, 4))
    return Case(
        batch=draw(st.integers(1, 2)),
        q=q,
        k=q if causal else draw(st.integers(1, 260)),
        heads=heads,
        single=draw(st.booleans()),
        kv=draw(st.sampled_from([16, 64, 128])),
        bias=draw(st.booleans()),
        causal=causal,
        prefix=causal and draw(st.booleans()),
        weights=draw(st.booleans()),
        packed=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )


@pytest.mark.exhaustive
@pytest.mark.slow
@hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
@hypothesis.given(case=cases())
def test_random(case: Case) -> None:
    check(case, block_q=128, block_k=128)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            Case(q=256, k=256, heads=1, bias=True), marks=pytest.mark.exhaustive, id="bias"
        ),
        pytest.param(
            Case(q=256, k=256, heads=1, kv=128, causal=True, prefix=True, weights=True), id="prefix"
        ),
    ],
)
def test_in_pieces(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths beyond what one call holds."""
    monkeypatch.setattr(pieces, "_KEYS", {True: 64, False: 64})  # of 16-bit: half, but at least 128
    check(case)


def test_a_query_without_keys_gets_nothing() -> None:
    case = Case()
    arrays, rest, out_grad = problem(case)
    rest["query_segments"] = jnp.full((1, case.q), 7)

    def kernel(arrays: dict[str, Array]) -> Array:
        return flash_attention(**arrays, **rest, interpret=True)

    found, pullback = jax.vjp(jax.jit(kernel), arrays)
    assert not found.any()
    assert not any(gradient.any() for gradient in pullback(out_grad)[0].values())


def test_saved_residuals_spare_the_second_forward() -> None:
    arrays, rest, _ = problem(Case(bias=True))

    def loss(arrays: dict[str, Array]) -> Array:
        return jnp.sum(flash_attention(**arrays, **rest, interpret=True) ** 2)

    def runs_again(policy: Any) -> bool:
        """Whether the backward pass uses anything of the forward kernel it holds.

        What it does not use the compiler drops; JAX's jaxpr still shows it.
        """
        gradient = jax.make_jaxpr(jax.grad(jax.checkpoint(loss, policy=policy)))(arrays)
        [again] = [e.params["jaxpr"] for e in gradient.eqns if "prevent_cse" in e.params]
        [kernel] = [
            equation
            for equation in again.eqns
            if equation.primitive.name == "pallas_call"
            and "name=flash_attention_forward" in str(equation)
        ]
        used = {id(v) for equation in again.eqns for v in equation.invars}
        return any(id(v) in used for v in kernel.outvars)

    assert not runs_again(jax.checkpoint_policies.save_only_these_names(OUT, LOG_SUM))
    assert runs_again(jax.checkpoint_policies.nothing_saveable)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"key": jnp.zeros((1, 8, 3, 16))}, r"must be of one shape.*\(1, 8, 2, 16\)"),
        ({"value": jnp.zeros((1, 8, 2, 16), jnp.bfloat16)}, "one dtype.*bfloat16"),
        ({"bias_by_offset": jnp.zeros((2, 16))}, r"q \+ k - 1\] = \(2, 15\), found \(2, 16\)"),
        ({"block_k": 100}, r"multiples of 128, found \(256, 100\)"),
        ({"prefix": jnp.ones((1, 8), bool)}, "needs causal=True"),
        ({"query_segments": jnp.ones((1, 7), jnp.int32)}, r"query_segments.*\(1, 8\).*\(1, 7\)"),
        ({"key_weights": jnp.ones((1, 8, 2))}, r"key_weights.*\(1, 2, 8\).*\(1, 8, 2\)"),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    x = jnp.zeros((1, 8, 2, 16))
    segments = jnp.ones((1, 8), jnp.int32)
    fine = {"query": x, "key": x, "value": x} | dict.fromkeys(
        ("query_segments", "key_segments"), segments
    )
    with pytest.raises(ValueError, match=message):
        flash_attention(**{**fine, **change})


def test_causal_attention_needs_equal_lengths() -> None:
    x, y = jnp.zeros((1, 8, 2, 16)), jnp.zeros((1, 9, 2, 16))
    with pytest.raises(ValueError, match="as many queries as keys, found 8 and 9"):
        flash_attention(
            x,
            y,
            y,
            query_segments=jnp.ones((1, 8), jnp.int32),
            key_segments=jnp.ones((1, 9), jnp.int32),
            causal=True,
        )
