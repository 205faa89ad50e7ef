"""The loop called as a function: what it returns, evaluates, reports and saves, and when."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from flan_jax.checkpoints.manager import (
    CheckpointConfig,
    CheckpointManager,
    SaveCheckpointConfig,
    parameter_hash,
)
from flan_jax.data.reader import DatasetConfig
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.mixtures import micro  # noqa: F401  registers the mixture
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import PjitPartitioner
from flan_jax.train.loop import TrainResult, train
from flan_jax.train.optimizer import Adafactor
from tests.tiny_runs import Runner, checkpoint_steps, losses, rows

pytestmark = pytest.mark.slow

VOCABULARY = ByteVocabulary(125)
CONFIG = T5Config(
    vocab_size=384,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=16,
    dropout_rate=0.1,
    dtype="float32",
)
DATA = DatasetConfig("micro", {"inputs": 64, "targets": 16}, batch_size=4)


@pytest.fixture(autouse=True, scope="module")
def fast_compilation(runner: Runner):
    """Without optimisation, and each program once: these models compile longer than they run."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    jit, settings = (
        jax.jit,
        {
            "jax_compilation_cache_dir": str(runner.cache),
            "jax_persistent_cache_min_compile_time_secs": 0,
        },
    )
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        for module in ("flan_jax.train.loop", "flan_jax.train.setup", "flan_jax.train.evaluator"):
            patch.setattr(
                f"{module}.jax.jit", lambda *a, **k: jit(*a, **{"compiler_options": options} | k)
            )
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


class Listener:
    """Stands where answers are generated; notes when it is asked, and may send a signal."""

    batch_size = 4

    def __init__(self, signal_at: int | None = None):
        self.calls: list[tuple[int, str]] = []
        self.signal_at = signal_at
        self.prepared = False

    def prepare(self, model, batch_sharding) -> None:
        self.prepared = True

    def evaluate(self, model, params, batch_sharding, step: int, folder: str, trained) -> str:
        assert model.module == CONFIG
        assert self.prepared
        self.calls.append((step, parameter_hash(params)))
        if step == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return "some scores"


def run(folder: Path, steps: int = 4, listener: Listener | None = None, **arguments: Any):
    defaults = {
        "model": EncoderDecoderModel(CONFIG, VOCABULARY, VOCABULARY, Adafactor(learning_rate=0.1)),
        "train_dataset_cfg": DATA,
        "model_dir": str(folder),
        "total_steps": steps,
        "partitioner": PjitPartitioner(),
        "infer_eval": listener,
        "checkpoint_cfg": CheckpointConfig(SaveCheckpointConfig(period=2)),
        "eval_period": 2,
        "eval_steps": 2,
        "stats_period": 1,
    }
    return train(**defaults | arguments)


def test_evaluates_before_while_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    listener = Listener()
    validation = dataclasses.replace(DATA, split="validation", shuffle=False)
    result = run(
        tmp_path,
        5,
        listener,
        run_eval_before_training=True,
        train_eval_dataset_cfg=validation,
    )
    assert result == TrainResult(5, result.parameter_hash, True, str(tmp_path / "checkpoint_5"))
    assert [step for step, _ in listener.calls] == [0, 2, 4, 5]
    assert len({digest for _, digest in listener.calls}) == 4
    assert listener.calls[-1][1] == result.parameter_hash
    assert [row["step"] for row in rows(tmp_path, "training_eval/micro")] == [0, 2, 4, 5]
    assert checkpoint_steps(tmp_path) == [2, 4, 5]
    assert (tmp_path / "config.gin").exists()
    error = capsys.readouterr().err
    assert "step 0  some scores" in error
    assert "step 4  validation loss " in error
    # What was saved is what was trained, and knows where the data stands.
    with_reader = CheckpointManager(tmp_path, None)
    assert with_reader.restore_run(5)["start_step"] == 0
    assert with_reader.restore_run(4)["data_state"] != with_reader.restore_run(5)["data_state"]
    with_reader.close()


def test_metrics_are_summed_over_the_period(tmp_path: Path):
    """Rows of two steps are the token-weighted means of rows of one."""
    nothing = {"eval_period": 0, "checkpoint_cfg": None}
    each = run(tmp_path / "each", 5, **nothing)
    pairs = run(tmp_path / "pairs", 5, **nothing, stats_period=2)
    assert each.parameter_hash == pairs.parameter_hash
    assert each.checkpoint is None
    assert checkpoint_steps(tmp_path / "each") == []
    single, double = rows(tmp_path / "each"), rows(tmp_path / "pairs")
    assert [row["step"] for row in double] == [2, 4, 5]
    for row in double[:2]:
        parts = single[row["step"] - 2 : row["step"]]
        tokens = [part["target_tokens"] for part in parts]
        assert row["target_tokens"] == sum(tokens)
        mean = np.average([part["loss"] for part in parts], weights=tokens)
        assert row["loss"] == pytest.approx(mean, rel=1e-6)
        assert row["grad_norm"] == parts[-1]["grad_norm"]


def test_a_signal_during_evaluation_stops_after_the_next_step_and_saves(tmp_path: Path, capsys):
    whole = run(tmp_path / "whole", 5)
    listener = Listener(signal_at=2)
    stopped = run(tmp_path / "cut", 5, listener)
    assert (stopped.step, stopped.finished) == (3, False)
    assert stopped.checkpoint == str(tmp_path / "cut" / "checkpoint_3")
    assert "stopped at step 3 of 5, saved; run the same command to go on" in capsys.readouterr().err
    resumed = run(tmp_path / "cut", 5)
    assert (resumed.step, resumed.finished) == (5, True)
    assert resumed.parameter_hash == whole.parameter_hash
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_without_saving_a_stopped_run_says_so(tmp_path: Path, capsys):
    result = run(tmp_path, 5, Listener(signal_at=2), checkpoint_cfg=None)
    assert (result.step, result.finished, result.checkpoint) == (3, False, None)
    assert "stopped at step 3 of 5, not saved (no SaveCheckpointConfig)" in capsys.readouterr().err


def test_seed_decides_everything(tmp_path: Path):
    nothing = {"eval_period": 0, "checkpoint_cfg": None}
    hashes = {
        name: run(tmp_path / name, 2, **nothing, **arguments).parameter_hash
        for name, arguments in {
            "a": {},
            "again": {},
            "seed": {"random_seed": 1},
        }.items()
    }
    assert hashes.pop("again") == hashes["a"]
    assert len(set(hashes.values())) == 2


def test_steps_below_the_start_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="TRAIN_STEPS 0 is not beyond step 0"):
        run(tmp_path, 0)
