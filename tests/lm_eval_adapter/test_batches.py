"""Batches of token ids: equal to the model asked one by one, whatever is asked together."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.decoding import DecodeConfig
from flan_jax.lm_eval_adapter.batches import MOST_TARGET_TOKENS, Batches, _together
from flan_jax.lm_eval_adapter.loading import LoadedModel
from flan_jax.models.decoder_only import DecoderOnlyModel
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import PjitPartitioner

SIZES = {"vocab_size": 64, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 16}
MODELS = {
    "t5": EncoderDecoderModel(
        T5Config(**SIZES, num_encoder_layers=1, num_decoder_layers=1, dtype="float32")
    ),
    "palm": DecoderOnlyModel(
        PalmConfig(**SIZES, num_layers=1, dtype="float32"), vocabulary=ByteVocabulary()
    ),
}
PAIRS = [
    ((5, 6, 7, 1), (9,)),
    ((5, 6, 7, 1), (10, 11, 12)),
    ((8, 1), (9, 9)),
    ((5, 6, 7, 1), (13,)),
    ((*range(2, 30), 1), (4,)),
]


def batches(name: str, batch_size: int = 2, inputs_length: int = 32) -> Batches:
    partitioner = PjitPartitioner(num_partitions=1).for_decoding()
    mesh = partitioner.make_mesh(jax.devices()[:1])
    with partitioner.use(mesh):
        params = MODELS[name].init(jax.random.key(0))
    sharding = partitioner.batch_sharding(mesh, batch_size)
    loaded = LoadedModel(MODELS[name], params, partitioner, mesh, sharding, batch_size)
    return Batches(loaded, inputs_length, seed=3)


@jax.jit
def network(params, batch):
    return params(batch)


def own_score(name: str, params, prompt, target) -> tuple[float, bool]:
    """By the whole network's logits, all padded to one length."""

    def padded(ids) -> np.ndarray:
        return np.pad([list(ids)], ((0, 0), (0, 40 - len(ids)))).astype(np.int32)

    if name == "t5":
        first = 0
        batch = {
            "encoder_input_tokens": padded(prompt),
            "decoder_input_tokens": padded([0, *target[:-1]]),
            "decoder_target_tokens": padded(target),
        }
    else:
        first = len(prompt)
        batch = {
            "decoder_input_tokens": padded([0, *prompt, *target[:-1]]),
            "decoder_target_tokens": padded([*prompt, *target]),
        }
    logits = np.asarray(network(params, batch), np.float64)[0, first : first + len(target)]
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    total = sum(logprobs[i, token] for i, token in enumerate(target))
    return total, bool((logprobs.argmax(-1) == np.array(target)).all())


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_whole_network(name: str):
    asked = batches(name)
    for (total, greedy), pair in zip(asked.scores(PAIRS), PAIRS, strict=True):
        expected, likeliest = own_score(name, asked.loaded.params, *pair)
        np.testing.assert_allclose(total, expected, rtol=1e-4)
        assert greedy == likeliest


@pytest.mark.parametrize("name", MODELS)
def test_greedy_says_what_would_be_generated(name: str):
    asked = batches(name)
    prompts = [prompt for prompt, _ in PAIRS[2:]]
    outputs = asked.continuations(prompts, [0, 1, 2], DecodeConfig(4, eos_id=-1))
    pairs = [(prompt, tuple(ids)) for prompt, ids in zip(prompts, outputs, strict=True)]
    assert [greedy for _, greedy in asked.scores(pairs)] == [True] * 3
    others = [(prompt, (*ids[:-1], (ids[-1] + 1) % 60 + 2)) for prompt, ids in pairs]
    assert [greedy for _, greedy in asked.scores(others)] == [False] * 3


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_order_and_batch_size_change_nothing(temperature: float):
    config = DecodeConfig(5, temperature=temperature)
    prompts = [(i, i + 1, 1) for i in range(2, 9)] + [(*range(2, 50), 1)]
    names = list(range(100, 108))
    one = batches("t5", 2, 64).continuations(prompts, names, config)
    turned = batches("t5", 3, 64).continuations(prompts[::-1], names[::-1], config)[::-1]
    assert one == turned
    scores = batches("t5", 2).scores(PAIRS)
    again = batches("t5", 4).scores(PAIRS[::-1])[::-1]
    np.testing.assert_allclose([s for s, _ in scores], [s for s, _ in again], rtol=1e-5)


def test_a_long_prompt_loses_its_beginning():
    whole = tuple(range(2, 60))
    (cut,) = batches("t5").scores([(whole, (7, 8))])
    (kept,) = batches("t5").scores([(whole[-32:], (7, 8))])
    np.testing.assert_allclose(cut[0], kept[0], rtol=1e-5)


ids = st.lists(st.integers(2, 5), min_size=1, max_size=200).map(tuple)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(2, 3), max_size=2).map(tuple), ids), max_size=40))
def test_targets_of_a_prompt_stay_together_within_bounds(pairs):
    groups = _together(pairs)
    assert sorted(i for _, members in groups for i in members) == list(range(len(pairs)))
    for prompt, members in groups:
        assert all(pairs[i][0] == prompt for i in members)
        longest = max(len(pairs[i][1]) for i in members)
        assert len(members) == 1 or len(members) * longest <= MOST_TARGET_TOKENS
