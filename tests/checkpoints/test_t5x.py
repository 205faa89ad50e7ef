"""Parity with T5X on a checkpoint that T5X itself wrote."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flan_jax.checkpoints.t5x import open_t5x, t5x_layout
from flan_jax.decoding import generate
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import logical_axes, named_leaves
from flan_jax.train.optimizer import Adafactor
from flan_jax.train.state import TrainState
from tests.checkpoints.t5x_samples import load

CONFIG = T5Config(
    vocab_size=384,
    emb_dim=128,
    num_heads=4,
    num_encoder_layers=2,
    num_decoder_layers=2,
    head_dim=16,
    mlp_dim=192,
    dtype="float32",
)
TASK = EncoderDecoderModel(CONFIG, z_loss=1e-4)
TOLERANCE = 1e-4


def shapes():
    return jax.eval_shape(TASK.init, jax.random.key(0))


@pytest.fixture(scope="module")
def folder(test_data) -> Path:
    return test_data / "t5x_tiny" / "t5_legacy" / "checkpoint_20"


@pytest.fixture(scope="module")
def refs(test_data) -> dict[str, np.ndarray]:
    with np.load(test_data / "t5x_tiny" / "refs_t5.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def optimizer():
    return Adafactor(learning_rate=0.01).create(None, logical_axes(shapes()))


@pytest.fixture(scope="module")
def checkpoint(folder, optimizer):
    params = shapes()
    step = jax.ShapeDtypeStruct((), jnp.int32)
    like = TrainState(step, params, jax.eval_shape(optimizer.init, params))
    return jax.tree.map(jnp.asarray, load(folder, CONFIG, like))


@pytest.fixture(scope="module")
def batch(refs):
    return {name: x for name, x in refs.items() if name.startswith(("encoder_", "decoder_"))}


@pytest.fixture(scope="module")
def loss_and_grads(checkpoint, batch):
    function = jax.value_and_grad(lambda model: TASK.loss_fn(model, batch, None), has_aux=True)
    return jax.jit(function)(checkpoint.params)


def by_t5x_name(tree) -> dict[str, np.ndarray]:
    ours = named_leaves(tree)
    return {
        part.theirs.removeprefix("target/"): np.asarray(
            ours[part.ours.removeprefix("params/")][() if part.layer is None else part.layer]
        )
        for part in t5x_layout(CONFIG, False, optimizer=False)
        if part.theirs.startswith("target/")
    }


def max_difference(ours, theirs, real=None) -> float:
    difference = np.abs(np.asarray(ours) - theirs)
    return float((difference if real is None else difference[real]).max())


def test_step_and_state(checkpoint, folder):
    assert int(checkpoint.step) == int(checkpoint.opt_state.count) == 20
    assert checkpoint.opt_state.count.dtype == jnp.int32
    reader = open_t5x(folder)
    arrays = {name: reader.read(name) for name in reader.infos}
    states = {name for name in arrays if name.startswith("state/param_states/")}
    assert len(states) == 4 * len([name for name in arrays if name.startswith("target/")])
    for slot in ("v_row", "v_col", "v"):
        ours = by_t5x_name(getattr(checkpoint.opt_state, slot))
        for name, value in ours.items():
            np.testing.assert_array_equal(value, arrays[f"state/param_states/{name}/{slot}"])


def test_logits(checkpoint, batch, refs):
    logits = jax.jit(lambda model: model(batch))(checkpoint.params)
    real = batch["decoder_target_tokens"] > 0
    assert max_difference(logits, refs["logits"], real) <= TOLERANCE


def test_packed_logits(checkpoint, refs):
    packed = {
        name.removeprefix("packed/"): x for name, x in refs.items() if name.startswith("packed/")
    }
    expected = packed.pop("logits")
    logits = jax.jit(lambda model: model(packed))(checkpoint.params)
    real = packed["decoder_target_tokens"] > 0
    assert set(packed["decoder_segment_ids"].ravel()) >= {1, 2}
    assert max_difference(logits, expected, real) <= TOLERANCE


def test_loss(loss_and_grads, refs):
    (loss, _), _ = loss_and_grads
    assert abs(float(loss) - float(refs["loss"])) <= TOLERANCE


def test_scores(checkpoint, batch, refs):
    scores = jax.jit(lambda model: TASK.score_batch(model, batch))(checkpoint.params)
    assert max_difference(scores, refs["score_batch"]) <= TOLERANCE


def test_gradients(loss_and_grads, refs):
    _, grads = loss_and_grads
    ours = by_t5x_name(grads)
    expected = {n.removeprefix("grad/"): x for n, x in refs.items() if n.startswith("grad/")}
    assert len(expected) == 9
    for name, value in expected.items():
        assert max_difference(ours[name], value) <= TOLERANCE, name
    assert abs(float(optax.global_norm(grads)) - float(refs["grad_norm"])) <= TOLERANCE


def test_parameters_after_one_adafactor_step(checkpoint, optimizer, loss_and_grads, refs):
    _, grads = loss_and_grads
    updates, state = optimizer.update(grads, checkpoint.opt_state, checkpoint.params)
    assert int(state.count) == 21
    before, after = by_t5x_name(checkpoint.params), optax.apply_updates(checkpoint.params, updates)
    after = by_t5x_name(after)
    prefix = "after_1_step/target/"
    expected = {n.removeprefix(prefix): x for n, x in refs.items() if n.startswith(prefix)}
    assert len(expected) == 10
    for name, value in expected.items():
        # Compared to the size of the step, not only to 1e-4.
        moved = max_difference(before[name], value)
        assert max_difference(after[name], value) <= min(TOLERANCE, 0.01 * moved), name


def test_greedy(checkpoint, refs):
    output = generate(checkpoint.params, refs["encoder_input_tokens"], max_decode_len=16)
    np.testing.assert_array_equal(output, refs["greedy_temperature0"])
