"""Formats told by files; folders of checkpoints; buckets that cannot be read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from flan_jax.checkpoints import detect
from flan_jax.checkpoints.tensors import CheckpointError


def make(folder: Path, *names: str) -> Path:
    for name in names:
        place = folder / name
        if name.endswith("/"):
            place.mkdir(parents=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("x")
    return folder


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("state/", "run/", "_CHECKPOINT_METADATA"), "flan_jax"),
        (("state/_METADATA",), "t5x"),
        (("state/_METADATA", "dataset/", "commit_success.txt"), "t5x"),
        (("checkpoint", "target.token_embedder.embedding/.zarray"), "t5x"),
        (("config.json", "model.safetensors"), "hf"),
        (("model.safetensors",), "hf"),  # which then says that config.json is missing
        (("pytorch_model.bin.index.json",), "hf"),
    ],
)
def test_formats(tmp_path: Path, names, kind):
    assert detect.checkpoint_format(make(tmp_path / "c", *names)) == kind
    assert detect.checkpoint_format(str(tmp_path / "c")) == kind


def test_the_hub_is_hugging_faces():
    assert detect.checkpoint_format("hf://google/flan-t5-small") == "hf"
    assert detect.exists("hf://google/flan-t5-small")
    assert detect.find_checkpoint("hf://google/flan-t5-small") == "hf://google/flan-t5-small"


def test_neither(tmp_path: Path):
    make(tmp_path / "other", "README.md")
    assert detect.find_format(tmp_path / "other") is None
    with pytest.raises(CheckpointError, match=r"\(it holds README.md\): expected one of ours"):
        detect.checkpoint_format(tmp_path / "other")
    with pytest.raises(CheckpointError, match="it holds nothing"):
        detect.checkpoint_format(tmp_path / "absent")


def test_folders_of_checkpoints(tmp_path: Path):
    folder = make(tmp_path / "m", "checkpoint_9/checkpoint", "config.gin", "checkpoint_x/y")
    assert detect.list_steps(folder) == [9]
    assert detect.find_checkpoint(str(folder)) == f"{folder}/checkpoint_9"
    make(folder, "checkpoint_10/checkpoint")
    assert detect.list_steps(folder) == [9, 10]
    assert detect.find_checkpoint(str(folder), latest=True) == f"{folder}/checkpoint_10"
    with pytest.raises(CheckpointError, match=r"of steps 9, 10: name one of them, such as .*_10"):
        detect.checkpoint_format(detect.find_checkpoint(str(folder)))
    exact = f"{folder}/checkpoint_9"
    assert detect.find_checkpoint(exact, latest=True) == exact
    assert (detect.step_of(exact), detect.step_of(folder)) == (9, None)


def test_an_unreadable_bucket_is_an_error_in_bounded_time(monkeypatch: pytest.MonkeyPatch):
    # Nothing listens there, as on a machine without network.
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(CheckpointError) as raised:
        detect.exists("gs://no-such-bucket/model/checkpoint_1")
    assert time.monotonic() - start < 30
    message = str(raised.value)
    assert "gs://no-such-bucket/model/checkpoint_1 cannot be read" in message
    assert "GOOGLE_APPLICATION_CREDENTIALS" in message
    with pytest.raises(CheckpointError, match="expected gs://bucket/path"):
        detect.exists("gs://")
