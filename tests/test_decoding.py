"""Cached decoding against recomputing the whole forward pass, and sampling's independence."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.decoding import generate, item_keys
from flan_jax.models.t5 import T5, T5Config

CONFIG = T5Config(
    vocab_size=24,
    emb_dim=32,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=2,
    head_dim=8,
    mlp_dim=48,
    dtype="float32",
)
LENGTH = 10


@pytest.fixture(scope="module")
def model() -> T5:
    return jax.jit(lambda key: T5(CONFIG, key))(jax.random.key(4))


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    tokens = np.random.default_rng(0).integers(2, 24, (12, 7)).astype(np.int32)
    for row, length in enumerate([7, 3, 5, 1, 7, 6, 2, 4, 7, 5, 3, 6]):
        tokens[row, length:] = 0
    return tokens


def greedy_by_recomputation(model: T5, inputs: np.ndarray, eos_id: int = 1) -> np.ndarray:
    """Argmax of the full forward pass over everything generated so far, for each position."""
    forward = jax.jit(lambda m, b: m(b))
    output = np.zeros((len(inputs), LENGTH), np.int32)
    ended = np.zeros(len(inputs), bool)
    for step in range(LENGTH):
        batch = {
            "encoder_input_tokens": inputs,
            "decoder_input_tokens": np.pad(output, ((0, 0), (1, 0)))[:, :-1],
            "decoder_target_tokens": np.ones_like(output),  # no padding mask while generating
        }
        best = np.asarray(forward(model, batch))[:, step].argmax(-1)
        output[:, step] = np.where(ended, 0, best)
        ended |= best == eos_id
    return output


@pytest.mark.parametrize("logits_via_embedding", [False, True])
def test_greedy_equals_recomputation(inputs, logits_via_embedding):
    config = dataclasses.replace(CONFIG, logits_via_embedding=logits_via_embedding)
    model = jax.jit(lambda key: T5(config, key))(jax.random.key(4))
    free = np.asarray(generate(model, inputs, max_decode_len=LENGTH, eos_id=-1))
    assert len(np.unique(free)) > 2
    # Any token may play the end of sequence; one that occurs at various places tests most.
    eos_id = int(np.bincount(free.ravel()).argmax())
    expected = greedy_by_recomputation(model, inputs, eos_id)
    output = np.asarray(generate(model, inputs, max_decode_len=LENGTH, eos_id=eos_id))
    np.testing.assert_array_equal(output, expected)
    assert (expected == 0).any()


def test_bfloat16_runs(model, inputs):
    half = jax.tree.unflatten(
        jax.tree.structure(
            jax.eval_shape(
                lambda: T5(dataclasses.replace(CONFIG, dtype="bfloat16"), jax.random.key(0))
            )
        ),
        jax.tree.leaves(model),
    )
    output = generate(half, inputs, max_decode_len=LENGTH)
    assert output.shape == (12, LENGTH)
    assert output.dtype == jnp.int32


def test_loop_stops_when_all_rows_have_ended(model, inputs):
    """Rows that end at once leave nothing to do: the rest of the output stays 0."""
    first = np.asarray(generate(model, inputs[:1], max_decode_len=LENGTH, eos_id=-1))[0, 0]
    output = generate(model, inputs[:1], max_decode_len=LENGTH, eos_id=int(first))
    np.testing.assert_array_equal(output, [[first] + [0] * (LENGTH - 1)])


def sample(model, inputs, ids, seed=0, **options):
    keys = item_keys(seed, np.asarray(ids))
    return np.asarray(
        generate(model, inputs, max_decode_len=LENGTH, temperature=1.0, keys=keys, **options)
    )


def test_samples_do_not_depend_on_the_batch(model, inputs):
    together = sample(model, inputs, range(12))
    order = np.random.default_rng(1).permutation(12)
    np.testing.assert_array_equal(sample(model, inputs[order], order), together[order])
    np.testing.assert_array_equal(sample(model, inputs[5:8], range(5, 8)), together[5:8])
    assert not np.array_equal(sample(model, inputs, range(12), seed=1), together)


def test_top1_is_greedy(model, inputs):
    greedy = generate(model, inputs, max_decode_len=LENGTH)
    np.testing.assert_array_equal(sample(model, inputs, range(12), topk=1), greedy)


def test_samples_follow_the_distribution(model, inputs):
    """First tokens of many draws from one input against the softmax of its logits."""
    count = 4000
    rows = np.repeat(inputs[:1], count, axis=0)
    keys = item_keys(3, np.arange(count))
    drawn = generate(model, rows, max_decode_len=1, temperature=2.0, topk=5, keys=keys)
    batch = {
        "encoder_input_tokens": inputs[:1],
        "decoder_input_tokens": np.zeros((1, 1), np.int32),
        "decoder_target_tokens": np.ones((1, 1), np.int32),
    }
    logits = np.asarray(model(batch))[0, 0] / 2.0
    likeliest = np.argsort(logits)[-5:]
    expected = np.zeros(24)
    expected[likeliest] = np.exp(logits[likeliest]) / np.exp(logits[likeliest]).sum()
    frequency = np.bincount(np.asarray(drawn)[:, 0], minlength=24) / count
    np.testing.assert_allclose(frequency, expected, atol=4 * np.sqrt(0.25 / count))
    assert set(np.flatnonzero(frequency)) <= set(likeliest)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_decode_len": 0}, "max_decode_len"),
        ({"max_decode_len": 4, "temperature": -1.0}, "temperature"),
        ({"max_decode_len": 4, "temperature": 1.0}, "item_keys"),
        ({"max_decode_len": 4, "topk": 25}, "topk"),
    ],
)
def test_argument_errors(model, inputs, options, message):
    with pytest.raises(ValueError, match=message):
        generate(model, inputs, **options)
