"""Train states made of checkpoints: whole, in part, by assignment maps, with fresh adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from flan_jax.checkpoints.convert import Options, convert
from flan_jax.checkpoints.initial import (
    check_initial,
    resolve_path,
    restore_initial,
    restore_params,
)
from flan_jax.checkpoints.manager import RestoreCheckpointConfig
from flan_jax.checkpoints.tensors import CheckpointError
from flan_jax.checkpoints.vocabulary_record import describe_vocabulary
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.lora import LoraConfig
from flan_jax.sharding import PjitPartitioner, logical_axes, named_leaves, with_shardings
from flan_jax.train.optimizer import Adafactor
from flan_jax.train.state import TrainState
from tests.checkpoints.tiny_models import CONFIG, make_arrays, write_own

FRESH = 0.25  # what is made afresh holds this
ARRAYS = make_arrays()
WO = "encoder/layers/mlp/wo/kernel"


def abstract_state(config=CONFIG, optimizer: Any = None) -> TrainState:
    model = EncoderDecoderModel(config)
    partitioner = PjitPartitioner()
    mesh = partitioner.make_mesh(jax.devices()[:1])
    params = jax.eval_shape(model.init, jax.random.key(0))
    axes = logical_axes(params)
    optimizer = optimizer or Adafactor(1e-3)
    state = jax.eval_shape(optimizer.create(None, axes).init, params)
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    step: Any = jax.ShapeDtypeStruct((), np.int32, sharding=replicated)
    return TrainState(
        step,
        with_shardings(params, partitioner.shardings(axes, mesh, params)),
        with_shardings(state, jax.tree.map(lambda _: replicated, state)),
    )


def restore(path: Path | str, config=CONFIG, vocabulary=None, optimizer=None, **settings):
    """What `restore_initial` gives, by name, and the names of what it had made afresh."""
    abstract, made = abstract_state(config, optimizer), []

    def fresh(names: Collection[str]) -> dict[str, jax.Array]:
        made.extend(names)
        leaves = named_leaves(abstract)
        return {
            name: jax.device_put(np.full(leaves[name].shape, FRESH, leaves[name].dtype))
            for name in names
        }

    model = EncoderDecoderModel(config, input_vocabulary=vocabulary)
    found = restore_initial(str(path), model, abstract, RestoreCheckpointConfig(**settings), fresh)
    state = TrainState(**found)
    assert jax.tree.structure(state) == jax.tree.structure(abstract)
    return {name: np.asarray(leaf) for name, leaf in named_leaves(state).items()}, made


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own(tmp_path_factory.mktemp("model") / "checkpoint_7", ARRAYS)


def check(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in expected.items():
        assert found[name].dtype == np.float32 or not name.startswith("params/")
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("to", ["orbax", "hf", "t5x"])
def test_all_formats_give_the_same_parameters(ours: Path, tmp_path: Path, to: str):
    convert(str(ours), str(tmp_path / "out"), Options(to))
    found, made = restore(tmp_path / "out")
    check(found, {name: x for name, x in ARRAYS.items() if name != "step"})
    assert found["step"] == (0 if to == "hf" else 7)
    assert ("step" in made) == (to == "hf")
    assert not any(name.startswith("params/") for name in made)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (dataclasses.replace(CONFIG, mlp_dim=32), {}, "mlp_dim: 24 in the checkpoint, 32 in the m"),
        (CONFIG, {"assignment_map": [("target/nothing", None)]}, "match no whole name"),
        (CONFIG, {"assignment_map": [(r"target/.*/mlp/wo/kernel", "target/x")]}, "does not hold"),
    ],
)
def test_headers_alone_say_that_it_does_not_fit(ours: Path, config, settings, message):
    """What a dry run checks."""
    model, abstract = EncoderDecoderModel(config), abstract_state(config)
    with pytest.raises(CheckpointError, match=message):
        check_initial(str(ours), model, abstract, RestoreCheckpointConfig(**settings))
    check_initial(str(ours), EncoderDecoderModel(CONFIG), abstract_state())


def test_optimizer_state_of_t5x_goes_on(test_data: Path):
    config = dataclasses.replace(
        CONFIG,
        vocab_size=384,
        emb_dim=128,
        num_heads=4,
        num_decoder_layers=2,
        head_dim=16,
        mlp_dim=192,
    )
    path = test_data / "t5x_tiny/t5_legacy/checkpoint_20"
    found, made = restore(path, config)
    assert made == []
    assert found["step"] == found["opt_state/count"] == 20
    assert np.abs(found["opt_state/v_row/token_embedder/embedding"]).max() > 0


def test_an_optimizer_that_does_not_fit_begins_anew_and_says_so(ours: Path, tmp_path: Path, capsys):
    extra = {
        f"opt_state/{slot}/{name.removeprefix('params/')}": np.zeros((3, 5), np.float32)
        for name in ARRAYS
        for slot in ("v_row", "v_col", "v", "m")
        if name == "params/token_embedder/embedding"
    }
    path = write_own(tmp_path / "checkpoint_7", ARRAYS | extra)
    found, made = restore(path)
    assert "opt_state/v/token_embedder/embedding" in made
    assert "the optimizer's state in" in (err := capsys.readouterr().err)
    assert "begins anew: it has no" in err or "in the configured optimizer" in err
    check(found, ARRAYS)
    restore(ours)
    assert capsys.readouterr().err == ""  # no news of a checkpoint without one


def test_a_map_to_none_keeps_fresh_values(ours: Path):
    rules = [
        (r"target/decoder/logits_dense/kernel", None),
        (r"target/encoder/layers_1/mlp/wo/kernel", None),
        (r"target/decoder/layers_(\d)/mlp/wo/kernel", r"target/encoder/layers_0/mlp/wo/kernel"),
    ]
    found, made = restore(ours, assignment_map=rules)
    assert [name for name in made if name.startswith("params/")] == [
        "params/decoder/logits_dense/kernel",
        f"params/{WO}",
    ]
    assert np.all(found["params/decoder/logits_dense/kernel"] == FRESH)
    assert np.all(found[f"params/{WO}"][1] == FRESH)
    source = ARRAYS[f"params/{WO}"][0]
    np.testing.assert_array_equal(found[f"params/{WO}"][0], source)
    for layer in found["params/decoder/layers/mlp/wo/kernel"]:
        np.testing.assert_array_equal(layer, source)
    name = "params/token_embedder/embedding"
    np.testing.assert_array_equal(found[name], ARRAYS[name])


def test_a_model_of_other_sizes_takes_what_fits(ours: Path):
    shallow = dataclasses.replace(CONFIG, num_decoder_layers=2, logits_via_embedding=True)
    with pytest.raises(CheckpointError, match="num_decoder_layers: 3 in the checkpoint, 2 in the"):
        restore(ours, shallow)
    rules = [("target/token_embedder/.*", None)]
    with pytest.raises(CheckpointError) as raised:
        restore(ours, shallow, assignment_map=rules)
    assert "decoder/logits_dense/kernel is not in the model (strict = False" in str(raised.value)
    found, _ = restore(ours, shallow, assignment_map=rules, strict=False)
    assert np.all(found["params/token_embedder/embedding"] == FRESH)
    wide = dataclasses.replace(CONFIG, mlp_dim=32)
    with pytest.raises(CheckpointError, match=r"\(24, 16\) in the checkpoint, \(32, 16\) in the"):
        restore(ours, wide, assignment_map=rules)


def test_what_a_checkpoint_lacks_is_made_only_on_demand(ours: Path):
    deep = dataclasses.replace(CONFIG, num_decoder_layers=4)
    rules = [("target/token_embedder/embedding", "target/token_embedder/embedding")]
    with pytest.raises(CheckpointError, match=r"\(layer 3\) is missing in the checkpoint \(an ass"):
        restore(ours, deep, assignment_map=rules)
    found, made = restore(ours, deep, assignment_map=rules, fallback_to_scratch=True)
    name = "params/decoder/layers/mlp/wo/kernel"
    np.testing.assert_array_equal(found[name][:3], ARRAYS[name])
    assert np.all(found[name][3] == FRESH)
    assert name in made


def test_adapters_are_fresh_on_a_plain_base(ours: Path):
    config = dataclasses.replace(CONFIG, lora=LoraConfig(rank=2))
    found, made = restore(ours, config)
    params = [name for name in made if name.startswith("params/")]
    assert params and all("lora_" in name for name in params)
    check(found, ARRAYS)


def test_a_model_without_adapters_reads_merged_ones(tmp_path: Path):
    config = dataclasses.replace(CONFIG, lora=LoraConfig(rank=2, alpha=2.0))
    arrays = make_arrays(config)
    path = write_own(tmp_path / "checkpoint_7", arrays, config)
    found, _ = restore(path)
    name = "params/encoder/layers/attention/query/kernel"
    a, b = (arrays[name.replace("kernel", each)] for each in ("lora_a", "lora_b"))
    np.testing.assert_allclose(found[name], arrays[name] + a @ b, rtol=0, atol=1e-5)
    check(restore(path, config)[0], arrays)


def test_rounding(ours: Path):
    name = "params/token_embedder/embedding"
    found, _ = restore(ours, dtype="bfloat16")
    rounded = ARRAYS[name].astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found[name], rounded)
    with pytest.raises(Exception, match="dtype must be 'float32' or 'bfloat16', found 'half'"):
        RestoreCheckpointConfig(dtype="half")


def test_another_vocabulary_is_refused(tmp_path: Path, ours: Path):
    record = {"type": "sentencepiece", "file": "/x/a.model", "sha256": "0" * 64, "extra_ids": 100}
    path = write_own(tmp_path / "checkpoint_7", ARRAYS, vocabulary=record)
    with pytest.raises(CheckpointError, match="was trained with the vocabulary of sentencepiece"):
        restore(path, vocabulary=ByteVocabulary())
    restore(path, vocabulary=ByteVocabulary(), strict=False)
    restore(ours, vocabulary=ByteVocabulary())  # which does not say
    same = describe_vocabulary(ByteVocabulary(100))
    path = write_own(tmp_path / "checkpoint_8", ARRAYS, vocabulary=same)
    restore(path, vocabulary=ByteVocabulary())


def test_parameters_alone_must_all_be_there(ours: Path):
    partitioner = PjitPartitioner()
    with partitioner.use(partitioner.make_mesh(jax.devices()[:1])):
        params = restore_params(str(ours), EncoderDecoderModel(CONFIG), partitioner)
        check(
            {f"params/{n}": np.asarray(x) for n, x in named_leaves(params).items()},
            {name: x for name, x in ARRAYS.items() if name != "step"},
        )
        rules = RestoreCheckpointConfig(assignment_map=[("target/token_embedder/.*", None)])
        with pytest.raises(CheckpointError, match="embedding is missing in the checkpoint"):
            restore_params(str(ours), EncoderDecoderModel(CONFIG), partitioner, rules)


def test_a_folder_of_one_checkpoint_stands_for_it(ours: Path):
    assert resolve_path(RestoreCheckpointConfig(str(ours.parent))) == str(ours)
    assert resolve_path(RestoreCheckpointConfig("hf://a/b")) == "hf://a/b"
