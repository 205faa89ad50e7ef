"""The gin files of the model sizes."""

from __future__ import annotations

from pathlib import Path

import gin
import pytest

import flan_jax.sharding
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.train.optimizer import Adafactor, create_learning_rate_scheduler

GIN = Path(__file__).parents[2] / "gin"


@pytest.fixture(autouse=True)
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


def parse(name: str, bindings: str = "") -> None:
    gin.add_config_file_search_path(str(GIN))
    gin.parse_config_file(f"models/t5/{name}.gin")
    gin.parse_config(bindings)


@pytest.mark.parametrize(
    ("name", "sizes"),
    # emb_dim, num_heads, layers, head_dim, mlp_dim, vocab_size
    [
        ("tiny", (128, 4, 2, 32, 256, 384)),
        ("small", (512, 6, 8, 64, 1024, 32128)),
        ("base", (768, 12, 12, 64, 2048, 32128)),
        ("large", (1024, 16, 24, 64, 2816, 32128)),
        ("xl", (2048, 32, 24, 64, 5120, 32128)),
        ("xxl", (4096, 64, 24, 64, 10240, 32128)),
    ],
)
def test_sizes(name, sizes):
    parse(name, "DROPOUT_RATE = 0.05\nLEARNING_RATE = 0.5")
    task = EncoderDecoderModel()  # pyright: ignore[reportCallIssue]
    config = task.module
    layers = config.num_encoder_layers
    assert layers == config.num_decoder_layers
    found = (config.emb_dim, config.num_heads, layers, config.head_dim, config.mlp_dim)
    assert (*found, config.vocab_size) == sizes
    assert config.dropout_rate == 0.05
    assert config.dtype == ("float32" if name == "tiny" else "bfloat16")
    assert config.mlp_activations == ("gelu", "linear")
    assert task.z_loss == 1e-4
    assert isinstance(task.optimizer_def, Adafactor)
    assert float(create_learning_rate_scheduler()(100)) == 0.5


def test_t5x_spelling_of_the_module():
    parse("tiny", "models.EncoderDecoderModel.module = @network.Transformer()")
    gin.parse_config("network.Transformer.config = @network.T5Config()")
    task = EncoderDecoderModel()  # pyright: ignore[reportCallIssue]
    assert task.module.emb_dim == 128


def test_partitioner_by_gin():
    gin.parse_config(
        "partitioning.PjitPartitioner.num_partitions = 2\n"
        "partitioning.PjitPartitioner.logical_axis_rules ="
        " @partitioning.standard_logical_axis_rules()"
    )
    assert flan_jax.sharding.PjitPartitioner().tensor == 2
