"""The gin files of PaLM's sizes: dimensions, parameter counts, and what they compose with."""

from __future__ import annotations

from pathlib import Path

import gin
import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from flan_jax.cli.gin_command import CONFIGURABLE_MODULES
from flan_jax.config import load
from flan_jax.models.decoder_only import DecoderOnlyModel
from flan_jax.sharding import MESH_AXES, PjitPartitioner, logical_axes, named_leaves, with_shardings
from flan_jax.train.optimizer import create_learning_rate_scheduler

GIN = Path(__file__).parents[2] / "gin"
# layers, heads, d_model, and parameters in billions: the paper's table 1.
SIZES = {
    "8b": (32, 16, 4096, 8.63),
    "62b": (64, 32, 8192, 62.50),
    "cont_62b": (64, 32, 8192, 62.50),
    "540b": (118, 48, 18432, 540.35),
}


@pytest.fixture(autouse=True)
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


def read(name: str, bindings: str = "") -> DecoderOnlyModel:
    for module in CONFIGURABLE_MODULES:
        __import__(module)
    gin.add_config_file_search_path(str(GIN))
    gin.parse_config_file(f"models/palm/{name}.gin")
    gin.parse_config(bindings)
    return DecoderOnlyModel()  # pyright: ignore[reportCallIssue]


def parameters(model: DecoderOnlyModel) -> dict[str, int]:
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return {name: leaf.size for name, leaf in named_leaves(shapes).items()}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_the_paper_s(name):
    layers, heads, width, billions = SIZES[name]
    model = read(name)
    config = model.module
    assert (config.num_layers, config.num_heads, config.emb_dim) == (layers, heads, width)
    assert (config.mlp_dim, config.head_dim, config.vocab_size) == (4 * width, 256, 256_000)
    assert config.mlp_activations == ("swish", "linear")
    assert (config.norm, config.logits_via_embedding) == ("layer", True)
    assert (config.dtype, config.dropout_rate) == ("bfloat16", 0.0)
    assert config.remat_policy == "full"
    assert model.inputs_bidirectional_attention and model.loss_on_targets_only
    # Table 1 counts matrices: with the norms' scales 540B would be 540.36.
    counts = parameters(model)
    matrices = sum(size for name, size in counts.items() if not name.endswith("scale"))
    assert round(matrices / 1e9, 2) == billions
    text = (GIN / "models/palm" / f"{name}.gin").read_text(encoding="utf-8")
    assert f"{sum(counts.values()) / 1e9:.3f}B parameters" in text


def test_tiny():
    model = read("tiny", "DROPOUT_RATE = 0.1\nINPUTS_BIDIRECTIONAL = False")
    assert (model.module.dtype, model.module.dropout_rate) == ("float32", 0.1)
    assert not model.inputs_bidirectional_attention
    text = (GIN / "models/palm/tiny.gin").read_text(encoding="utf-8")
    assert f"{sum(parameters(model).values()) / 1e6:.2f}M parameters" in text


def test_every_size_is_here():
    found = {path.stem for path in (GIN / "models/palm").glob("*.gin")}
    assert found == {*SIZES, "architecture", "tiny"}


RUN = {"TRAIN_STEPS": 1, "MODEL_DIR": "'/nowhere'"}
RUNS = {
    "pretrain": ("train", RUN),
    "finetune": ("train", RUN | {"INITIAL_CHECKPOINT_PATH": "'/nowhere'"}),
    "flan_palm": ("train", RUN | {"INITIAL_CHECKPOINT_PATH": "'/nowhere'"}),
    "eval": ("evaluate", {"CHECKPOINT_PATH": "'/nowhere'", "EVAL_OUTPUT_DIR": "'/nowhere'"}),
    "infer": ("infer", {"CHECKPOINT_PATH": "'/nowhere'", "INFER_OUTPUT_DIR": "'/nowhere'"}),
}


@pytest.mark.parametrize("run", RUNS)
def test_models_compose_with_runs(run):
    """Every binding of the files is checked against what it is bound to."""
    for module in CONFIGURABLE_MODULES:
        __import__(module)
    root, macros = RUNS[run]
    if run != "eval":
        macros = macros | {"TASK_FEATURE_LENGTHS": "{'inputs': 2048, 'targets': 512}"}
    macros = macros | {"MIXTURE_OR_TASK_NAME": "'micro'"}
    files = ["models/palm/8b.gin", "vocabularies/bytes.gin", f"runs/{run}.gin", "lora/default.gin"]
    bindings = [f"{name} = {value}" for name, value in macros.items()]
    load(files, bindings, [str(GIN)], required=(root,))
    model = DecoderOnlyModel()  # pyright: ignore[reportCallIssue]
    assert model.module.lora is not None
    assert model.vocabulary.vocab_size == 384


def test_pre_training_has_the_paper_s_learning_rate():
    """Section 5: 1e-2 for 10,000 steps, then 1 / sqrt(step)."""
    read("8b")
    gin.parse_config_file("runs/pretrain.gin")
    rate = create_learning_rate_scheduler()
    assert float(rate(1)) == float(rate(10_000)) == pytest.approx(0.01)
    assert float(rate(40_000)) == pytest.approx(0.005)


def test_540b_is_split_over_512_devices():
    """Types carry layouts: tracing loss and gradient checks every one of them, without devices."""
    model = read("540b", "DROPOUT_RATE = 0.1")
    key = jax.eval_shape(lambda: jax.random.key(0))
    kinds = (AxisType.Explicit,) * 4
    mesh = AbstractMesh((1, 1, 32, 16), MESH_AXES, axis_types=kinds)
    partitioner = PjitPartitioner(fsdp=32, tensor=16)
    names = ["target_tokens", "input_tokens", "causal_attention", "segment_ids", "positions"]
    rows = {f"decoder_{name}": np.zeros((32, 2560), np.int32) for name in names}
    with jax.sharding.use_abstract_mesh(mesh):
        shapes = jax.eval_shape(model.init, key)
        axes = logical_axes(shapes)
        params = with_shardings(shapes, partitioner.shardings(axes, mesh, shapes))
        layout = NamedSharding(mesh, PartitionSpec(("replica", "data", "fsdp")))
        batch = with_shardings(rows, dict.fromkeys(rows, layout))
        gradient = jax.eval_shape(
            jax.grad(lambda *arguments: model.loss_fn(*arguments)[0]), params, batch, key
        )
    for (name, ours), theirs in zip(
        named_leaves(gradient).items(), jax.tree.leaves(params), strict=True
    ):
        assert (ours.shape, ours.sharding.spec) == (theirs.shape, theirs.sharding.spec), name
    # One key and one value head, which cannot be split: whole on each of the 16.
    specs = {name: leaf.sharding.spec for name, leaf in named_leaves(params).items()}
    assert specs["decoder/layers/attention/key/kernel"] == PartitionSpec(None, "fsdp", None)
    assert specs["decoder/layers/attention/query/kernel"] == PartitionSpec(None, "fsdp", "tensor")
