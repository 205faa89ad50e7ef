"""`flan-jax train` of a decoder-only model by its shipped gin files: it learns, resumes, splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_runs import Ended, Runner, checkpoint_steps, gin_flags, losses, rows

pytestmark = pytest.mark.slow

FILES = ("models/palm/tiny.gin", "vocabularies/bytes.gin", "runs/pretrain.gin")
MACROS = {
    "MIXTURE_OR_TASK_NAME": "micro",
    "TASK_FEATURE_LENGTHS": {"inputs": 128, "targets": 16},
    "BATCH_SIZE": 8,
    "TRAIN_STEPS": 12,
    "SAVE_PERIOD": 4,
    "EVAL_PERIOD": 0,
    "EVAL_STEPS": 1,
    "DROPOUT_RATE": 0.1,
    "train_script.train.stats_period": 1,
    "utils.create_learning_rate_scheduler.warmup_steps": 100,
}


def train(runner: Runner, folder: Path, *flags: str, devices: int = 1, **macros: Any) -> Ended:
    bindings = gin_flags({**MACROS, "MODEL_DIR": str(folder), **macros})
    files = [f"--gin_file={name}" for name in FILES]
    return runner.run("train", *files, *bindings, *flags, devices=devices)


@pytest.fixture(scope="module")
def whole(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A run of 12 steps on one device, with dropout."""
    folder = tmp_path_factory.mktemp("palm") / "whole"
    ended = train(runner, folder, EVAL_PERIOD=12)
    assert ended.code == 0, ended.err
    return folder, ended


def test_it_learns(whole: tuple[Path, Ended]):
    folder, _ = whole
    found = losses(folder)
    assert sorted(found) == list(range(1, 13))
    assert found[12] < 0.6 * found[1]
    row = rows(folder)[-1]
    assert 0 < row["padding"] < 0.5
    assert row["examples"] > 8
    assert sum(task["target_tokens"] for task in row["tasks"].values()) == row["target_tokens"]
    (validation,) = rows(folder, "training_eval/micro")
    assert validation["loss"] < 0.6 * found[1]


def test_it_resumes_bit_by_bit(runner: Runner, whole: tuple[Path, Ended], tmp_path: Path):
    folder, ended = whole
    begun = train(runner, tmp_path, TRAIN_STEPS=5)
    assert begun.code == 0, begun.err
    assert checkpoint_steps(tmp_path) == [4, 5]
    resumed = train(runner, tmp_path)
    assert resumed.code == 0, resumed.err
    assert resumed.hash == ended.hash != begun.hash
    assert losses(tmp_path) == losses(folder)


@pytest.mark.exhaustive
def test_eight_devices_have_the_losses_of_one(
    runner: Runner, whole: tuple[Path, Ended], tmp_path: Path
):
    mesh = {"DATA": 2, "FSDP": 2, "TENSOR": 2}
    eight = train(runner, tmp_path, devices=8, TRAIN_STEPS=6, **mesh)
    assert eight.code == 0, eight.err
    assert "rematerialization" not in eight.err
    ours, theirs = losses(tmp_path), losses(whole[0])
    assert sorted(ours) == list(range(1, 7))
    np.testing.assert_allclose(
        [ours[step] for step in ours], [theirs[step] for step in ours], rtol=0, atol=1e-5
    )


def test_what_a_run_would_do(runner: Runner, tmp_path: Path):
    causal = {"INPUTS_BIDIRECTIONAL": False, "LOSS_ON_TARGETS_ONLY": False}
    ended = train(runner, tmp_path / "run", "--dry_run", **causal)
    assert ended.code == 0, ended.err
    assert "decoder_causal_attention [8, 144] int32" in ended.out
    assert "padding in the first batch: 2" in ended.out
    assert "decoder/layers/attention/key/kernel    [2, 128, 32] float32" in ended.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("macros", "message"),
    [
        ({"LOSS_ON_TARGETS_ONLY": False}, "needs inputs_bidirectional_attention=False"),
        ({"network.PalmConfig.vocab_size": 300}, "set network.PalmConfig.vocab_size"),
    ],
)
def test_mistakes_are_named_before_anything_begins(runner: Runner, tmp_path: Path, macros, message):
    ended = train(runner, tmp_path / "run", **macros)
    assert ended.code == 2, ended.err
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()
