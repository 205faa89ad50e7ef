"""Names of checkpoints in the store, and the line that tells progress; the rest is in tests/cli."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flan_jax.checkpoints.manager import RestoreCheckpointConfig
from flan_jax.checkpoints.tensors import CheckpointError
from flan_jax.errors import UserError
from flan_jax.evaluation import evaluate
from flan_jax.evaluation.evaluate import checkpoint_name, progress_line
from flan_jax.evaluation.job import Progress
from flan_jax.evaluation.protocol import EvalProtocol


def test_checkpoint_name_tells_runs_steps_and_times_apart(tmp_path: Path, monkeypatch):
    names = set()
    for run, step, written in (("a", 5, 10), ("a", 6, 10), ("b", 5, 10), ("a", 5, 11)):
        folder = tmp_path / run / f"checkpoint_{step}"
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder, (written, written))
        name, found = checkpoint_name(str(folder))
        assert found == step
        assert name == f"{run}-checkpoint_{step}-{written}"
        names.add(name)
    assert len(names) == 4
    monkeypatch.chdir(tmp_path / "a")
    assert checkpoint_name("checkpoint_5") == checkpoint_name(f"{tmp_path}/a/checkpoint_5/")


def test_foreign_checkpoint_has_step_0(tmp_path: Path):
    folder = tmp_path / "hf_model"
    folder.mkdir()
    assert checkpoint_name(str(folder))[1] == 0


def test_progress_is_told_now_and_then_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    now = [50.0]
    monkeypatch.setattr("flan_jax.evaluation.evaluate.time.monotonic", lambda: now[0])
    tell = progress_line(5.0)
    protocol = EvalProtocol("zero_shot", ("a",))
    for done in range(1, 13):
        tell(protocol, Progress(done, 12, done * 1.0))
        now[0] += 1
    assert capsys.readouterr().err.splitlines() == [
        "zero_shot: 1/12 in 1 s",
        "zero_shot: 6/12 in 6 s",
        "zero_shot: 11/12 in 11 s",
        "zero_shot: 12/12 in 12 s",
    ]


def test_progress_tells_the_time_that_is_left(capsys: pytest.CaptureFixture[str]):
    protocol = EvalProtocol("zero_shot", ("a",))
    progress_line(0.0)(protocol, Progress(3, 12, 20.0, left=600.0))
    progress_line(0.0)(protocol, Progress(12, 12, 80.0, left=0.0))
    assert capsys.readouterr().err.splitlines() == [
        "zero_shot: 3/12 in 20 s, about 10 min left",
        "zero_shot: 12/12 in 80 s",
    ]


def test_a_checkpoint_has_two_names():
    none, one = RestoreCheckpointConfig(), RestoreCheckpointConfig("/a")
    assert evaluate._with_path(none, "/b").path == "/b"
    assert evaluate._with_path(none, ["/b", "/c"]).path == ("/b", "/c")
    assert evaluate._with_path(one, None) is one
    assert evaluate._with_path(one, "/a").path == "/a"
    with pytest.raises(UserError, match="are two names of one thing"):
        evaluate._with_path(one, "/b")


def test_a_checkpoint_that_its_run_deleted_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def gone(*_):
        raise CheckpointError("not there")

    monkeypatch.setattr(evaluate._Job, "evaluate", gone)
    job = evaluate._Job(*[None] * 7)
    assert job.evaluate_if_there(str(tmp_path / "checkpoint_1"), tmp_path, None) == []
    assert "checkpoint_1 was deleted before it could be evaluated" in capsys.readouterr().err
    with pytest.raises(CheckpointError):  # it is there: something else is wrong with it
        job.evaluate_if_there(str(tmp_path), tmp_path, None)
