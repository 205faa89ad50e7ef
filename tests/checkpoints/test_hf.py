"""Reading Hugging Face folders: parity with transformers, output heads, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from flan_jax.checkpoints.hf import (
    config_to_hf,
    hf_infos,
    hf_layout,
    load_hf,
    open_hf_model,
    read_safetensors,
)
from flan_jax.checkpoints.hf.folder import Folder
from flan_jax.checkpoints.hf.layout import ScaledPart
from flan_jax.checkpoints.hf.safetensors_files import SafetensorsWriter
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo
from flan_jax.decoding import generate
from flan_jax.models.architecture import abstract_parameters
from flan_jax.models.lora import LoraConfig
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config
from tests.checkpoints.hf_exports import CONFIGS, export, leaves_by_name, random_model

TOLERANCE = 1e-4
HEAD, SHARED = "lm_head.weight", "shared.weight"
WO = "decoder.block.0.layer.2.DenseReluDense.wo.weight"
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def folder(test_data) -> Path:
    return test_data / "hf_tiny_t5"


@pytest.fixture(scope="module")
def refs(folder) -> Tensors:
    with np.load(folder / "refs.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def model(folder):
    config, loaded = load_hf(folder)
    assert not config.logits_via_embedding
    assert config.mlp_activations == ("gelu", "linear")
    return loaded


def test_encoder_states(model, refs):
    tokens = refs["input_ids"].astype(np.int32)
    states = np.asarray(jax.jit(lambda m: m.encode(tokens))(model))
    real = refs["attention_mask"] > 0
    assert np.abs(states - refs["encoder_last_hidden_state"])[real].max() <= TOLERANCE


def test_logits(model, refs):
    batch = {
        "encoder_input_tokens": refs["input_ids"].astype(np.int32),
        "decoder_input_tokens": refs["decoder_input_ids"].astype(np.int32),
        "decoder_target_tokens": refs["targets"].astype(np.int32),
    }
    logits = np.asarray(jax.jit(lambda m: m(batch))(model))
    real = refs["targets"] > 0
    assert np.abs(logits - refs["logits"])[real].max() <= TOLERANCE


def test_greedy(model, refs):
    output = generate(model, refs["input_ids"].astype(np.int32), max_decode_len=16)
    np.testing.assert_array_equal(output, refs["greedy"][:, 1:])


def write_folder(folder: Path, tensors: Tensors, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    infos = {name: TensorInfo(value.shape, value.dtype) for name, value in tensors.items()}
    writer = SafetensorsWriter(folder / "model.safetensors", infos, {"format": "pt"})
    for name, value in tensors.items():
        writer.write(name, value)
    writer.close()
    return folder


@pytest.fixture
def variant(folder, tmp_path) -> Callable[..., Path]:
    """Writes a changed copy of the folder: `variant(change_tensors, **config)`."""
    tensors = read_safetensors(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())

    def write(change: Callable[[Tensors], Any] = lambda tensors: None, **changes: Any) -> Path:
        change(tensors)
        return write_folder(tmp_path, tensors, config | changes)

    return write


def states_to_logits(model: Any, states: np.ndarray) -> np.ndarray:
    return np.asarray(model.logits(states[None, None]))[0, 0]


def drop_head(tensors: Tensors) -> None:
    tensors.pop(HEAD)


def tie_head(tensors: Tensors) -> None:
    tensors[HEAD] = tensors[SHARED]


def keep(tensors: Tensors) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "config", "head", "scaled", "tied"),
    [
        # transformers 5 forces the tie flag on and writes how the head really is.
        (keep, {"tie_word_embeddings": True, "scale_decoder_outputs": False}, HEAD, False, False),
        (keep, {"scale_decoder_outputs": True}, HEAD, True, False),
        (drop_head, {"tie_word_embeddings": True}, SHARED, True, True),
        (drop_head, {"scale_decoder_outputs": False}, SHARED, False, False),
        (tie_head, {"tie_word_embeddings": True}, SHARED, True, True),
        (tie_head, {"tie_word_embeddings": False}, SHARED, False, False),
        # MT5 of transformers 5 never scales, that of 4 does where the head is tied.
        (
            drop_head,
            {"model_type": "mt5", "tie_word_embeddings": True, "transformers_version": "5.1.0"},
            SHARED,
            False,
            False,
        ),
        (drop_head, {"model_type": "mt5", "tie_word_embeddings": True}, SHARED, True, True),
        (keep, {"model_type": "mt5"}, HEAD, False, False),
    ],
)
def test_output_head(folder, variant, change, config, head, scaled, tied):
    table = read_safetensors(folder / "model.safetensors")[head]
    found, loaded = load_hf(variant(change, **config))
    assert found.logits_via_embedding == tied
    states = np.random.default_rng(0).normal(size=128).astype(np.float32)
    expected = table @ states * (128**-0.5 if scaled else 1.0)
    np.testing.assert_allclose(states_to_logits(loaded, states), expected, rtol=1e-4, atol=1e-4)


def test_notes_say_what_was_decided(variant):
    def change(tensors: Tensors) -> None:
        tensors["encoder.embed_tokens.weight"] = tensors[SHARED]
        tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = (
            np.zeros((32, 4), np.float32)
        )
        tensors[WO] = tensors[WO].astype(np.float16)

    opened = open_hf_model(variant(change, tie_word_embeddings=True, scale_decoder_outputs=False))
    notes = "\n".join(opened.notes)
    assert "lm_head.weight differs from shared.weight" in notes
    assert "encoder.embed_tokens.weight: left out (a copy of shared.weight)" in notes
    assert "EncDecAttention.relative_attention_bias.weight: left out (unused)" in notes
    assert "1 tensors cast from float16 to float32" in notes


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_cast_exactly(folder, variant, dtype):
    def halve(tensors: Tensors) -> None:
        tensors.update({name: value.astype(dtype) for name, value in tensors.items()})

    original = leaves_by_name(load_hf(folder)[1])
    found = leaves_by_name(load_hf(variant(halve))[1])
    for name, value in original.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("name", CONFIGS)
def test_layout_has_every_parameter_once(name):
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for part in hf_layout(CONFIGS[name]):
        shapes.setdefault(part.ours, []).append(part.shape)
    stacked = {
        ours: (len(found), *found[0]) if "/layers/" in ours else found[0]
        for ours, found in shapes.items()
    }
    expected = {f"params/{n}": x.shape for n, x in abstract_parameters(CONFIGS[name]).items()}
    assert stacked == expected


@pytest.mark.parametrize("name", CONFIGS)
def test_export_and_import_are_inverse(name, tmp_path):
    model = random_model(CONFIGS[name])
    export(model, tmp_path)
    config, loaded = load_hf(tmp_path)
    assert config == CONFIGS[name]
    ours, read = leaves_by_name(model), leaves_by_name(loaded)
    assert ours.keys() == read.keys()
    for parameter, value in ours.items():
        np.testing.assert_array_equal(read[parameter], value, err_msg=parameter)


def test_import_and_export_give_the_same_tensors(folder, model, tmp_path):
    export(model, tmp_path)
    ours, theirs = (read_safetensors(f / "model.safetensors") for f in (tmp_path, folder))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_bfloat16_export(tmp_path):
    model = random_model(CONFIGS["t5_v1_0"])
    export(model, tmp_path, dtype="bfloat16")
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    found = leaves_by_name(load_hf(tmp_path)[1])
    for name, value in leaves_by_name(model).items():
        rounded = value.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(found[name], rounded)


def test_scaled_parts_are_inverse():
    part = ScaledPart("a", (2, 3), "b", (3, 2), transpose=True, scale=0.25)
    value = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(part.to_ours(value), value.T * 0.25)
    np.testing.assert_array_equal(part.to_theirs(part.to_ours(value)), value)


def test_problems_are_listed(variant):
    def break_it(tensors: Tensors) -> None:
        del tensors["encoder.block.1.layer.0.SelfAttention.q.weight"]
        tensors[WO] = np.zeros((1, 2), np.float32)
        tensors["encoder.final_layer_norm.weight"] = np.zeros(128, np.int32)
        tensors["extra.weight"] = np.zeros(1, np.float32)

    with pytest.raises(CheckpointError, match=r"does not fit its config\.json \(4 ") as caught:
        load_hf(variant(break_it))
    message = str(caught.value)
    assert "missing: encoder.block.1.layer.0.SelfAttention.q.weight (64, 128)" in message
    assert f"wrong shape: {WO} is (1, 2), config.json makes it (128, 192)" in message
    assert "wrong dtype: encoder.final_layer_norm.weight is int32" in message
    assert "unexpected: extra.weight (1,)" in message


def test_separate_embeddings_are_refused(variant):
    def change(tensors: Tensors) -> None:
        tensors["decoder.embed_tokens.weight"] = tensors[SHARED] + 1

    with pytest.raises(CheckpointError, match=r"decoder\.embed_tokens\.weight differs from shared"):
        load_hf(variant(change))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mt6"}, r"model_type 'mt6' .*; did you mean 'mt5'"),
        ({"model_type": None}, "model_type None is not supported, known are t5, mt5, umt5, cohere"),
        ({"model_type": "cohere"}, r"no tensor model\.embed_tokens\.weight"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon must be 1e-06"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon must be 1e-06"),
        ({"feed_forward_proj": "gated-gelu_nwe"}, r"activation .*; did you mean 'gelu_new'"),
        ({"feed_forward_proj": "gelu"}, "activation 'gelu' of feed_forward_proj is not supported"),
        ({"dropout_rate": 1.5}, "dropout_rate must be in"),
        ({"num_layers": 0}, "num_encoder_layers must be at least 1"),
        ({"num_layers": "2"}, "num_encoder_layers must be a whole number, found '2'"),
        ({"d_model": "16"}, "json: "),
        ({"feed_forward_proj": None}, "activation 'None' of feed_forward_proj is not supported"),
        ({"dropout_rate": None}, "dropout_rate must be a number, found None"),
    ],
)
def test_unsupported_configurations(variant, config, message):
    with pytest.raises(CheckpointError, match=message):
        load_hf(variant(**config))


@pytest.mark.parametrize("name", ["d_kv", "d_model"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_missing_entry_is_named(folder, tmp_path, name, tied):
    config = json.loads((folder / "config.json").read_text())
    del config[name]
    tensors = read_safetensors(folder / "model.safetensors")
    if tied:
        tensors.pop("lm_head.weight")
    write_folder(tmp_path, tensors, config)
    with pytest.raises(CheckpointError, match=rf"config\.json has no '{name}'"):
        load_hf(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads 3; expected one key and value head"),
        ({"use_qk_norm": True}, "use_qk_norm True"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_scaling 'yarn'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
    ],
)
def test_other_cohere_models_are_refused(tmp_path, change, message):
    export(random_model(CONFIGS["palm"]), tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        open_hf_model(tmp_path)


def test_another_logit_scale_of_cohere_is_kept(tmp_path):
    model = random_model(CONFIGS["palm"])
    export(model, tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"logit_scale": 0.5}))
    config, loaded = load_hf(tmp_path)
    assert not config.logits_via_embedding
    states = np.random.default_rng(0).normal(size=32).astype(np.float32)
    expected = np.asarray(model.token_embedder.embedding.get_value()) @ states * 0.5
    np.testing.assert_allclose(states_to_logits(loaded, states), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PalmConfig(384, norm="rms"), "a PaLM with norm='rms'"),
        (PalmConfig(384, mlp_activations=("swish",)), r"mlp_activations=\('swish',\) cannot be"),
        (T5Config(384, mlp_activations=("tanh",)), r"mlp_activations \('tanh',\) cannot be"),
        (T5Config(384, mlp_activations=("gelu", "gelu")), "cannot be exported"),
    ],
)
def test_models_that_transformers_has_not(config, message):
    with pytest.raises(CheckpointError, match=message):
        config_to_hf(config)


def test_lora_must_be_merged_first():
    with pytest.raises(CheckpointError, match="merge them into the kernels"):
        hf_layout(T5Config(384, lora=LoraConfig()))


def test_missing_files(tmp_path, folder):
    with pytest.raises(CheckpointError, match="is not a folder"):
        load_hf(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_hf(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"config\.json must be a map"):
        load_hf(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        load_hf(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "model.fp16.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"no weights .* found .*model\.fp16\.safetensors"):
        load_hf(tmp_path)


def test_a_folder_in_a_bucket(folder):
    fsspec = pytest.importorskip("fsspec")
    bucket = fsspec.filesystem("memory")
    for name in ("config.json", "model.safetensors"):
        bucket.pipe(f"/bucket/model/{name}", (folder / name).read_bytes())
    local, remote = (load_hf(path)[1] for path in (folder, "memory://bucket/model"))
    for a, b in zip(jax.tree.leaves(local), jax.tree.leaves(remote), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(CheckpointError, match=r"memory://bucket/other is not a folder"):
        Folder("memory://bucket/other")


def test_infos_follow_the_layout():
    infos = hf_infos(hf_layout(CONFIGS["t5_v1_1"]), "float16")
    assert infos[HEAD] == TensorInfo((384, 32), np.dtype(np.float16))
