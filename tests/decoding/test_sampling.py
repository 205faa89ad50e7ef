"""Which token comes next: against NumPy, draw by draw; what a sample depends on, and what not."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flan_jax.decoding import DecodeConfig, decode, generate, item_keys
from flan_jax.decoding.sampling import (
    argmax,
    keep_topk,
    keep_topp,
    next_token,
    sample_keys,
    token_logprobs,
)
from tests.decoding.reference import (
    LENGTH,
    PALM_CONFIG,
    T5_CONFIG,
    VOCAB,
    greedy,
    log_softmax,
    make,
    prompts,
    t5_next_logits,
)

INPUTS = prompts([7, 3, 5, 1, 6, 2, 7, 4, 6, 5, 2, 3])


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(logits))


def kept_by_topk(logits: np.ndarray, k: int) -> np.ndarray:
    """By sorting: true for the k largest of a row and what is tied with the last."""
    return logits >= np.sort(logits)[-k]


def kept_by_topp(logits: np.ndarray, p: float) -> np.ndarray:
    """By sorting and adding up: the likeliest until their sum reaches p, and ties."""
    probs = softmax(logits)
    order = np.argsort(-probs, kind="stable")
    last = np.flatnonzero(np.cumsum(probs[order]) >= p)
    least = probs[order[last[0]]] if len(last) else 0.0
    return probs >= least * (1 - 1e-12)


# Halves, so that ties are frequent and exact.
rows = hnp.arrays(np.int32, VOCAB, elements=st.integers(-12, 12)).map(
    lambda whole: (whole / 2).astype(np.float32)
)


@settings(max_examples=60, deadline=None)
@given(rows, st.sampled_from([1, 2, 7, VOCAB]))
def test_topk_keeps_what_sorting_keeps(logits, k):
    kept = np.asarray(keep_topk(jnp.asarray(logits), k))
    np.testing.assert_array_equal(kept, np.where(kept_by_topk(logits, k), logits, -np.inf))


jitted_topp = jax.jit(keep_topp)


@settings(max_examples=60, deadline=None)
@given(rows, st.floats(0.01, 0.999))
def test_topp_keeps_what_sorting_keeps(logits, p):
    # At p's own rounding error both answers are right.
    sums = np.cumsum(np.sort(softmax(logits))[::-1])
    if np.abs(sums - p).min() < 1e-5:
        return
    kept = np.asarray(jitted_topp(logits, np.float32(p)))
    np.testing.assert_array_equal(kept, np.where(kept_by_topp(logits, p), logits, -np.inf))


def test_topp_never_drops_the_likeliest():
    logits = jnp.asarray([[5.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    kept = np.asarray(keep_topp(logits, 0.01))
    np.testing.assert_array_equal(np.isfinite(kept), [[True, False, False], [True] * 3])


@pytest.mark.parametrize("vocab", [VOCAB, 128, 1280])
def test_argmax_is_the_first_of_equals(vocab):
    logits = np.random.default_rng(0).integers(0, 9, (5, 3, vocab)).astype(np.float32)
    np.testing.assert_array_equal(argmax(jnp.asarray(logits)), logits.argmax(-1))


def reference_draws(logits, keys, step, temperature, topk, topp) -> np.ndarray:
    """Gumbel's trick over what the filters keep: temperature, then topk, then topp of the rest."""
    drawn = np.zeros(logits.shape[:2], np.int64)
    for i, j in np.ndindex(*logits.shape[:2]):
        row = logits[i, j] / np.float32(temperature)
        if topk:
            row = np.where(kept_by_topk(row, topk), row, -np.inf)
        if topp:
            row = np.where(kept_by_topp(row, topp), row, -np.inf)
        noise = jax.random.gumbel(jax.random.fold_in(keys[i, j], step), row.shape)
        drawn[i, j] = (row + np.asarray(noise)).argmax()
    return drawn


@pytest.mark.parametrize(("topk", "topp"), [(0, 0.0), (5, 0.0), (0, 0.7), (9, 0.8)])
def test_draws_are_those_of_the_reference(topk, topp):
    logits = 3 * np.random.default_rng(1).standard_normal((8, 4, VOCAB)).astype(np.float32)
    keys = sample_keys(item_keys(5, np.arange(8)), 4)
    options = {"temperature": 0.7, "topk": topk, "topp": topp}
    draw = jax.jit(functools.partial(next_token, **options))
    for step in range(6):
        drawn = draw(logits, jnp.int32(step), keys)
        np.testing.assert_array_equal(drawn, reference_draws(logits, keys, step, **options))


def test_keys_are_of_seed_item_sample_and_step():
    def bits(seed: int, item: int, sample: int) -> tuple[int, ...]:
        keys = sample_keys(item_keys(seed, np.array([item])), 4)
        return tuple(np.asarray(jax.random.key_data(keys[0, sample])).tolist())

    all_keys = {bits(s, i, j) for s in (0, 1) for i in (0, 1, 7) for j in (0, 1, 3)}
    assert len(all_keys) == 18


def test_logprobs_of_tokens():
    logits = np.random.default_rng(2).standard_normal((3, 2, VOCAB)).astype(np.float32)
    tokens = np.array([[0, 5], [23, 1], [7, 7]])
    expected = np.take_along_axis(log_softmax(logits), tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(token_logprobs(logits, tokens), expected, atol=1e-5)


SAMPLING = DecodeConfig(LENGTH, temperature=1.0, topk=12, topp=0.9, num_decodes=3)


def sample(model, inputs, ids, config=SAMPLING, seed=0) -> np.ndarray:
    return np.asarray(decode(model, inputs, config, keys=item_keys(seed, np.asarray(ids))).ids)


def test_whole_samples_are_those_of_the_reference():
    """The loop, end to end, against drawing from the logits of the whole forward pass."""
    model, config = make(T5_CONFIG), DecodeConfig(LENGTH, temperature=1.0, topk=12, topp=0.9)
    rows = 4
    keys = sample_keys(item_keys(3, np.arange(rows)), 1)
    next_logits = t5_next_logits(model, INPUTS[:rows])
    expected = np.zeros((rows, LENGTH), np.int32)
    ended = np.zeros(rows, bool)
    for step in range(LENGTH):
        logits = next_logits(expected[:, :step])[:, None]
        drawn = reference_draws(logits, keys, step, 1.0, 12, 0.9)[:, 0]
        expected[:, step] = np.where(ended, 0, drawn)
        ended |= expected[:, step] == 1
    output = sample(model, INPUTS[:rows], range(rows), config, seed=3)
    np.testing.assert_array_equal(output[:, 0], expected)


@pytest.mark.parametrize("config", [T5_CONFIG, PALM_CONFIG], ids=["t5", "palm"])
def test_samples_depend_on_seed_and_item_alone(config):
    """Neither on the order or number of rows, nor on padding, nor on how many samples there are."""
    model = make(config)
    together = sample(model, INPUTS, range(12))
    assert len(np.unique(together.reshape(36, -1), axis=0)) > 30
    order = np.random.default_rng(1).permutation(12)
    np.testing.assert_array_equal(sample(model, INPUTS[order], order), together[order])
    part = np.pad(INPUTS[5:8], ((0, 0), (0, 6)))
    fewer = DecodeConfig(LENGTH, temperature=1.0, topk=12, topp=0.9, num_decodes=2)
    np.testing.assert_array_equal(sample(model, part, range(5, 8), fewer), together[5:8, :2])
    assert not np.array_equal(sample(model, INPUTS, range(12), seed=1), together)


def test_simple_form_is_the_first_sample():
    model, keys = make(T5_CONFIG), item_keys(0, np.arange(12))
    options = {"temperature": 1.0, "topk": 12, "topp": 0.9}
    output = generate(model, INPUTS, max_decode_len=LENGTH, keys=keys, **options)
    np.testing.assert_array_equal(output, sample(model, INPUTS, range(12))[:, 0])


def test_top1_is_greedy():
    model, keys = make(T5_CONFIG), item_keys(0, np.arange(12))
    top1 = generate(model, INPUTS, max_decode_len=LENGTH, temperature=1.0, topk=1, keys=keys)
    expected, _ = greedy(t5_next_logits(model, INPUTS), 12, eos_id=1)
    np.testing.assert_array_equal(top1, expected)
