"""Dimensions from T5X's config.gin, or from the tensors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gin
import pytest

from flan_jax.checkpoints import t5x
from flan_jax.checkpoints.tensors import CheckpointError
from flan_jax.models.t5 import T5Config
from tests.checkpoints.t5x_samples import SHARED

INFOS, _ = t5x.layout_infos(t5x.t5x_layout(SHARED, False, optimizer=False))


def read(folder: Path, text: str | None):
    checkpoint = folder / "checkpoint_7"
    checkpoint.mkdir(exist_ok=True)
    if text is not None:
        (folder / "config.gin").write_text(text)
    return t5x.read_t5x_config(checkpoint, INFOS)


@pytest.mark.parametrize(("name", "per_layer"), [("t5_legacy", False), ("scan_orbax", True)])
def test_configs_that_t5x_wrote(test_data, name, per_layer):
    path = test_data.resolve() / "t5x_tiny" / name / "checkpoint_20"
    config, notes = t5x.read_t5x_config(path, t5x.open_t5x(path).infos)
    assert config == T5Config(
        vocab_size=384,
        emb_dim=128,
        num_heads=4,
        num_encoder_layers=2,
        num_decoder_layers=2,
        head_dim=16,
        mlp_dim=192,
        mlp_activations=("gelu", "linear"),
        dropout_rate=0.0,
        dtype="float32",
        relative_attention_per_layer=per_layer,
    )
    assert notes == (f"sizes from {path.parent}/config.gin",)


def test_macros_scopes_blocks_and_continuation_lines(tmp_path):
    config, notes = read(
        tmp_path,
        """
from __gin__ import dynamic_registration
import __main__ as train_script
from t5x.examples.t5 import network
from somewhere.not_installed import thing

HEADS = 2
MODEL_HEADS = %HEADS
RATE = %LOOP
LOOP = %RATE
DEPTH/macro.value = 3
ACTIVATIONS = \\
    ('gelu', 'linear')
network.T5Config.num_heads = 99
network.T5Config.num_heads = %MODEL_HEADS
t5x.examples.t5.network.T5Config.num_decoder_layers = %DEPTH
other/network.T5Config.emb_dim = 99
big/network.T5Config.dropout_rate = 0.25
network.T5Config.dropout_rate = 0.5
network.T5Config:
    mlp_activations = %ACTIVATIONS
    dtype = @jnp.bfloat16
network.Transformer.config = @big/network.T5Config()
thing.Other.emb_dim = 5
""",
    )
    assert config == dataclasses.replace(SHARED, dtype="bfloat16", dropout_rate=0.25)
    assert notes == (f"sizes from {tmp_path}/config.gin",)


def test_what_is_no_plain_value_is_taken_from_the_tensors(tmp_path):
    config, notes = read(
        tmp_path,
        "include 'base.gin'\n"
        "network.T5Config.vocab_size = @vocab_size()\n"
        "network.T5Config.dropout_rate = %DROPOUT_RATE\n"
        "network.T5Config.dtype = 'float32'\n"
        "network.T5Config.mlp_activations = ['gelu', 'linear']\n",
    )
    assert config == dataclasses.replace(SHARED, dropout_rate=0.1)
    file = tmp_path / "config.gin"
    assert notes == (
        f"sizes from {file}",
        f"{file}:1: include 'base.gin' was not followed",
        f"{file}:2: vocab_size = @vocab_size() is not a plain value",
        f"{file}:3: dropout_rate = %DROPOUT_RATE is not a plain value",
        "dropout_rate = 0.1 is assumed: only a config.gin would say it",
    )


@pytest.mark.parametrize("text", [None, "Z_LOSS = 0.0001\n"])
def test_without_config(tmp_path, text):
    config, notes = read(tmp_path, text)
    assert config == dataclasses.replace(SHARED, dropout_rate=0.1)
    assert "sizes from the tensors" in notes[0]
    assert [note.partition(" = ")[0] for note in notes[1:]] == [
        "dropout_rate",
        "dtype",
        "mlp_activations",
    ]


@pytest.mark.parametrize(
    ("change", "activations"),
    [
        ({"mlp_activations": ("relu",), "logits_via_embedding": True}, ("relu",)),
        ({"relative_attention_per_layer": True}, ("gelu", "linear")),
    ],
)
def test_other_architectures_from_tensors(tmp_path, change, activations):
    config = dataclasses.replace(SHARED, **change)
    per_layer = config.relative_attention_per_layer
    infos, _ = t5x.layout_infos(t5x.t5x_layout(config, per_layer, optimizer=False))
    found = t5x.read_t5x_config(tmp_path / "checkpoint_7", infos).config
    assert found == dataclasses.replace(config, dropout_rate=0.1)
    assert found.mlp_activations == activations


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("network.T5Config.emb_dim = 32", "emb_dim is 32 in {file}, 16 in the tensors"),
        ("network.T5Config.num_heads = 5", "num_heads is 5 in {file}, 2 in the tensors"),
        ("network.T5Config.num_decoder_layers = 2", "num_decoder_layers is 2 in {file}, 3 in"),
        ("network.T5Config.mlp_activations = ('relu',)", "mlp_activations are ('relu',) in {file}"),
        ("network.T5Config.logits_via_embedding = True", "logits_via_embedding is True in {file}"),
    ],
)
def test_contradictions(tmp_path, line, problem):
    with pytest.raises(CheckpointError, match="and its configuration differ") as caught:
        read(tmp_path, line)
    assert problem.format(file=tmp_path / "config.gin") in str(caught.value)


def test_values_that_the_model_refuses(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.gin: .*dropout_rate"):
        read(tmp_path, "network.T5Config.dropout_rate = 1.5\n")


def test_not_a_t5(tmp_path):
    with pytest.raises(CheckpointError, match="is not a T5's checkpoint: it has no target/"):
        t5x.read_t5x_config(tmp_path, {})


@pytest.mark.parametrize("per_layer", [False, True])
def test_written_config_is_read_back(tmp_path, per_layer):
    config = dataclasses.replace(SHARED, relative_attention_per_layer=per_layer)
    infos, _ = t5x.layout_infos(t5x.t5x_layout(config, per_layer, optimizer=False))
    t5x.write_t5x_config(tmp_path, config, scanned=per_layer)
    assert t5x.read_t5x_config(tmp_path / "checkpoint_7", infos).config == config
    statements = list(gin.config_parser.ConfigParser((tmp_path / "config.gin").read_text(), _Any()))
    example = "scalable_t5" if per_layer else "t5"
    assert statements[1].module == f"t5x.examples.{example}.network"


class _Any(gin.config_parser.ParserDelegate):
    """Lets gin's parser read names that are not registered here."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> str:
        return scoped_configurable_name

    def macro(self, macro_name: str) -> str:
        return macro_name
