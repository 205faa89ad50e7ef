"""Metrics on disk: JSON lines that resume cleanly, and TensorBoard events beside them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from flan_jax.train.writers import MetricsWriter, read_rows


def events(folder: Path) -> list[Event]:
    """All events in a folder's files, in the order of writing (TFRecord framing)."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, position = path.read_bytes(), 0
        while position < len(data):
            (length,) = struct.unpack_from("<Q", data, position)
            found.append(Event.FromString(data[position + 12 : position + 12 + length]))
            position += 12 + length + 4
    return found


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    return {
        (value.tag, event.step): value.simple_value
        for event in events(folder)
        for value in event.summary.value
    }


def test_rows_and_scalars(tmp_path: Path):
    writer = MetricsWriter(tmp_path / "train")
    writer.write(10, {"loss": 2.5, "target_tokens": 7, "tasks": {"a": {"loss": 2.5}}})
    writer.write(20, {"loss": 1.25, "target_tokens": 8, "tasks": {}})
    # Whole before it is closed: a run may be watched, or killed.
    rows = read_rows(tmp_path / "train" / "metrics.jsonl")
    assert [(row["step"], row["loss"], row["tasks"]) for row in rows] == [
        (10, 2.5, {"a": {"loss": 2.5}}),
        (20, 1.25, {}),
    ]
    writer.close()
    assert scalars(tmp_path / "train") == {
        ("loss", 10): 2.5,
        ("target_tokens", 10): 7.0,
        ("loss", 20): 1.25,
        ("target_tokens", 20): 8.0,
    }


def write(folder: Path, steps: range, resume_step: int, loss: float) -> None:
    writer = MetricsWriter(folder, resume_step)
    for step in steps:
        writer.write(step, {"loss": loss})
    writer.close()


def test_rows_after_the_checkpoint_are_dropped_on_resuming(tmp_path: Path):
    write(tmp_path, range(1, 8), 0, 1.0)
    write(tmp_path, range(6, 10), 5, 2.0)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [
        *((step, 1.0) for step in range(1, 6)),
        *((step, 2.0) for step in range(6, 10)),
    ]


def test_tensorboard_is_told_where_a_resumed_run_begins(tmp_path: Path):
    """TensorBoard drops events from the step of a START on; also for a run without checkpoint."""
    for resume_step in (5, 0):
        folder = tmp_path / str(resume_step)
        write(folder, range(1, 8), 0, 1.0)
        write(folder, range(resume_step + 1, 9), resume_step, 2.0)
        starts = [event.step for event in events(folder) if event.HasField("session_log")]
        assert starts == [resume_step + 1]


def test_a_torn_last_line_is_dropped_on_resuming(tmp_path: Path):
    write(tmp_path, range(1, 4), 0, 1.0)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert [row["step"] for row in read_rows(path)] == [1, 2]
    write(tmp_path, range(3, 5), 3, 2.0)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_other_processes_write_nothing(tmp_path: Path):
    writer = MetricsWriter(tmp_path / "train", enabled=False)
    writer.write(1, {"loss": 1.0})
    writer.close()
    assert not (tmp_path / "train").exists()


def test_pytorch_is_not_imported_where_it_is_installed(tmp_path: Path):
    pytest.importorskip("torch", reason="torch is not installed: make transformers")
    code = (
        "import pathlib, sys\n"
        "from flan_jax.train.writers import MetricsWriter\n"
        f"writer = MetricsWriter(pathlib.Path({str(tmp_path)!r}))\n"
        "writer.write(1, {'loss': 0.5})\n"
        "writer.close()\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "assert torch.ones(2).sum() == 2\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert scalars(tmp_path) == {("loss", 1): 0.5}
