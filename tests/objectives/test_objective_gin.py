"""gin/objectives and the runs that use them: what they bind, and training by the real command."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import gin
import pytest

from flan_jax.cli.gin_command import CONFIGURABLE_MODULES
from flan_jax.config import load
from flan_jax.data.reader import DatasetConfig
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.objectives import CausalLM, PrefixLM, SpanCorruption
from flan_jax.objectives.ul2 import UL2, UL2R
from flan_jax.train.schedule import create_learning_rate_scheduler
from tests.tiny_runs import ROOT, gin_flags, losses

PALM = """
include 'models/palm/architecture.gin'
include 'vocabularies/bytes.gin'
network.PalmConfig.emb_dim = 32
network.PalmConfig.num_heads = 2
network.PalmConfig.num_layers = 1
network.PalmConfig.head_dim = 16
network.PalmConfig.mlp_dim = 32
network.PalmConfig.vocab_size = 384
ACTIVATION_DTYPE = 'float32'
"""


@pytest.fixture
def bound():
    """Loads gin files as the command does; nothing is bound afterwards."""
    for module in CONFIGURABLE_MODULES:
        importlib.import_module(module)
    yield lambda files, *bindings: load(files, bindings)
    gin.clear_config()


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("span_corruption", SpanCorruption(0.15, 3.0)),
        ("prefix_lm", PrefixLM()),
        ("causal_lm", CausalLM()),
        ("ul2", UL2),
        ("ul2r", UL2R),
    ],
)
def test_files_and_code_name_the_same_objectives(bound, name, objective):
    """Also in the scopes of the runs' two data sets, where gin looks values up otherwise."""
    bound([f"objectives/{name}.gin"])
    for scope in ("train", "train_eval"):
        with gin.config_scope(scope):
            assert DatasetConfig("micro_text", {"inputs": 9, "targets": 9}).objective == objective


def test_ul2r_s_learning_rate_falls_by_a_cosine(bound):
    files = ["models/t5/micro.gin", "runs/ul2r.gin"]
    macros = {"INITIAL_CHECKPOINT_PATH": "x", "MODEL_DIR": "y", "START_STEP": 1000}
    bound(files, *(f"{name} = {value!r}" for name, value in macros.items()),
          "MIXTURE_OR_TASK_NAME = 'micro_text'")  # fmt: skip
    rate = create_learning_rate_scheduler()
    assert [float(rate(1000 + step)) for step in (0, 10_000)] == pytest.approx([1e-4, 5e-5])
    assert float(rate(1000 + 19_999)) == pytest.approx(1e-6)


@pytest.mark.parametrize("run", ["span_corruption", "ul2_pretrain", "lm_adapt", "ul2r"])
def test_runs_are_whole_but_for_what_they_ask_for(bound, run):
    """With the required macros given, every file loads, and its objective fits its lengths."""
    asked = {"MIXTURE_OR_TASK_NAME": "micro_text", "MODEL_DIR": "x"}
    text = (ROOT / "gin" / "runs" / f"{run}.gin").read_text(encoding="utf-8")
    if "INITIAL_CHECKPOINT_PATH" in re.sub("(?m)^#", "", text):
        asked["INITIAL_CHECKPOINT_PATH"] = "y"
    bound(
        ["models/t5/micro.gin", f"runs/{run}.gin"],
        *(f"{name} = {value!r}" for name, value in asked.items()),
    )
    import flan_jax.mixtures  # noqa: F401

    with gin.config_scope("train"):
        config = DatasetConfig()  # pyright: ignore[reportCallIssue] (gin gives the arguments)
    vocabulary = EncoderDecoderModel().input_vocabulary  # pyright: ignore[reportCallIssue]
    assert config.example_maker(vocabulary, vocabulary, 0) is not None


@pytest.mark.exhaustive
@pytest.mark.slow
def test_ul2r_goes_on_from_a_checkpoint(runner, trained, tmp_path):
    """An encoder-decoder, 4 more steps on the micro text."""
    folder = tmp_path / "run"
    ended = runner.run(
        "train",
        f"--gin_file={runner.model}",
        "--gin_file=runs/ul2r.gin",
        *gin_flags(
            {
                "MIXTURE_OR_TASK_NAME": "micro_text",
                "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 64},
                "INITIAL_CHECKPOINT_PATH": str(trained / "checkpoint_6"),
                "MODEL_DIR": str(folder),
                "BATCH_SIZE": 8,
                "TRAIN_STEPS_RELATIVE": 4,
                "START_STEP": 6,
                "EVAL_PERIOD": 4,
                "EVAL_STEPS": 1,
                "train_script.train.stats_period": 1,
            }
        ),
    )
    assert ended.code == 0, ended.err
    assert sorted(losses(folder)) == [7, 8, 9, 10]
    assert "validation loss" in ended.err


@pytest.mark.slow
def test_a_decoder_is_pre_trained_and_goes_on_with_ul2r(runner, tmp_path):
    """PaLM: causal text first, then a mixture of denoisers, which are prefix language modeling."""
    model = tmp_path / "palm.gin"
    model.write_text(PALM, encoding="utf-8")
    first, second = tmp_path / "causal", tmp_path / "ul2r"
    shared = {
        "MIXTURE_OR_TASK_NAME": "micro_text",
        "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 32},
        "BATCH_SIZE": 4,
        "EVAL_PERIOD": 0,
        "train_script.train.stats_period": 1,
    }

    def train(folder: Path, *files: str, **bindings: object) -> None:
        flags = gin_flags({**shared, "MODEL_DIR": str(folder), **bindings})
        files = tuple(f"--gin_file={name}" for name in (model, *files))
        ended = runner.run("train", *files, *flags)
        assert ended.code == 0, ended.err

    train(first, "runs/pretrain.gin", "objectives/causal_lm.gin", TRAIN_STEPS=2)
    start = {"INITIAL_CHECKPOINT_PATH": str(first / "checkpoint_2"), "START_STEP": 2}
    train(second, "runs/ul2r.gin", TRAIN_STEPS_RELATIVE=2, **start)
    assert sorted(losses(first)) == [1, 2]
    assert sorted(losses(second)) == [3, 4]
