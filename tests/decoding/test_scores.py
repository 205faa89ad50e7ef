"""Log-probabilities of given targets, many to a prompt, against the models' own scores."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from flan_jax.decoding import score
from flan_jax.models.decoder_only import DecoderOnlyModel
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from tests.decoding.reference import PALM_CONFIG, T5_CONFIG, VOCAB, make, prompts

INPUTS = prompts([7, 3, 5, 1])
TARGETS = np.random.default_rng(3).integers(2, VOCAB, (4, 3, 5)).astype(np.int32)
TARGETS[:, 1, 2:] = 0
TARGETS[2, 2] = 0  # a place without a target


def t5_scores(targets: np.ndarray) -> np.ndarray:
    batch = {
        "encoder_input_tokens": INPUTS,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
    }
    return np.asarray(jax.jit(EncoderDecoderModel(T5_CONFIG).score_batch)(make(T5_CONFIG), batch))


def palm_scores(targets: np.ndarray, bidirectional: bool) -> np.ndarray:
    shape = (len(INPUTS), INPUTS.shape[1] + targets.shape[1] + 1)
    names = ("input_tokens", "target_tokens", "causal_attention", "loss_weights")
    batch = {f"decoder_{name}": np.zeros(shape, np.int32) for name in names}
    for i, (prompt, target) in enumerate(zip(INPUTS, targets, strict=True)):
        tokens = [*prompt[prompt > 0], *target[target > 0]]
        n = (prompt > 0).sum()
        batch["decoder_target_tokens"][i, : len(tokens)] = tokens
        batch["decoder_input_tokens"][i, 1 : len(tokens) + 1] = tokens
        batch["decoder_causal_attention"][i, : n + 1] = 1
        batch["decoder_loss_weights"][i, n : len(tokens)] = 1
    model = DecoderOnlyModel(PALM_CONFIG, inputs_bidirectional_attention=bidirectional)
    return np.asarray(jax.jit(model.score_batch)(make(PALM_CONFIG), batch))


def check(scored, expected) -> None:
    np.testing.assert_allclose(scored.total, expected, atol=1e-4)
    np.testing.assert_allclose(np.asarray(scored.per_token).sum(-1), scored.total, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(scored.per_token) == 0.0, TARGETS == 0)


def test_t5_scores_are_those_of_the_model():
    scored = score(make(T5_CONFIG), INPUTS, TARGETS)
    check(scored, np.stack([t5_scores(TARGETS[:, i]) for i in range(3)], axis=1))


@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "prefix"])
def test_palm_scores_are_those_of_the_model(bidirectional):
    scored = score(make(PALM_CONFIG), INPUTS, TARGETS, inputs_bidirectional_attention=bidirectional)
    check(scored, np.stack([palm_scores(TARGETS[:, i], bidirectional) for i in range(3)], axis=1))


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"one target per prompt is targets\[:, None\]"):
        score(make(T5_CONFIG), INPUTS, TARGETS[:, 0])
    with pytest.raises(ValueError, match=r"found shape \(3, 3, 5\)"):
        score(make(T5_CONFIG), INPUTS, TARGETS[:3])
