"""Parity with T5X's scalable_t5 on a checkpoint that T5X itself wrote through Orbax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flan_jax.checkpoints.t5x import (
    is_scanned,
    open_t5x,
    read_t5x_config,
    t5x_layout,
)
from flan_jax.decoding import generate
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.sharding import logical_axes, named_leaves
from flan_jax.train.optimizer import Adafactor
from flan_jax.train.state import TrainState
from tests.checkpoints.t5x_samples import load

TOLERANCE = 1e-4
FACTOR_AT = 64


@pytest.fixture(scope="module")
def refs(test_data) -> dict[str, np.ndarray]:
    with np.load(test_data / "t5x_tiny" / "refs_scan.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def task(test_data) -> EncoderDecoderModel:
    """The model as the checkpoint's config.gin describes it."""
    path = test_data / "t5x_tiny" / "scan_orbax" / "checkpoint_20"
    infos = open_t5x(path).infos
    config, _ = read_t5x_config(path, infos)
    assert is_scanned(infos)
    assert config.relative_attention_per_layer
    assert (config.dtype, config.dropout_rate) == ("float32", 0.0)
    return EncoderDecoderModel(config, z_loss=1e-4)


@pytest.fixture(scope="module")
def optimizer(task):
    # T5X factors kernels of scanned layers by their axes, whatever their size: here 128 x 64.
    axes = logical_axes(jax.eval_shape(task.init, jax.random.key(0)))
    return Adafactor(learning_rate=0.01, min_dim_size_to_factor=FACTOR_AT).create(None, axes)


@pytest.fixture(scope="module")
def state(task, optimizer, test_data):
    params = jax.eval_shape(task.init, jax.random.key(0))
    step = jax.ShapeDtypeStruct((), jnp.int32)
    like = TrainState(step, params, jax.eval_shape(optimizer.init, params))
    path = test_data / "t5x_tiny" / "scan_orbax" / "checkpoint_20"
    state = load(path, task.module, like, min_dim_size_to_factor=FACTOR_AT)
    assert int(state.step) == int(state.opt_state.count) == 20
    return jax.tree.map(jnp.asarray, state)


@pytest.fixture(scope="module")
def model(state):
    return state.params


@pytest.fixture(scope="module")
def batch(refs):
    return {name: x for name, x in refs.items() if name.startswith(("encoder_", "decoder_"))}


def test_logits(model, batch, refs):
    logits = np.asarray(jax.jit(lambda model: model(batch))(model))
    real = batch["decoder_target_tokens"] > 0
    assert np.abs(logits - refs["logits"])[real].max() <= TOLERANCE


def test_packed_logits(model, refs):
    packed = {k.removeprefix("packed/"): x for k, x in refs.items() if k.startswith("packed/")}
    expected = packed.pop("logits")
    logits = np.asarray(jax.jit(lambda model: model(packed))(model))
    real = packed["decoder_target_tokens"] > 0
    assert set(packed["decoder_segment_ids"].ravel()) >= {1, 2}
    assert np.abs(logits - expected)[real].max() <= TOLERANCE


@pytest.fixture(scope="module")
def loss_and_grads(task, model, batch):
    function = jax.value_and_grad(lambda model: task.loss_fn(model, batch, None), has_aux=True)
    return jax.jit(function)(model)


def compare(task, tree, refs, prefix: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ours and T5X's of each layer that the references hold, by the name there and the layer."""
    ours = {f"params/{name}": np.asarray(leaf) for name, leaf in named_leaves(tree).items()}
    pairs = {}
    for part in t5x_layout(task.module, True, optimizer=False):
        name = part.theirs.replace("target/", prefix, 1)
        if name in refs:
            value = ours[part.ours][() if part.layer is None else part.layer]
            theirs = refs[name]
            if part.their_index is not None:
                theirs = theirs.take(part.their_index, part.their_axis)
            pairs[f"{name}[{part.their_index}]"] = part.to_theirs(value), theirs
    names = {name.partition("[")[0] for name in pairs}
    assert names == {name for name in refs if name.startswith(prefix)}
    return pairs


@pytest.mark.slow
def test_loss_and_gradients(task, loss_and_grads, refs):
    (loss, _), grads = loss_and_grads
    assert abs(float(loss) - float(refs["loss"])) <= TOLERANCE
    assert abs(float(optax.global_norm(grads)) - float(refs["grad_norm"])) <= TOLERANCE
    for name, (ours, theirs) in compare(task, grads, refs, "grad/").items():
        assert np.abs(ours - theirs).max() <= TOLERANCE, name


@pytest.mark.slow
def test_parameters_after_one_adafactor_step(task, state, optimizer, loss_and_grads, refs):
    """With T5X's second moments of scanned layers, some with rows and columns swapped."""
    _, grads = loss_and_grads
    updates, _ = jax.jit(optimizer.update)(grads, state.opt_state, state.params)
    after = optax.apply_updates(state.params, updates)
    prefix = "after_1_step/target/"
    before = compare(task, state.params, refs, prefix)
    for name, (ours, theirs) in compare(task, after, refs, prefix).items():
        # Compared to the size of the step, not only to 1e-4.
        moved = np.abs(before[name][0] - theirs).max()
        assert moved > 0
        assert np.abs(ours - theirs).max() <= min(TOLERANCE, 0.01 * moved), name


@pytest.mark.slow
def test_scores_and_greedy(task, model, batch, refs):
    scores = np.asarray(jax.jit(lambda model: task.score_batch(model, batch))(model))
    assert np.abs(scores - refs["score_batch"]).max() <= TOLERANCE
    output = generate(model, refs["encoder_input_tokens"], max_decode_len=16)
    np.testing.assert_array_equal(output, refs["greedy_temperature0"])
