"""Frozen parameters: bit-identical after steps, no gradients, no optimizer state; LoRA runs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from flan_jax.errors import UserError
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.lora import LoraConfig, is_adapter
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import logical_axes, named_leaves
from flan_jax.train.optimizer import Adafactor
from flan_jax.train.state import TrainState
from flan_jax.train.step import Trainer, make_train_step
from tests.tiny_runs import FAST_COMPILE, ROOT, losses
from tests.train.test_step import CONFIG, TASKS, packed_batch

LORA_CONFIG = dataclasses.replace(CONFIG, lora=LoraConfig(2))
T5_SMALL = T5Config(
    vocab_size=32128,
    emb_dim=512,
    num_heads=6,
    num_encoder_layers=8,
    num_decoder_layers=8,
    head_dim=64,
    mlp_dim=1024,
    mlp_activations=("gelu", "linear"),
)


def shapes_of(config: T5Config):
    return jax.eval_shape(EncoderDecoderModel(config).init, jax.random.key(0))


def abstract_run(config: T5Config, trainer: Trainer):
    """(train step, shapes of the state it starts with)."""
    definition = Adafactor(learning_rate=0.05, multiply_by_parameter_scale=False)
    model = EncoderDecoderModel(config, optimizer_def=definition)
    params = shapes_of(config)
    selected = trainer.select(params)
    optimizer = definition.create(None, selected.of(logical_axes(params)))
    step = make_train_step(model, optimizer, trainer, jax.random.key(1), TASKS)
    opt_state = jax.eval_shape(optimizer.init, selected.of(params))
    count = jax.ShapeDtypeStruct((), np.int32)
    return step, TrainState(count, selected.stored(params), opt_state)  # pyright: ignore[reportArgumentType]


def filled(abstract: TrainState) -> TrainState:
    """Random parameters, and zeros for what begins at zero."""
    rng = np.random.default_rng(0)

    def leaf(name: str, shape: jax.ShapeDtypeStruct) -> jax.Array:
        zero = not name.startswith("params/") or name.endswith("lora_b")
        value = np.zeros(shape.shape) if zero else rng.normal(size=shape.shape) * 0.3
        return jax.numpy.asarray(value, shape.dtype)

    leaves = [leaf(name, shape) for name, shape in named_leaves(abstract).items()]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def bytes_of(tree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in named_leaves(tree).values())


def after_steps(config: T5Config, trainer: Trainer, steps: int = 2):
    """(parameters before, after, last metrics), by name."""
    step, abstract = abstract_run(config, trainer)
    state = filled(abstract)
    before, function = named_leaves(state.params), jax.jit(step)
    for _ in range(steps):
        state, metrics = function(state, packed_batch())
    return before, named_leaves(state.params), metrics


def changed(before, after) -> set[str]:
    return {name for name, x in before.items() if not np.array_equal(x, after[name])}


@pytest.mark.slow
def test_only_adapters_move_and_microbatches_sum_to_the_batch():
    before, after, metrics = after_steps(LORA_CONFIG, Trainer())
    adapters = {name for name in before if is_adapter(name)}
    assert len(adapters) == 12
    assert changed(before, after) == adapters
    assert list(before) == list(after)
    _, parts, of_parts = after_steps(LORA_CONFIG, Trainer(num_microbatches=4))
    for name, value in after.items():
        np.testing.assert_allclose(parts[name], value, rtol=0, atol=2e-5, err_msg=name)
    np.testing.assert_allclose(of_parts["grad_norm"], metrics["grad_norm"], rtol=1e-4)


@pytest.mark.slow
def test_patterns_and_bfloat16():
    trainer = Trainer(
        trainable=("decoder/.*", "token_embedder/.*"),
        frozen=(".*/mlp/.*", ".*norm/scale"),
        frozen_dtype="bfloat16",
    )
    before, after, metrics = after_steps(CONFIG, trainer)
    attention = {n for n in before if n.startswith("decoder/layers/") and "attention/" in n}
    rest = {"decoder/logits_dense/kernel", "decoder/relpos_bias/rel_embedding"}
    assert changed(before, after) == attention | rest | {"token_embedder/embedding"}
    for name, value in after.items():
        trained = name in changed(before, after)
        assert value.dtype == (np.float32 if trained else jax.numpy.bfloat16), name
    assert np.isfinite(metrics["loss"])


def test_precedence_of_patterns():
    plain, lora = shapes_of(CONFIG), shapes_of(LORA_CONFIG)
    everything, adapters = set(named_leaves(plain)), set(filter(is_adapter, named_leaves(lora)))
    scales = {name for name in everything if name.endswith("/scale")}
    assert Trainer().select(plain).names == everything
    assert Trainer().select(lora).names == adapters
    assert Trainer(trainable=()).select(lora).names == adapters
    assert Trainer(trainable=".*/scale").select(plain).names == scales
    assert Trainer(trainable=".*/scale").select(lora).names == adapters | scales
    assert Trainer(trainable=".*").select(lora).names == adapters | everything
    frozen = Trainer(frozen="encoder/.*").select(lora).names
    assert frozen == {name for name in adapters if name.startswith("decoder/")}
    assert Trainer(trainable=".*/scale", frozen=(".*/scale", "nothing|decoder/.*")).select(
        lora
    ).names == {name for name in adapters if name.startswith("encoder/")}


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (
            lambda: Trainer(frozen=("token_embeder/embedding",)),
            r"frozen: 'token_embeder/embedding' matches no parameter's whole name; did you mean "
            r"'token_embedder/embedding'",
        ),
        (lambda: Trainer(trainable=("embedding",)), "trainable: 'embedding' matches no parameter"),
        (lambda: Trainer(frozen=(".*",)), "leave no parameter to be trained"),
        (lambda: Trainer(frozen=("(",)), "no regular expression"),
        (lambda: Trainer(frozen_dtype="bfloat"), "did you mean 'bfloat16'"),
    ],
)
def test_mistakes_in_patterns(trainer, message):
    with pytest.raises(UserError, match=message):
        trainer().select(shapes_of(CONFIG))


def test_parts_of_trees_go_back_to_their_places():
    params = filled(abstract_run(LORA_CONFIG, Trainer())[1]).params
    selected = Trainer().select(params)
    part = selected.of(params)
    assert set(named_leaves(part)) == selected.names
    doubled = selected.put(params, jax.tree.map(lambda x: 2 * x + 1, part))
    assert jax.tree.structure(doubled) == jax.tree.structure(params)
    for name, value in named_leaves(doubled).items():
        x = named_leaves(params)[name]
        np.testing.assert_array_equal(value, 2 * x + 1 if name in selected.names else x)


def test_memory_of_a_small_t5():
    """Gradients, optimizer state and parameters, as shapes: what docs/lora.md says."""
    lora = dataclasses.replace(T5_SMALL, lora=LoraConfig(16))
    _, full = abstract_run(T5_SMALL, Trainer())
    _, adapted = abstract_run(lora, Trainer(frozen_dtype="bfloat16"))
    trained = Trainer().select(adapted.params).of(adapted.params)
    count = bytes_of(trained) // 4
    # Query and value of 3 blocks in 8 layers: 16 * (512 + 384) elements each.
    assert count == 3 * 8 * 2 * 16 * (512 + 384) == 688_128
    base = bytes_of(full.params)
    assert base == 76_961_152 * 4
    assert bytes_of(adapted.params) == base // 2 + 4 * count
    assert set(named_leaves(adapted.opt_state.v)) == set(named_leaves(trained))
    # Adafactor is small already: only parameters below 128 in a dimension are not factored, and
    # every adapter is one.
    assert bytes_of(adapted.opt_state.v) == 4 * count


def matmul_flops(jaxpr) -> int:
    """Floating-point operations of all matrix products, each layer of a scan counted."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            summed = math.prod(left[dim] for dim in contracted)
            total += 2 * summed * math.prod(equation.outvars[0].aval.shape)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                total += times * matmul_flops(inner) if hasattr(inner, "eqns") else 0
    return total


def test_frozen_kernels_cost_no_gradients():
    """Of the three products of a kernel (forward, and two gradients) only two are left."""

    def flops(config: T5Config) -> int:
        step, state = abstract_run(config, Trainer())
        return matmul_flops(jax.make_jaxpr(step)(state, packed_batch()).jaxpr)

    # Wide, so that kernels outweigh attention, with the thinnest of adapters.
    wide = dataclasses.replace(CONFIG, emb_dim=64, mlp_dim=512, vocab_size=512)
    lora = dataclasses.replace(wide, lora=LoraConfig(1))
    assert 2 / 3 < flops(lora) / flops(wide) < 0.7


@pytest.fixture(scope="module")
def sharded():
    flags = f"{FAST_COMPILE} --xla_force_host_platform_device_count=8"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "sharded_lora.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["t5", "palm"])
def test_eight_devices_train_adapters_as_one(sharded, kind):
    one, eight = sharded[kind]["1x1x1"], sharded[kind]["2x2x2"]
    assert np.ptp(one["losses"]) > 0.05
    np.testing.assert_allclose(eight["losses"], one["losses"], rtol=0, atol=2e-5)
    assert one["moved"] == eight["moved"] == []
    assert one["frozen_kept"]
    assert eight["frozen_kept"]
    for name, values in one["adapters"].items():
        assert np.any(values), name
        np.testing.assert_allclose(eight["adapters"][name], values, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(eight["merged"], one["merged"], atol=1e-4)
    assert eight["layout_of_merged"] == "P(None, 'tensor', 'fsdp')"


LORA_FLAGS = ("--gin_file=runs/quickstart.gin", "--gin_file=lora/default.gin")


@pytest.mark.slow
def test_lora_from_the_shipped_base_model(runner, tmp_path):
    """Loss falls; a run in two halves gives the same bits; the base stays as it was."""

    def train(folder, steps: int, code: int = 0, **more):
        macros = {
            "MODEL_DIR": repr(str(folder)),
            "EVAL_OUTPUT_DIR": "'unused'",
            "TRAIN_STEPS_RELATIVE": steps,
            "BATCH_SIZE": 8,
            "LEARNING_RATE": 0.01,
            **more,
        }
        flags = [f"--gin.{name}={value}" for name, value in macros.items()]
        ended = runner.run("train", *LORA_FLAGS, *flags, "--gin.train.stats_period=3")
        assert ended.code == code, ended.err
        return ended

    whole = train(tmp_path / "whole", 12)
    assert "optimizer's state" in whole.err
    assert "begins anew" in whole.err
    seen = losses(tmp_path / "whole")
    assert seen[1512] < seen[1503] - 0.5
    train(tmp_path / "halves", 6)
    other = train(tmp_path / "halves", 12, LORA_ALPHA=8.0, code=2)
    assert "alpha / rank is 1.0 in the checkpoint, 0.5 in the model" in other.err
    assert train(tmp_path / "halves", 12).hash == whole.hash
