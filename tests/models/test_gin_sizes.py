"""The gin files of the model sizes: dimensions, parameter counts, and what they compose with."""

from __future__ import annotations

import math
from pathlib import Path

import gin
import jax
import pytest

import flan_jax.data.configurables
import flan_jax.sharding
from flan_jax.cli.gin_command import CONFIGURABLE_MODULES
from flan_jax.config import load
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.lora import fresh_names
from flan_jax.models.t5 import T5
from flan_jax.sharding import named_leaves
from flan_jax.train.optimizer import Adafactor, create_learning_rate_scheduler

GIN = Path(__file__).parents[2] / "gin"


@pytest.fixture(autouse=True)
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


def parse(name: str, bindings: str = "") -> None:
    gin.add_config_file_search_path(str(GIN))
    gin.parse_config_file(f"models/{name}.gin")
    gin.parse_config(bindings)


def model() -> EncoderDecoderModel:
    """The model that the parsed files describe."""
    return EncoderDecoderModel()  # pyright: ignore[reportCallIssue]


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
    parse(f"t5/{name}", "DROPOUT_RATE = 0.05\nLEARNING_RATE = 0.5")
    task = model()
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


# Numbers of elements in the published checkpoints (google-t5/t5-*, google/{t5-v1_1,mt5,umt5,byt5}-*
# on the Hugging Face hub; there is no umT5 large). Rounded, those of the papers: T5
# (arXiv:1910.10683, section 3.7), mT5 (2010.11934, section 3.2), ByT5 (2105.13626, table 1),
# UniMax (2304.09151).
COUNTS = {
    "t5_1_0/small": 60_506_624,
    "t5_1_0/base": 222_903_552,
    "t5_1_0/large": 737_668_096,
    "t5_1_0/3B": 2_851_598_336,
    "t5_1_0/11B": 11_307_321_344,
    "t5/small": 76_961_152,
    "t5/base": 247_577_856,
    "t5/large": 783_150_080,
    "t5/xl": 2_849_757_184,
    "t5/xxl": 11_135_332_352,
    "mt5/small": 300_176_768,
    "mt5/base": 582_401_280,
    "mt5/large": 1_229_581_312,
    "mt5/xl": 3_742_619_648,
    "mt5/xxl": 12_921_057_280,
    "umt5/small": 306_601_984,
    "umt5/base": 592_043_520,
    "umt5/large": 1_242_449_920,
    "umt5/xl": 3_768_356_864,
    "umt5/xxl": 12_972_531_712,
    "byt5/small": 299_637_760,
    "byt5/base": 581_653_248,
    "byt5/large": 1_228_183_552,
    "byt5/xl": 3_737_801_728,
    "byt5/xxl": 12_906_899_328,
}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_parameter_counts(name, count):
    parse(name)
    config = model().module
    shapes = jax.eval_shape(lambda key: T5(config, key), jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in named_leaves(shapes).values()) == count


def test_every_size_is_counted():
    families = {name.split("/")[0] for name in COUNTS}
    sizes = {
        f"{family}/{path.stem}"
        for family in families
        for path in (GIN / "models" / family).glob("*.gin")
    }
    apart = {"t5/architecture", "t5_1_0/architecture", "t5/tiny", "t5/micro"}
    assert sizes - apart == set(COUNTS)


@pytest.mark.parametrize(
    ("name", "tied", "per_layer"),
    [("t5_1_0/base", True, False), ("mt5/base", False, False), ("umt5/base", False, True)],
)
def test_what_sets_the_families_apart(name, tied, per_layer):
    parse(name)
    config = model().module
    assert config.logits_via_embedding == tied
    assert config.relative_attention_per_layer == per_layer
    assert (config.mlp_activations == ("relu",)) == tied
    shapes = jax.eval_shape(lambda key: T5(config, key), jax.random.key(0))
    biases = {n: x.shape for n, x in named_leaves(shapes).items() if "rel_embedding" in n}
    if per_layer:
        assert biases == {
            f"{stack}/layers/relpos_bias/rel_embedding": (12, 12, 32)
            for stack in ("encoder", "decoder")
        }
    else:
        assert biases == {
            f"{stack}/relpos_bias/rel_embedding": (12, 32) for stack in ("encoder", "decoder")
        }


RUNS = {
    "pretrain": ("train", {"TRAIN_STEPS": 1, "MODEL_DIR": "'/nowhere'"}),
    "finetune": (
        "train",
        {"TRAIN_STEPS": 1, "MODEL_DIR": "'/nowhere'", "INITIAL_CHECKPOINT_PATH": "'/nowhere'"},
    ),
    "eval": ("evaluate", {"CHECKPOINT_PATH": "'/nowhere'", "EVAL_OUTPUT_DIR": "'/nowhere'"}),
    "infer": ("infer", {"CHECKPOINT_PATH": "'/nowhere'", "INFER_OUTPUT_DIR": "'/nowhere'"}),
}
VOCABULARIES = {"t5": "t5", "t5_1_0": "t5", "mt5": "mt5", "umt5": "umt5", "byt5": "bytes"}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("family", VOCABULARIES)
def test_models_compose_with_runs(family, run):
    """Every binding of the files is checked against what it is bound to."""
    for module in CONFIGURABLE_MODULES:
        __import__(module)
    root, macros = RUNS[run]
    if run != "eval":
        macros = macros | {"TASK_FEATURE_LENGTHS": "{'inputs': 512, 'targets': 114}"}
    macros = macros | {"MIXTURE_OR_TASK_NAME": "'micro'"}
    files = [f"models/{family}/base.gin", f"vocabularies/{VOCABULARIES[family]}.gin"]
    bindings = [f"{name} = {value}" for name, value in macros.items()]
    load([*files, f"runs/{run}.gin", "lora/default.gin"], bindings, [str(GIN)], required=(root,))
    with gin.unlock_config():
        gin.parse_config("models.EncoderDecoderModel.input_vocabulary = None")
        gin.parse_config("models.EncoderDecoderModel.output_vocabulary = None")
    task = model()
    assert task.module.lora is not None
    assert not task.optimizer_def.multiply_by_parameter_scale
    # T5's six projections: query and value of three attention blocks, A and B of each.
    assert len(fresh_names(jax.eval_shape(task.init, jax.random.key(0)))) == 12


def test_bytes_fill_the_embedding_of_byt5():
    parse("byt5/small")
    gin.parse_config_file("vocabularies/bytes.gin")
    task = model()
    assert isinstance(task.input_vocabulary, ByteVocabulary)
    assert task.input_vocabulary.vocab_size == task.module.vocab_size == 384


@pytest.mark.parametrize("family", ["mt5", "umt5"])
def test_missing_multilingual_vocabulary_is_named(family, tmp_path, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    parse(f"{family}/small")
    gin.parse_config_file(f"vocabularies/{family}.gin")
    with pytest.raises(Exception, match=rf"{family}_vocab/spiece.model does not exist"):
        model()


def test_t5x_spelling_of_the_module():
    parse("t5/tiny", "models.EncoderDecoderModel.module = @network.Transformer()")
    gin.parse_config("network.Transformer.config = @network.T5Config()")
    assert model().module.emb_dim == 128


def test_partitioner_by_gin():
    gin.parse_config(
        "partitioning.PjitPartitioner.num_partitions = 2\n"
        "partitioning.PjitPartitioner.logical_axis_rules ="
        " @partitioning.standard_logical_axis_rules()"
    )
    assert flan_jax.sharding.PjitPartitioner().tensor == 2
