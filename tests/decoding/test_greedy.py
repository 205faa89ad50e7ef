"""Cached decoding of both model classes against recomputing the whole forward pass."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.decoding import DecodeConfig, Decoded, decode, generate, item_keys
from flan_jax.models.t5 import T5
from tests.decoding.reference import (
    LENGTH,
    PALM_CONFIG,
    T5_CONFIG,
    NextLogits,
    frequent,
    greedy,
    make,
    palm_next_logits,
    prompts,
    t5_next_logits,
)

INPUTS = prompts([7, 3, 5, 1, 6, 2])


def check_against(next_logits: NextLogits, model, inputs, **options) -> Decoded:
    """Ids, lengths, what ended each row, and log-probabilities, against the reference."""
    rows = len(inputs)
    free, _ = greedy(next_logits, rows)
    assert len(np.unique(free)) > 2
    eos_id = frequent(free)
    ids, logprobs = greedy(next_logits, rows, eos_id)
    decoded = jax.device_get(decode(model, inputs, DecodeConfig(LENGTH, eos_id=eos_id), **options))
    np.testing.assert_array_equal(decoded.ids[:, 0], ids)
    np.testing.assert_allclose(decoded.logprobs[:, 0], logprobs, atol=1e-4)
    np.testing.assert_array_equal(decoded.scores, decoded.logprobs)
    np.testing.assert_array_equal(decoded.best(), ids)
    for row, length, ended in zip(ids, decoded.lengths[:, 0], decoded.ended[:, 0], strict=True):
        ends = np.flatnonzero(row == eos_id)
        assert (length, ended) == ((ends[0] + 1, True) if len(ends) else (LENGTH, False))
    assert decoded.ended.any()
    return decoded


@pytest.mark.parametrize(
    "changes",
    [{}, {"logits_via_embedding": True}, {"relative_attention_per_layer": True}],
    ids=lambda changes: next(iter(changes), "t5 v1.1"),
)
def test_t5_equals_recomputation(changes):
    model = make(dataclasses.replace(T5_CONFIG, **changes))
    check_against(t5_next_logits(model, INPUTS), model, INPUTS)


def test_palm_equals_recomputation():
    model, inputs = make(PALM_CONFIG), prompts([7, 3, 5, 1, 6, 0])  # a prompt may be empty
    causal, prefix = (
        check_against(
            palm_next_logits(model, inputs, bidirectional),
            model,
            inputs,
            inputs_bidirectional_attention=bidirectional,
        )
        for bidirectional in (False, True)
    )
    # Prompts that see themselves whole are another model; an empty one has nothing to see.
    difference = np.abs(causal.logprobs - prefix.logprobs)[:, 0]
    assert difference[:5].min() > 1e-3
    assert difference[5] < 1e-4


def test_palm_with_another_head_and_norm_equals_recomputation():
    model = make(dataclasses.replace(PALM_CONFIG, logits_via_embedding=False, norm="rms"))
    check_against(palm_next_logits(model, INPUTS, False), model, INPUTS)


@pytest.mark.parametrize("config", [T5_CONFIG, PALM_CONFIG], ids=["t5", "palm"])
@pytest.mark.parametrize("method", ["sample", "beam"])
def test_bfloat16_keeps_its_types(config, method):
    """A loop whose state changes its dtype fails when it is traced."""
    model = make(dataclasses.replace(config, dtype="bfloat16"))
    config = DecodeConfig(LENGTH, method=method, num_decodes=2 if method == "beam" else 1)
    decoded = jax.eval_shape(lambda: decode(model, INPUTS, config))
    assert decoded.ids.dtype == jnp.int32
    assert decoded.scores.dtype == jnp.float32


def test_loop_stops_when_all_rows_have_ended():
    model, row = make(T5_CONFIG), INPUTS[:1]
    free, _ = greedy(t5_next_logits(model, row), 1)
    eos_id = int(free[0, 1])
    ended = decode(model, row, DecodeConfig(LENGTH, eos_id=eos_id))
    steps = int(np.flatnonzero(free[0] == eos_id)[0]) + 1
    assert int(ended.steps) == steps < LENGTH
    np.testing.assert_array_equal(ended.ids[0, 0], [*free[0, :steps], *[0] * (LENGTH - steps)])


@pytest.mark.parametrize("config", [T5_CONFIG, PALM_CONFIG], ids=["t5", "palm"])
def test_prompts_are_read_once_for_all_samples(config):
    """No array of the program has prompt positions for each sample."""
    model, positions, samples = make(config), 13, 5
    inputs = np.ones((3, positions), np.int32)
    sampling = DecodeConfig(LENGTH, num_decodes=samples, temperature=1.0)
    keys = item_keys(0, np.arange(3))
    jaxpr = jax.make_jaxpr(lambda m, x, k: decode(m, x, sampling, keys=k))(model, inputs, keys)
    shapes = [
        tuple(int(n) for n in found.split(","))
        for found in re.findall(r"f32\[([\d,]+)\]", str(jaxpr))
    ]
    read = {positions, positions + 1}  # PaLM reads one more
    of_prompts = [shape for shape in shapes if read & set(shape)]
    assert any(3 in shape for shape in of_prompts)
    # Attention of samples to the prompt has no dimension of features.
    features = {config.emb_dim, config.head_dim, config.mlp_dim}
    assert not [
        shape
        for shape in of_prompts
        if features & set(shape) and ({samples, 3 * samples} & set(shape))
    ]


def test_inputs_are_encoded_once(monkeypatch):
    calls, encode = [], T5.encode
    monkeypatch.setattr(T5, "encode", lambda *args, **kw: calls.append(1) or encode(*args, **kw))
    keys = item_keys(0, np.arange(2))
    sampling = DecodeConfig(3, num_decodes=7, temperature=1.0)
    decoded = jax.eval_shape(lambda: decode(make(T5_CONFIG), INPUTS[:2, :4], sampling, keys=keys))
    assert decoded.ids.shape == (2, 7, 3)
    assert len(calls) == 1


@pytest.mark.parametrize("config", [T5_CONFIG, PALM_CONFIG], ids=["t5", "palm"])
def test_caches_are_updated_in_place(config):
    """The compiled loop writes to each cache and copies none."""
    length, layers = 11, 2
    program = generate.lower(make(config), INPUTS, max_decode_len=length).compile().as_text()
    # Any array of a cache's positions, whatever dimensions of size 1 it has.
    cache = rf"= f32\[(?:\d+,)*{length},{config.head_dim}\]\S* "
    computations = re.findall(r"^%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", program, re.M | re.S)
    bodies = re.findall(r"body=%?([\w.\-]+)", program)
    loop = next(
        text for name, text in computations if name in bodies and re.search(cache + "fusion", text)
    )
    written = re.findall(cache + r"fusion\(.*op_name=\S*dynamic_update_slice", loop)
    assert len(written) == 2 * layers
    assert not re.findall(cache + r"copy\(", loop)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_decode_len": 0}, "max_decode_len must be a whole number of at least 1, found 0"),
        ({"max_decode_len": 4, "temperature": -1.0}, "temperature must be 0 .* found -1.0"),
        ({"max_decode_len": 4, "temperature": 1.0}, "item_keys"),
        ({"max_decode_len": 4, "topk": 25}, r"topk must be in \[0, 24\]"),
        ({"max_decode_len": 4, "topp": 1.5}, r"topp must be in \[0, 1\]"),
    ],
)
def test_argument_errors(options, message):
    with pytest.raises(ValueError, match=message):
        generate(make(T5_CONFIG), INPUTS, **options)


def test_inputs_must_be_rows():
    with pytest.raises(ValueError, match=r"\[batch, length\], found shape \(7,\)"):
        generate(make(T5_CONFIG), INPUTS[0], max_decode_len=4)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="decoding knows T5 and Palm, found RMSNorm"):
        decode(make(T5_CONFIG).decoder.decoder_norm, INPUTS, DecodeConfig(4))
