"""What we write, as two major versions of transformers read it; and what they write, as we do.

transformers runs in a process of its own (hf_generate.py), one per version for all models.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flan_jax.checkpoints.hf import load_hf, read_hf_config
from flan_jax.data.vocabulary import ByteVocabulary, SentencePieceVocabulary
from flan_jax.decoding import generate
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config
from tests.checkpoints.hf_exports import (
    CONFIGS,
    export,
    leaves_by_name,
    load_model,
    random_model,
)

ROOT = Path(__file__).resolve().parents[2]
TRANSFORMERS_4 = ROOT / ".venv" / "transformers-4"
# Models that T5X trained for 20 steps, and its own outputs; the second is a UMT5 to transformers.
T5X = {
    "t5x_tiny": ("t5_legacy/checkpoint_20", "refs_t5.npz"),
    "t5x_scan": ("scan_orbax/checkpoint_20", "refs_scan.npz"),
}
PROMPTS, NEW_TOKENS, TOLERANCE = 50, 12, 1e-4
TEXTS = (
    "Hello world",
    "  two  spaces\nand lines\t",
    "Translate <extra_id_0> to <extra_id_1> , naïve ﬁ ½",
    "{x} < y ~ 日本 🙂 ▁a",
    "",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("transformers") is None
        or importlib.util.find_spec("torch") is None,
        reason="transformers and torch are not installed: make transformers",
    ),
]


def inputs_of(config: T5Config | PalmConfig) -> dict[str, np.ndarray]:
    """Prompts of different lengths (a decoder-only model's are of one), and decoder inputs."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(2, config.vocab_size, (PROMPTS, 16)).astype(np.int32)
    if isinstance(config, PalmConfig):
        tokens[:, 0] = 0
        return {"input_ids": tokens}
    lengths = rng.integers(1, 17, PROMPTS)
    tokens[np.arange(16) >= lengths[:, None]] = 0
    targets = rng.integers(2, config.vocab_size, (PROMPTS, 8)).astype(np.int32)
    return {"input_ids": tokens, "decoder_input_ids": np.pad(targets, ((0, 0), (1, 0)))[:, :-1]}


# Both versions of transformers are compared with the same numbers.
_KEPT: dict[tuple[str, str], np.ndarray] = {}


def our_logits(name: str, models: dict[str, Any], inputs: dict[str, np.ndarray]) -> np.ndarray:
    if ("logits", name) not in _KEPT:
        _KEPT["logits", name] = _logits(models[name], inputs)
    return _KEPT["logits", name]


def our_greedy(name: str, models: dict[str, Any], tokens: np.ndarray) -> np.ndarray:
    if ("greedy", name) not in _KEPT:
        output = generate(models[name], tokens, max_decode_len=NEW_TOKENS)
        _KEPT["greedy", name] = np.asarray(output)
    return _KEPT["greedy", name]


def _logits(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    tokens = inputs["input_ids"]
    if isinstance(model.config, PalmConfig):
        batch = {
            "decoder_input_tokens": tokens,
            "decoder_target_tokens": np.ones_like(tokens),
        }
    else:
        batch = {
            "encoder_input_tokens": tokens,
            "decoder_input_tokens": inputs["decoder_input_ids"],
            "decoder_target_tokens": np.ones_like(inputs["decoder_input_ids"]),
        }
    return np.asarray(jax.jit(lambda m: m(batch))(model))


@pytest.fixture(scope="module")
def models(test_data) -> dict[str, Any]:
    """Our models by name, random ones and three that other systems wrote."""
    found = {name: random_model(config) for name, config in CONFIGS.items()}
    found["hf_tiny_t5"] = load_hf(test_data / "hf_tiny_t5")[1]
    for name, (folder, _) in T5X.items():
        found[name] = load_model(test_data / "t5x_tiny" / folder)
    return found


@pytest.fixture(scope="module")
def exported(models, test_data, tmp_path_factory) -> Path:
    """A folder with one Hugging Face folder and one .npz of inputs a model."""
    root = tmp_path_factory.mktemp("exported")
    vocabulary = SentencePieceVocabulary(str(test_data / "t5_vocab" / "spiece.model"), 100)
    for name, model in models.items():
        options: dict[str, Any] = {}
        if name in ("t5_v1_1", "palm"):
            # Fifty times smaller than the embedding: each tensor has a shard of its own.
            options = {"vocabulary": vocabulary, "max_shard_bytes": 1000}
        if name == "t5x_tiny":
            options = {"vocabulary": ByteVocabulary(125)}
        export(model, root / name, **options)
        np.savez(root / f"{name}.npz", **inputs_of(model.config))
    for name, (_, refs) in T5X.items():
        with np.load(test_data / "t5x_tiny" / refs) as file:
            np.savez(
                root / f"{name}_refs.npz",
                input_ids=file["encoder_input_tokens"],
                decoder_input_ids=file["decoder_input_tokens"],
            )
    return root


@pytest.fixture(scope="module", params=["transformers 4", "transformers 5"])
def version(request) -> str:
    if request.param == "transformers 4" and not TRANSFORMERS_4.is_dir():
        pytest.skip(f"{TRANSFORMERS_4} does not exist: make transformers")
    return request.param


@pytest.fixture(scope="module")
def theirs(version, models, exported, tmp_path_factory) -> Path:
    """The folder with the outputs of hf_generate.py on every model."""
    folder = tmp_path_factory.mktemp(version.replace(" ", "_"))
    jobs = [
        {
            "folder": str(exported / name),
            "inputs": str(exported / f"{name}.npz"),
            "output": str(folder / f"{name}.npz"),
            "max_new_tokens": NEW_TOKENS,
            "save_as": str(folder / name),
            "max_shard_size": "20KB",
            **({"texts": TEXTS} if name in ("t5_v1_1", "palm", "t5x_tiny") else {}),
        }
        for name in models
    ]
    jobs += [
        {
            "folder": str(exported / name),
            "inputs": str(exported / f"{name}_refs.npz"),
            "output": str(folder / f"{name}_refs.npz"),
            "max_new_tokens": 16,
        }
        for name in T5X
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if version == "transformers 4":
        environment["PYTHONPATH"] = str(TRANSFORMERS_4)
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "checkpoints" / "hf_generate.py", folder / "jobs.json"],
        env=environment | {"USE_TF": "0", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().split(".")[0] == version[-1]
    return folder


NAMES = [*CONFIGS, "hf_tiny_t5", *T5X]


@pytest.mark.parametrize("name", NAMES)
def test_logits(name, models, exported, theirs):
    with np.load(exported / f"{name}.npz") as file:
        inputs = dict(file)
    with np.load(theirs / f"{name}.npz") as file:
        expected = file["logits"]
    logits = our_logits(name, models, inputs)
    assert np.abs(expected).max() > 0.5
    assert np.abs(logits - expected).max() <= TOLERANCE


# Each costs a compilation; the others differ from these in ways that logits show.
@pytest.mark.parametrize("name", ["t5_v1_0", "umt5", "palm", "hf_tiny_t5", "t5x_tiny"])
def test_greedy_output_of_50_prompts(name, models, exported, theirs):
    with np.load(exported / f"{name}.npz") as file:
        tokens = file["input_ids"]
    with np.load(theirs / f"{name}.npz") as file:
        expected = file["greedy"]
    assert len(expected) == PROMPTS
    assert len(np.unique(expected, axis=0)) > 1
    prompts = tokens[:, 1:] if name == "palm" else tokens
    output = our_greedy(name, models, prompts)
    np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("name", T5X)
def test_transformers_computes_what_t5x_does(name, theirs, test_data):
    """From T5X's checkpoint through ours to Hugging Face's, and there T5X's numbers."""
    with np.load(test_data / "t5x_tiny" / T5X[name][1]) as file:
        refs = dict(file)
    with np.load(theirs / f"{name}_refs.npz") as file:
        logits, greedy = file["logits"], file["greedy"]
    real = refs["decoder_target_tokens"] > 0
    assert np.abs(logits - refs["logits"])[real].max() <= TOLERANCE
    np.testing.assert_array_equal(greedy, refs["greedy_temperature0"])


@pytest.mark.parametrize("name", NAMES)
def test_what_transformers_saves_again_is_the_same_model(name, models, theirs):
    config, loaded = load_hf(theirs / name)
    assert config == models[name].config
    ours, read = leaves_by_name(models[name]), leaves_by_name(loaded)
    assert ours.keys() == read.keys()
    for parameter, value in ours.items():
        np.testing.assert_array_equal(read[parameter], value, err_msg=parameter)


@pytest.mark.parametrize("name", ["t5_v1_1", "palm", "t5x_tiny"])
def test_tokenizer(name, theirs, test_data):
    found = json.loads((theirs / f"{name}.npz.json").read_text())
    sentences = SentencePieceVocabulary(str(test_data / "t5_vocab" / "spiece.model"), 100)
    vocabulary = ByteVocabulary(125) if name == "t5x_tiny" else sentences
    # A byte vocabulary knows no sentinels in text; transformers' does.
    for text, ids in zip(TEXTS, found["ids"], strict=True):
        if name == "t5x_tiny" and "<extra_id_" in text:
            continue
        inner = vocabulary.encode(text)
        assert ids == ([0, *inner] if name == "palm" else [*inner, 1]), (text, found)


def test_the_tie_flag_of_transformers_5_is_false(version, theirs):
    """The trap this module is about; if this fails, transformers has mended it."""
    config = read_hf_config(theirs / "t5_v1_1")
    assert config["tie_word_embeddings"] is (version == "transformers 5")
