"""Real tasks and T5's real vocabulary through training, evaluation and inference."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from flan_jax.train.writers import read_rows

pytestmark = pytest.mark.slow

# T5's vocabulary and layers, but narrow.
MODEL = (
    "--gin_file=gin/models/t5/tiny.gin",
    "--gin_file=gin/vocabularies/t5.gin",
    "--gin.T5Config.vocab_size=32128",
    "--gin.T5Config.emb_dim=64",
)


def run(command: str, data: str, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FLAN_JAX_DATA": data, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "flan_jax", command, *MODEL, *flags],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(test_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    run(
        "train",
        str(test_data),
        "--gin_file=gin/runs/finetune.gin",
        "--gin.MIXTURE_OR_TASK_NAME=real",
        f"--gin.MODEL_DIR={folder}",
        "--gin.INITIAL_CHECKPOINT_PATH=None",
        "--gin.TRAIN_STEPS=20",
        "--gin.BATCH_SIZE=8",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 256, 'targets': 64}",
        "--gin.LEARNING_RATE=0.02",
        "--gin.EVAL_PERIOD=0",
        "--gin.train.stats_period=1",
    )
    return folder


def test_loss_falls_over_all_real_tasks(trained):
    rows = read_rows(trained / "train" / "metrics.jsonl")
    losses = [row["loss"] for row in rows]
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.5
    seen = {name for row in rows for name in row["tasks"]}
    assert {"gsm8k_cot", "cot_creak"} <= seen
    assert any(name.startswith("task") for name in seen)


def test_eval_reads_the_checkpoint(trained, test_data, tmp_path):
    out = run(
        "eval",
        str(test_data),
        "--gin_file=gin/runs/eval.gin",
        "--gin.MIXTURE_OR_TASK_NAME=gsm8k",
        f"--gin.CHECKPOINT_PATH={trained / 'checkpoint_20'}",
        f"--gin.EVAL_OUTPUT_DIR={tmp_path}",
        "--gin.NUM_EXAMPLES=4",
        "--gin.MAX_DECODE_LEN=8",
        "--gin.BATCH_SIZE=4",
    )
    assert "gsm8k" in out.stdout
    summaries = sorted(tmp_path.glob("summary-*.json"))
    assert [path.name for path in summaries] == [
        "summary-few_shot-000020.json",
        "summary-zero_shot-000020.json",
    ]
    assert json.loads(summaries[0].read_text())["protocol"]["mixture_or_tasks"] == ["gsm8k"]


def test_infer_reads_the_checkpoint(trained, test_data, tmp_path):
    run(
        "infer",
        str(test_data),
        "--gin_file=gin/runs/infer.gin",
        "--gin.MIXTURE_OR_TASK_NAME=cot_strategyqa",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 128, 'targets': 16}",
        f"--gin.CHECKPOINT_PATH={trained / 'checkpoint_20'}",
        f"--gin.INFER_OUTPUT_DIR={tmp_path}",
        "--gin.NUM_EXAMPLES=3",
        "--gin.BATCH_SIZE=4",
    )
    path = tmp_path / "cot_strategyqa-predict.jsonl-00000-of-00001"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 3
    assert all(isinstance(row["prediction"], str) for row in rows)
    assert path.with_name(path.name + ".COMPLETED").read_text() == ""
