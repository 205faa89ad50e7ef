"""The decoder-only model's loss and scores against NumPy, and what its switches do."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from flan_jax.data.decoder_only import build_decoder_only_row
from flan_jax.data.packing import TokenizedExample
from flan_jax.models.decoder_only import DecoderOnlyModel
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import named_leaves
from tests.models.palm_reference import logits_of_row

CONFIG = PalmConfig(
    vocab_size=13, emb_dim=8, num_heads=2, num_layers=1, head_dim=4, mlp_dim=12, dtype="float32"
)
CAUSAL = DecoderOnlyModel(CONFIG, z_loss=0.01)
PREFIX = dataclasses.replace(CAUSAL, inputs_bidirectional_attention=True)
ALL_TOKENS = dataclasses.replace(CAUSAL, loss_on_targets_only=False)


@pytest.fixture(scope="module")
def model():
    return jax.jit(CAUSAL.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def rows():
    def example(inputs, targets, task):
        return TokenizedExample(np.array(inputs, "i4"), np.array(targets, "i4"), task)

    first, second = example([5, 6, 1], [7, 8, 1], 2), example([9, 1], [3, 1], 0)
    return [build_decoder_only_row(row, 12) for row in ([first, second], [second])]


@pytest.fixture(scope="module")
def batch(rows):
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def token_losses(model, rows, prefix):
    """(cross entropy, log(Z)) of every position: float64[rows, length]."""
    if not prefix:
        rows = [{n: x for n, x in row.items() if n != "decoder_causal_attention"} for row in rows]
    parameters = {name: np.asarray(x) for name, x in named_leaves(model).items()}
    logits = np.stack([logits_of_row(parameters, CONFIG, row) for row in rows])
    targets = np.stack([row["decoder_target_tokens"] for row in rows])[..., None]
    log_z = np.log(np.exp(logits).sum(axis=-1))
    return log_z - np.take_along_axis(logits, targets, axis=-1)[..., 0], log_z


@pytest.mark.parametrize(
    ("task", "weights"),
    [
        (CAUSAL, lambda batch: batch["decoder_loss_weights"]),
        (PREFIX, lambda batch: batch["decoder_loss_weights"]),
        (ALL_TOKENS, lambda batch: batch["decoder_target_tokens"] > 0),
    ],
    ids=["causal", "prefix", "all tokens"],
)
def test_loss_metrics_and_scores(model, rows, batch, task, weights):
    weights = weights(batch)
    plain, log_z = token_losses(model, rows, task.inputs_bidirectional_attention)
    loss, metrics = jax.jit(task.loss_fn, static_argnums=(2, 3))(model, batch, None, 4)
    assert float(loss) == pytest.approx(((plain + 0.01 * log_z**2) * weights).sum(), rel=1e-5)
    assert float(metrics["cross_entropy"]) == pytest.approx((plain * weights).sum(), rel=1e-5)
    assert float(metrics["weight_sum"]) == weights.sum()
    for number in range(4):
        mine = weights * (batch["decoder_task_ids"] == number)
        assert float(metrics["per_task_weight_sum"][number]) == mine.sum()
        found = float(metrics["per_task_loss"][number])
        assert found == pytest.approx((plain * mine).sum(), rel=1e-5)
    # Scores are always of the targets.
    expected = -(plain * batch["decoder_loss_weights"]).sum(axis=-1)
    np.testing.assert_allclose(jax.jit(task.score_batch)(model, batch), expected, rtol=1e-5)


def test_average_over_all_tokens(model, batch):
    factor = {"loss_normalizing_factor": "num_real_target_tokens"}
    assert float(dataclasses.replace(CAUSAL, **factor).loss_divisor(batch)) == 5 + 2
    assert float(dataclasses.replace(ALL_TOKENS, **factor).loss_divisor(batch)) == 10 + 4


def test_causal_models_ignore_the_prefix_and_others_need_it(model, batch):
    without = {n: x for n, x in batch.items() if n != "decoder_causal_attention"}
    run = jax.jit(CAUSAL.score_batch)
    np.testing.assert_array_equal(run(model, batch), run(model, without))
    with pytest.raises(ValueError, match="needs 'decoder_causal_attention' in the batch"):
        PREFIX.score_batch(model, without)


def test_inputs_that_see_each_other_cannot_be_predicted():
    with pytest.raises(ValueError, match=r"LOSS_ON_TARGETS_ONLY.*INPUTS_BIDIRECTIONAL"):
        dataclasses.replace(PREFIX, loss_on_targets_only=False)


def test_what_models_say_of_themselves():
    vocabulary = object()
    task = dataclasses.replace(CAUSAL, vocabulary=vocabulary)
    assert task.input_vocabulary is task.output_vocabulary is vocabulary
    assert task.row_kind == "decoder_only"
    assert EncoderDecoderModel(T5Config(vocab_size=8)).row_kind == "encoder_decoder"
    with pytest.raises(ValueError, match="did you mean 'NUM_REAL_TARGET_TOKENS'"):
        dataclasses.replace(CAUSAL, loss_normalizing_factor="NUM_REAL_TARGET_TOKEN")
