"""Parity with T5X on a checkpoint that T5X itself wrote, and errors of the importer."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flan_jax.checkpoints.t5x import load_t5x_legacy, read_t5x_legacy, t5x_names
from flan_jax.decoding import generate
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import logical_axes, named_leaves
from flan_jax.train.optimizer import Adafactor

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


def shapes_of(config: T5Config = CONFIG):
    return jax.eval_shape(EncoderDecoderModel(config).init, jax.random.key(0))


@pytest.fixture(scope="module")
def folder(test_data) -> Path:
    return test_data / "t5x_tiny" / "t5_legacy" / "checkpoint_20"


@pytest.fixture(scope="module")
def refs(test_data) -> dict[str, np.ndarray]:
    with np.load(test_data / "t5x_tiny" / "refs_t5.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def optimizer():
    return Adafactor(learning_rate=0.01).create(None, logical_axes(shapes_of()))


@pytest.fixture(scope="module")
def checkpoint(folder, optimizer):
    shapes = shapes_of()
    loaded = load_t5x_legacy(folder, shapes, jax.eval_shape(optimizer.init, shapes))
    return jax.tree.map(jnp.asarray, loaded)


@pytest.fixture(scope="module")
def batch(refs):
    return {name: x for name, x in refs.items() if name.startswith(("encoder_", "decoder_"))}


@pytest.fixture(scope="module")
def loss_and_grads(checkpoint, batch):
    function = jax.value_and_grad(lambda model: TASK.loss_fn(model, batch, None), has_aux=True)
    return jax.jit(function)(checkpoint.model)


def by_t5x_name(tree) -> dict[str, np.ndarray]:
    unstacked = {}
    for name, value in named_leaves(tree).items():
        names = t5x_names(name, 2)
        for i, each in enumerate(names):
            unstacked[each] = np.asarray(value[i] if len(names) > 1 else value)
    return unstacked


def max_difference(ours, theirs, real=None) -> float:
    difference = np.abs(np.asarray(ours) - theirs)
    return float((difference if real is None else difference[real]).max())


def test_step_and_state(checkpoint, folder):
    assert int(checkpoint.step) == int(checkpoint.optimizer_state.count) == 20
    assert checkpoint.optimizer_state.count.dtype == jnp.int32
    arrays = read_t5x_legacy(folder)
    states = {name for name in arrays if name.startswith("state/param_states/")}
    assert len(states) == 4 * len([name for name in arrays if name.startswith("target/")])
    for slot in ("v_row", "v_col", "v"):
        ours = by_t5x_name(getattr(checkpoint.optimizer_state, slot))
        for name, value in ours.items():
            np.testing.assert_array_equal(value, arrays[f"state/param_states/{name}/{slot}"])


def test_logits(checkpoint, batch, refs):
    logits = jax.jit(lambda model: model(batch))(checkpoint.model)
    real = batch["decoder_target_tokens"] > 0
    assert max_difference(logits, refs["logits"], real) <= TOLERANCE


def test_packed_logits(checkpoint, refs):
    packed = {
        name.removeprefix("packed/"): x for name, x in refs.items() if name.startswith("packed/")
    }
    expected = packed.pop("logits")
    logits = jax.jit(lambda model: model(packed))(checkpoint.model)
    real = packed["decoder_target_tokens"] > 0
    assert set(packed["decoder_segment_ids"].ravel()) >= {1, 2}
    assert max_difference(logits, expected, real) <= TOLERANCE


def test_loss(loss_and_grads, refs):
    (loss, _), _ = loss_and_grads
    assert abs(float(loss) - float(refs["loss"])) <= TOLERANCE


def test_scores(checkpoint, batch, refs):
    scores = jax.jit(lambda model: TASK.score_batch(model, batch))(checkpoint.model)
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
    updates, state = optimizer.update(grads, checkpoint.optimizer_state, checkpoint.model)
    assert int(state.count) == 21
    before, after = by_t5x_name(checkpoint.model), optax.apply_updates(checkpoint.model, updates)
    after = by_t5x_name(after)
    prefix = "after_1_step/target/"
    expected = {n.removeprefix(prefix): x for n, x in refs.items() if n.startswith(prefix)}
    assert len(expected) == 10
    for name, value in expected.items():
        # Compared to the size of the step, not only to 1e-4.
        moved = max_difference(before[name], value)
        assert max_difference(after[name], value) <= min(TOLERANCE, 0.01 * moved), name


def test_greedy(checkpoint, refs):
    output = generate(checkpoint.model, refs["encoder_input_tokens"], max_decode_len=16)
    np.testing.assert_array_equal(output, refs["greedy_temperature0"])


def test_model_only(folder):
    loaded = load_t5x_legacy(folder, shapes_of())
    assert loaded.optimizer_state is None
    assert loaded.step == 20


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            {"mlp_dim": 256},
            ["wrong shape: target/encoder/layers_0/mlp/wo/kernel is (192, 128), the model has"],
        ),
        (
            {"num_decoder_layers": 3},
            ["missing: target/decoder/layers_2/self_attention/query/kernel"],
        ),
        (
            {"num_encoder_layers": 1, "logits_via_embedding": True},
            [
                "unexpected: target/encoder/layers_1/mlp/wi_0/kernel",
                "unexpected: target/decoder/logits_dense/kernel",
            ],
        ),
    ],
)
def test_misfits_are_listed(folder, change, lines):
    with pytest.raises(ValueError, match="does not fit this model") as caught:
        load_t5x_legacy(folder, shapes_of(dataclasses.replace(CONFIG, **change)))
    for line in lines:
        assert line in str(caught.value)


def test_incomplete_copy(folder, tmp_path):
    copy = tmp_path / "checkpoint_20"
    copy.mkdir()
    shutil.copyfile(folder / "checkpoint", copy / "checkpoint")
    with pytest.raises(FileNotFoundError, match="not copied completely"):
        read_t5x_legacy(copy)


def test_orbax_folder_is_recognised(test_data):
    with pytest.raises(FileNotFoundError, match="Orbax"):
        read_t5x_legacy(test_data / "t5x_tiny" / "scan_orbax" / "checkpoint_20")


def test_names():
    name = "decoder/layers/mlp/wi_0/kernel"
    assert t5x_names(name, 2) == [
        "decoder/layers_0/mlp/wi_0/kernel",
        "decoder/layers_1/mlp/wi_0/kernel",
    ]
    assert t5x_names("encoder/encoder_norm/scale", 2) == ["encoder/encoder_norm/scale"]
