"""Which checkpoints are evaluated: those named, all of a run, or those it is yet to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from flan_jax.checkpoints.manager import RestoreCheckpointConfig
from flan_jax.checkpoints.tensors import CheckpointError
from flan_jax.errors import UserError
from flan_jax.evaluation import watching
from flan_jax.evaluation.evaluate import output_folders
from flan_jax.evaluation.watching import (
    Watch,
    finished_step,
    named_checkpoints,
    note_begun,
    note_finished,
)


def checkpoint(folder: Path, step: int) -> str:
    """The folder of something that passes for a checkpoint of T5X's."""
    path = folder / f"checkpoint_{step}"
    path.mkdir(parents=True)
    (path / "checkpoint").touch()
    return str(path)


def test_named_checkpoints(tmp_path: Path):
    run = [checkpoint(tmp_path / "run", step) for step in (10, 9, 100)]
    other = checkpoint(tmp_path / "other", 5)

    def named(path, **options):
        return named_checkpoints(RestoreCheckpointConfig(path=path, **options))

    assert named(run[0]) == [run[0]]
    assert named([run[2], other]) == [run[2], other]
    assert named([run[2], run[2]]) == [run[2]]
    folder = str(tmp_path / "run")
    assert named(folder) == [run[1], run[0], run[2]]  # by rising step
    assert named(folder, mode="latest") == [run[2]]
    with pytest.raises(CheckpointError, match="does not exist"):
        named([run[0], str(tmp_path / "none")])
    with pytest.raises(UserError, match="CHECKPOINT_PATH is not set"):
        named(None)


def test_results_of_different_checkpoints_never_meet(tmp_path: Path):
    def folders(*paths: str, output: str = "out") -> list[str]:
        return [str(folder) for folder in output_folders(paths, output)]

    assert folders("/a/checkpoint_5") == ["out"]
    assert folders("/a/hf_model") == ["out"]
    assert folders("/a/checkpoint_5", "/a/checkpoint_6") == ["out", "out"]
    assert folders("/a/checkpoint_5", "/b/checkpoint_5") == [
        "out/a-checkpoint_5",
        "out/b-checkpoint_5",
    ]
    assert folders("/a/x", "/a/y") == ["out/a-x", "out/a-y"]
    assert folders(f"{tmp_path}/checkpoint_5", output="") == [f"{tmp_path}/eval"]
    with pytest.raises(UserError, match="EVAL_OUTPUT_DIR is not set"):
        output_folders(["hf://owner/name"], "")


class Run:
    """A training run that writes as time passes."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.now, self.plan = folder, 0.0, {}
        monkeypatch.setattr(watching.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(watching.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for when in sorted(self.plan):
            if when <= self.now:
                self.plan.pop(when)()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path / "run", monkeypatch)


def test_every_checkpoint_of_a_run_is_seen_until_it_ends(run: Run):
    said: list[str] = []
    run.plan = {
        20: lambda: checkpoint(run.folder, 2),
        45: lambda: [checkpoint(run.folder, step) for step in (6, 4)],
        80: lambda: [checkpoint(run.folder, 8), note_finished(run.folder, 8)],
    }
    watch = Watch(str(run.folder), say=said.append)
    seen = [path.rpartition("_")[2] for path in watch.checkpoints()]
    assert seen == ["2", "4", "6", "8"]
    assert run.now == 80
    assert said == [f"waiting for checkpoints in {run.folder}"] * 3


def test_watching_ends_with_a_step_or_a_timeout(run: Run):
    for step in (2, 4):
        checkpoint(run.folder, step)
    reached = Watch(str(run.folder), last_step=4, say=lambda text: None)
    assert len(list(reached.checkpoints())) == 2
    assert run.now == 0
    waited = Watch(str(run.folder), timeout=100, say=lambda text: None)
    assert len(list(waited.checkpoints())) == 2
    assert run.now == 100


def test_a_checkpoint_is_no_run(run: Run):
    path = checkpoint(run.folder, 2)
    with pytest.raises(UserError, match=f"found the checkpoint .*: give {run.folder}"):
        Watch(path)
    with pytest.raises(UserError, match="needs a run's folder"):
        Watch("hf://owner/name")


def test_whether_a_run_has_ended(tmp_path: Path):
    assert finished_step(tmp_path) is None
    note_finished(tmp_path, 7)
    assert finished_step(tmp_path) == 7
    note_begun(tmp_path)
    assert finished_step(tmp_path) is None
    note_begun(tmp_path)
    (tmp_path / "finished.json").write_text("{")
    assert finished_step(tmp_path) is None
