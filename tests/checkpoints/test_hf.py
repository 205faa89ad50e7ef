"""Parity with transformers on a checkpoint that it wrote; the cases of the output head."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from flan_jax.checkpoints.hf import load_hf, read_safetensors
from flan_jax.decoding import generate

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(test_data) -> Path:
    return test_data / "hf_tiny_t5"


@pytest.fixture(scope="module")
def refs(folder) -> dict[str, np.ndarray]:
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


def write_safetensors(file: Path, tensors: dict[str, np.ndarray]) -> None:
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    data = b"".join(np.ascontiguousarray(tensor).tobytes() for tensor in tensors.values())
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def variant(folder, tmp_path):
    """Writes a changed copy of the folder: `variant(change_tensors, **config)`."""
    tensors = {
        name: np.asarray(x) for name, x in read_safetensors(folder / "model.safetensors").items()
    }
    config = json.loads((folder / "config.json").read_text())

    def write(change=lambda tensors: None, **changes):
        change(tensors)
        config.update(changes)
        (tmp_path / "config.json").write_text(json.dumps(config))
        write_safetensors(tmp_path / "model.safetensors", tensors)
        return tmp_path

    return write


def states_to_logits(model, states):
    return np.asarray(model.logits(states[None, None]))[0, 0]


def drop_head(tensors):
    tensors.pop("lm_head.weight")


def tie_head(tensors):
    tensors["lm_head.weight"] = tensors["shared.weight"]


@pytest.mark.parametrize(
    ("change", "config", "head", "scaled"),
    [
        # transformers 5 forces the tie flag on and writes how the head really is.
        (
            lambda t: None,
            {"tie_word_embeddings": True, "scale_decoder_outputs": False},
            "lm_head.weight",
            False,
        ),
        (lambda t: None, {"scale_decoder_outputs": True}, "lm_head.weight", True),
        (drop_head, {"tie_word_embeddings": True}, "shared.weight", True),
        (drop_head, {"scale_decoder_outputs": False}, "shared.weight", False),
        (tie_head, {"tie_word_embeddings": True}, "shared.weight", True),
        (tie_head, {"tie_word_embeddings": False}, "shared.weight", False),
    ],
)
def test_output_head(folder, variant, change, config, head, scaled):
    table = np.asarray(read_safetensors(folder / "model.safetensors")[head])
    _, loaded = load_hf(variant(change, **config))
    states = np.random.default_rng(0).normal(size=128).astype(np.float32)
    expected = table @ states * (128**-0.5 if scaled else 1.0)
    np.testing.assert_allclose(states_to_logits(loaded, states), expected, rtol=1e-4, atol=1e-4)


def test_shards(folder, tmp_path):
    tensors = read_safetensors(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map = {}
    for part, group in enumerate((names[::2], names[1::2])):
        file = f"model-{part}.safetensors"
        write_safetensors(tmp_path / file, {name: tensors[name] for name in group})
        weight_map |= dict.fromkeys(group, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    whole, sharded = load_hf(folder)[1], load_hf(tmp_path)[1]
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(sharded), strict=True):
        np.testing.assert_array_equal(a, b)


def test_problems_are_listed(variant):
    def break_it(tensors):
        del tensors["encoder.block.1.layer.0.SelfAttention.q.weight"]
        tensors["decoder.block.0.layer.2.DenseReluDense.wo.weight"] = np.zeros((1, 2), np.float32)
        tensors["extra.weight"] = np.zeros(1, np.float32)

    with pytest.raises(ValueError, match="not a T5 that we can read") as caught:
        load_hf(variant(break_it))
    message = str(caught.value)
    assert "missing: encoder.block.1.layer.0.SelfAttention.q.weight" in message
    assert "wrong shape: decoder.block.0.layer.2.DenseReluDense.wo.weight gives (2, 1)" in message
    assert "unexpected: extra.weight" in message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bart"}, "model_type"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon"),
        ({"feed_forward_proj": "gated-relu6"}, "activation"),
    ],
)
def test_unsupported_configurations(variant, config, message):
    with pytest.raises(ValueError, match=message):
        load_hf(variant(**config))


def test_missing_files(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_hf(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_hf(tmp_path)
