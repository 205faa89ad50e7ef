"""Steps: accumulated gradients are those of the whole batch; dropout depends on seed and step."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest

from flan_jax.errors import UserError
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import logical_axes, named_leaves
from flan_jax.train.optimizer import Adafactor
from flan_jax.train.state import TrainState
from flan_jax.train.step import Trainer, make_eval_step, make_train_step

pytestmark = pytest.mark.slow

CONFIG = T5Config(
    vocab_size=32,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=24,
    dropout_rate=0.0,
    dtype="float32",
)
BATCH, LENGTH, TASKS = 8, 8, 3


def packed_batch(seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of zero to three segments: parts of the batch weigh very differently."""
    rng = np.random.default_rng(seed)
    segments = np.zeros((BATCH, LENGTH), np.int32)
    for row in range(BATCH - 1):  # the last row is all padding
        ends = np.sort(rng.choice(np.arange(1, LENGTH), row % 3 + 1, replace=False))
        for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True), start=1):
            segments[row, start:end] = number
    tokens = np.where(segments > 0, rng.integers(2, 32, segments.shape), 0).astype(np.int32)
    targets = np.where(segments > 0, rng.integers(2, 32, segments.shape), 0).astype(np.int32)
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    first = segments != np.pad(segments, ((0, 0), (1, 0)))[:, :-1]
    return {
        "encoder_input_tokens": tokens,
        "encoder_segment_ids": segments,
        "decoder_input_tokens": np.where(first, 0, shifted).astype(np.int32),
        "decoder_target_tokens": targets,
        "decoder_segment_ids": segments,
        "decoder_loss_weights": (targets > 0).astype(np.float32),
        "decoder_task_ids": np.where(segments > 0, segments - 1, -1).astype(np.int32),
    }


@functools.cache
def initial_params(config: T5Config = CONFIG):
    return jax.jit(EncoderDecoderModel(config).init)(jax.random.key(0))


def make_step(config: T5Config, trainer: Trainer, factor=None, *, rate=0.05, seed: int = 1):
    """(compiled step, state to begin with)."""
    definition = Adafactor(learning_rate=rate)
    model = EncoderDecoderModel(config, optimizer_def=definition, loss_normalizing_factor=factor)
    params = initial_params(config)
    optimizer = definition.create(trainer.learning_rate_fn, logical_axes(params))
    step = make_train_step(model, optimizer, trainer, jax.random.key(seed), TASKS)
    state = TrainState(np.int32(0), params, jax.jit(optimizer.init)(params))
    return jax.jit(step), state


def take_step(parts: int | None, factor=None, dropout: float = 0.0, seed: int = 1):
    """(state, metrics) after a step from the same parameters."""
    config = dataclasses.replace(CONFIG, dropout_rate=dropout)
    step, state = make_step(config, Trainer(num_microbatches=parts), factor, seed=seed)
    state, metrics = step(state, packed_batch())
    return state, jax.device_get(metrics)


@pytest.fixture(scope="module")
def whole():
    """Whole-batch steps by normalising factor, computed once."""
    return {factor: take_step(None, factor) for factor in FACTORS}


FACTORS = (None, "NUM_REAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE")


@pytest.mark.parametrize("factor", FACTORS)
def test_microbatches_sum_to_the_whole_batch(whole, factor):
    state, metrics = take_step(4, factor)
    expected_state, expected = whole[factor]
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
    theirs = named_leaves(expected_state.params)
    for name, leaf in named_leaves(state.params).items():
        np.testing.assert_allclose(leaf, theirs[name], rtol=0, atol=2e-6, err_msg=name)


def test_factors_are_not_all_the_same(whole):
    """Otherwise the test above would show nothing."""
    norms = [float(metrics["grad_norm"]) for _, metrics in whole.values()]
    assert len({round(norm, 4) for norm in norms}) == 3


def test_metrics_are_sums_over_real_tokens(whole):
    batch, (state, metrics) = packed_batch(), whole[None]
    assert metrics["weight_sum"] == batch["decoder_loss_weights"].sum()
    assert metrics["per_task_weight_sum"].tolist() == [
        (batch["decoder_task_ids"] == task).sum() for task in range(TASKS)
    ]
    np.testing.assert_allclose(metrics["per_task_loss"].sum(), metrics["cross_entropy"], rtol=1e-5)
    np.testing.assert_allclose(
        metrics["loss"], metrics["cross_entropy"] + metrics["z_loss"], rtol=1e-5
    )
    assert metrics["learning_rate"] == np.float32(0.05)
    assert metrics["grad_norm"] > 0
    assert metrics["update_norm"] > 0
    assert int(state.step) == 1


def test_batch_that_does_not_divide_is_refused():
    with pytest.raises(
        UserError, match=r"BATCH_SIZE 8 must be a multiple of .*NUM_MICROBATCHES.* 3"
    ):
        take_step(3)


@pytest.mark.parametrize("parts", [0, -1])
def test_number_of_microbatches_is_checked(parts):
    with pytest.raises(UserError, match=f"must be >= 1, found {parts}"):
        Trainer(num_microbatches=parts)


def compiled(config: T5Config, parts: int | None, batch: dict[str, np.ndarray]):
    """(the step as the training loop compiles it, the state it takes)."""
    step, state = make_step(config, Trainer(num_microbatches=parts))
    return jax.jit(step, donate_argnums=0).lower(state, batch).compile(), state


def test_the_whole_state_is_updated_in_place():
    """No parameter and no slot of the optimizer is in memory twice."""
    step, state = compiled(CONFIG, None, packed_batch())
    kept = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state))
    assert step.memory_analysis().alias_size_in_bytes == kept


def test_microbatches_take_less_memory():
    """Of 4 parts a quarter is kept for the backward pass; the gradients are added up in place."""
    big = {name: np.tile(rows, (8, 8)) for name, rows in packed_batch().items()}
    whole, parts = (compiled(CONFIG, n, big)[0].memory_analysis() for n in (1, 4))
    assert parts.alias_size_in_bytes == whole.alias_size_in_bytes
    assert parts.temp_size_in_bytes < 0.4 * whole.temp_size_in_bytes


def test_dropout_is_a_function_of_seed_step_and_microbatch():
    config = dataclasses.replace(CONFIG, dropout_rate=0.5)

    def loss(step, state) -> float:
        return float(step(state, packed_batch())[1]["loss"])

    step, state = make_step(config, Trainer())
    first = loss(step, state)
    assert loss(step, state) == first
    # Other masks, with the same parameters.
    assert loss(step, dataclasses.replace(state, step=np.int32(1))) != first
    assert loss(*make_step(config, Trainer(), seed=2)) != first
    # Were the masks of both halves the same, the two would differ by rounding alone.
    assert abs(loss(*make_step(config, Trainer(num_microbatches=2))) - first) > 1e-3


def test_learning_rate_function_sees_the_step():
    trainer = Trainer(learning_rate_fn=lambda step: 0.1 / (1 + step))
    step, state = make_step(CONFIG, trainer, rate=9.0)
    seen = []
    for _ in range(3):
        state, metrics = step(state, packed_batch())
        seen.append(float(metrics["learning_rate"]))
    np.testing.assert_allclose(seen, [0.1, 0.05, 0.1 / 3], rtol=1e-6)
    assert int(state.step) == 3


def test_evaluation_has_no_dropout():
    dropping = EncoderDecoderModel(dataclasses.replace(CONFIG, dropout_rate=0.5))
    sums = jax.jit(make_eval_step(dropping, TASKS))(initial_params(dropping.module), packed_batch())
    expected = jax.jit(make_eval_step(EncoderDecoderModel(CONFIG), TASKS))(
        initial_params(), packed_batch()
    )
    assert float(sums["cross_entropy"]) == float(expected["cross_entropy"])
