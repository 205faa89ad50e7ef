"""What T5X and transformers themselves decoded from checkpoints that they wrote."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from flan_jax.checkpoints.hf import load_hf
from flan_jax.checkpoints.initial import restore_params
from flan_jax.decoding import DecodeConfig, decode, generate, score
from flan_jax.decoding.t5x_names import beam_search, temperature_sample
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import PjitPartitioner

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = {
    "vocab_size": 384,
    "emb_dim": 128,
    "num_heads": 4,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "head_dim": 16,
    "mlp_dim": 192,
    "dtype": "float32",
}
LENGTH = 16


def arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as found:
        return {name: found[name] for name in found.files}


# -------------------------------------------------------------------------------------------- T5X


@pytest.fixture(scope="module", params=["t5", "scan"])
def t5x(request, test_data):
    """(model, references): the scanned checkpoint has a relative bias for each layer."""
    folder = test_data / "t5x_tiny"
    name = "t5_legacy" if request.param == "t5" else "scan_orbax"
    config = T5Config(**CONFIG, relative_attention_per_layer=request.param == "scan")
    partitioner = PjitPartitioner()
    with partitioner.use(partitioner.make_mesh(jax.devices()[:1])):
        path = str(folder / name / "checkpoint_20")
        model = restore_params(path, EncoderDecoderModel(config), partitioner)
    # Onto the device alone, without a mesh.
    return jax.device_put(jax.device_get(model)), arrays(folder / f"refs_{request.param}.npz")


@pytest.mark.slow
def test_decodes_as_t5x(t5x):
    model, refs = t5x
    inputs = refs["encoder_input_tokens"]
    four = decode(model, inputs, beam_search(LENGTH, num_decodes=4))
    np.testing.assert_array_equal(four.ids, refs["beam4"])
    np.testing.assert_allclose(four.scores, refs["beam4_scores"], atol=1e-4)
    one = decode(model, inputs, beam_search(LENGTH))
    np.testing.assert_array_equal(one.ids[:, 0], refs["greedy_beam1"])
    greedy = decode(model, inputs, temperature_sample(LENGTH))
    np.testing.assert_array_equal(greedy.ids[:, 0], refs["greedy_temperature0"])


@pytest.mark.slow
def test_scores_as_t5x(t5x):
    model, refs = t5x
    targets = refs["decoder_target_tokens"][:, None]
    scored = score(model, refs["encoder_input_tokens"], targets)
    np.testing.assert_allclose(scored.total[:, 0], refs["score_batch"], atol=1e-4)


# ----------------------------------------------------------------------------------- transformers


@pytest.fixture(scope="module")
def hf_folder(test_data) -> Path:
    return test_data / "hf_tiny_t5"


@pytest.mark.slow
def test_decodes_as_transformers_did(hf_folder):
    _, model = load_hf(hf_folder)
    refs = arrays(hf_folder / "refs.npz")
    inputs = refs["input_ids"].astype(np.int32)
    greedy = generate(model, inputs, max_decode_len=LENGTH)
    np.testing.assert_array_equal(greedy, until_eos(refs["greedy"][:, 1:]))
    config = DecodeConfig(LENGTH, method="beam", num_decodes=4, alpha=1.0, length_penalty="hf")
    beams = decode(model, inputs, config)
    np.testing.assert_array_equal(beams.best(), until_eos(refs["beam4"][:, 1:]))


def until_eos(ids: np.ndarray) -> np.ndarray:
    """The ids with 0 after the first EOS (transformers may pad with EOS)."""
    after = np.cumsum(np.cumsum(ids == 1, -1), -1) > 1
    return np.where(after, 0, ids)


SEARCHES = (
    {"num_beams": 1},
    {"num_beams": 4},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
    {"num_beams": 3, "length_penalty": 0.5, "early_stopping": "never"},
)


@pytest.fixture(scope="module")
def hf_prompts() -> np.ndarray:
    """50 prompts of 1 to 20 tokens."""
    rng = np.random.default_rng(11)
    tokens = rng.integers(2, CONFIG["vocab_size"], (50, 20)).astype(np.int32)
    tokens[np.arange(20) >= rng.integers(1, 21, (50, 1))] = 0
    return tokens


@pytest.fixture(scope="module")
def hf_outputs(hf_folder, hf_prompts, tmp_path_factory) -> dict[str, np.ndarray]:
    """What `transformers.generate` gives now, in a process of its own, by the search's number."""
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install torch transformers")
    folder = tmp_path_factory.mktemp("hf")
    np.save(folder / "prompts.npy", hf_prompts)
    done = subprocess.run(
        [
            *(sys.executable, str(Path(__file__).with_name("hf_searches.py")), str(hf_folder)),
            *(str(folder), str(LENGTH), json.dumps(SEARCHES)),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return arrays(folder / "outputs.npz")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SEARCHES)))
def test_decodes_50_prompts_as_transformers(hf_folder, hf_prompts, hf_outputs, number):
    _, model = load_hf(hf_folder)
    options = SEARCHES[number]
    beams = options["num_beams"]
    if beams == 1:
        ids = np.asarray(generate(model, hf_prompts, max_decode_len=LENGTH))[:, None]
    else:
        config = DecodeConfig(
            LENGTH,
            method="beam",
            num_decodes=beams,
            alpha=options.get("length_penalty", 1.0),
            length_penalty="hf",
            early_stopping=options.get("early_stopping", False),
        )
        decoded = decode(model, hf_prompts, config)
        ids = np.asarray(decoded.ids)[:, ::-1]
        expected = hf_outputs[f"scores_{number}"].reshape(50, beams)
        np.testing.assert_allclose(np.asarray(decoded.scores)[:, ::-1], expected, atol=1e-4)
    expected = hf_outputs[f"ids_{number}"].reshape(50, beams, LENGTH)
    np.testing.assert_array_equal(ids, until_eos(expected))
    assert len({tuple(row) for row in ids[:, 0].tolist()}) > 40
