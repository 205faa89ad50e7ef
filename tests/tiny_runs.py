"""A run that takes seconds, by the real command line: `tiny.gin`, and ways to start it.

Compiled programs are kept for the session: the same model is compiled once, however many
processes run it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fast_compile import FAST_COMPILE

ROOT = Path(__file__).resolve().parent.parent

MODEL = """
include 'models/t5/architecture.gin'
include 'vocabularies/bytes.gin'
network.T5Config.emb_dim = 32
network.T5Config.num_heads = 2
network.T5Config.num_encoder_layers = 1
network.T5Config.num_decoder_layers = 1
network.T5Config.head_dim = 16
network.T5Config.mlp_dim = 32
network.T5Config.vocab_size = 384
ACTIVATION_DTYPE = 'float32'
"""

TRAINING = """
include 'runs/pretrain.gin'
DROPOUT_RATE = 0.1
MIXTURE_OR_TASK_NAME = 'micro'
TASK_FEATURE_LENGTHS = {'inputs': 128, 'targets': 16}
BATCH_SIZE = 8
TRAIN_STEPS = 6
SAVE_PERIOD = 2
EVAL_PERIOD = 4
EVAL_STEPS = 1
LEARNING_RATE = 1.0
train_script.train.stats_period = 1
utils.create_learning_rate_scheduler.warmup_steps = 100
"""


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def hash(self) -> str:
        """The parameters' SHA-256 that a training run says last."""
        found = re.findall(r"parameters sha256 ([0-9a-f]{64})", self.err)
        assert found, self.err
        return found[-1]


class Runner:
    """Starts `python -m flan_jax` in processes of their own.

    Args:
      cache: folder of compiled programs.
      files: folder that holds tiny.gin and model.gin.
    """

    def __init__(self, cache: Path, files: Path):
        self.cache = cache
        self.tiny = files / "tiny.gin"
        self.model = files / "model.gin"
        self.tiny.write_text(MODEL + TRAINING, encoding="utf-8")
        self.model.write_text(MODEL, encoding="utf-8")

    def environment(self, devices: int = 1) -> dict[str, str]:
        flags = f"{FAST_COMPILE} --xla_force_host_platform_device_count={devices}"
        return os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": flags,
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(ROOT),
        }

    def start(self, *arguments: str, devices: int = 1) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "flan_jax", *arguments],
            cwd=ROOT,
            env=self.environment(devices),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, devices: int = 1, stdin: str | None = None) -> Ended:
        return finish(self.start(*arguments, devices=devices), stdin=stdin)

    def train_flags(self, folder: Path, **bindings: Any) -> list[str]:
        return [
            "train",
            f"--gin_file={self.tiny}",
            f"--gin.MODEL_DIR={str(folder)!r}",
            *gin_flags(bindings),
        ]

    def train(self, folder: Path, *flags: str, devices: int = 1, **bindings: Any) -> Ended:
        """Trains in `folder`; `bindings` are macros."""
        return self.run(*self.train_flags(folder, **bindings), *flags, devices=devices)


def gin_flags(bindings: dict[str, Any]) -> list[str]:
    """`--gin.NAME=value` for each."""
    return [f"--gin.{name}={value!r}" for name, value in bindings.items()]


def finish(process: subprocess.Popen[str], seconds: float = 240, stdin: str | None = None) -> Ended:
    try:
        out, err = process.communicate(stdin, timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"no end after {seconds} s:\n{out}\n{err}") from None
    return Ended(process.returncode, out, err)


def rows(folder: Path, part: str = "train") -> list[dict[str, Any]]:
    """The rows of `<folder>/<part>/metrics.jsonl`; every line must be whole."""
    text = (folder / part / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def losses(folder: Path) -> dict[int, float]:
    """Training loss by step; no step may be there twice."""
    found = rows(folder)
    steps = [row["step"] for row in found]
    assert len(set(steps)) == len(steps), steps
    return {row["step"]: row["loss"] for row in found}


def interrupt(
    process: subprocess.Popen[str], folder: Path, after_rows: int, number: signal.Signals
) -> Ended:
    """Sends a signal when the metrics file has so many rows, and waits for the end."""
    path = folder / "train" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not path.exists() or path.read_bytes().count(b"\n") < after_rows:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            ended = finish(process)
            raise AssertionError(f"ended before row {after_rows}: {ended.err}")
        time.sleep(0.005)
    process.send_signal(number)
    return finish(process)


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the whole checkpoints in a folder."""
    found = [path.name.removeprefix("checkpoint_") for path in folder.glob("checkpoint_*")]
    return sorted(int(name) for name in found if name.isdigit())
