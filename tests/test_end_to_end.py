"""The claims about whole runs: resuming, meshes and processes change nothing."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_runs import Runner, checkpoint_steps, finish, interrupt, losses, rows

pytestmark = pytest.mark.slow

# Dropout, packing, and a mixture of 77 tasks with few-shot prompts are on in tiny.gin.
LONG = {"TRAIN_STEPS": 150, "SAVE_PERIOD": 25, "EVAL_PERIOD": 0}


def uninterrupted(runner: Runner, folder: Path, bindings: dict[str, Any]) -> str:
    """The parameters' hash of a run that nothing disturbs."""
    ended = runner.train(folder, **bindings)
    assert ended.code == 0, ended.err
    assert f"finished at step 150; parameters sha256 {ended.hash}" in ended.err
    return ended.hash


def assert_same_run(folder: Path, reference: Path) -> None:
    """The same metrics, bit by bit, but for what measures time."""
    times = ("time", "tokens_per_second", "steps_per_second")
    ours, theirs = (
        [{name: row[name] for name in row if name not in times} for row in rows(each)]
        for each in (folder, reference)
    )
    assert [row["step"] for row in ours] == list(range(1, 151))
    assert ours == theirs


def test_terminated_and_run_again_ends_in_the_same_bits(runner: Runner, tmp_path: Path):
    digest = uninterrupted(runner, tmp_path / "whole", LONG)
    folder = tmp_path / "resumed"
    flags = runner.train_flags(folder, **LONG)
    ended = interrupt(runner.start(*flags), folder, 40, signal.SIGTERM)
    assert ended.code == 0, ended.err
    assert "saved; run the same command to go on" in ended.err
    stopped = checkpoint_steps(folder)[-1]
    assert 40 <= stopped < 150
    assert f"stopped at step {stopped} of 150" in ended.err
    assert ended.hash != digest

    again = runner.run(*flags)
    assert again.code == 0, again.err
    assert again.hash == digest
    assert_same_run(folder, tmp_path / "whole")

    # A finished run has nothing left to do.
    before = {path: path.stat().st_mtime_ns for path in folder.glob("checkpoint_*/**/*")}
    third = runner.run(*flags)
    assert third.code == 0, third.err
    assert third.hash == digest
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("checkpoint_*/**/*")}
    assert_same_run(folder, tmp_path / "whole")


@pytest.mark.exhaustive
def test_killed_between_checkpoints_and_run_again_ends_in_the_same_bits(
    runner: Runner, tmp_path: Path
):
    bindings = LONG | {"NUM_MICROBATCHES": 2}
    digest = uninterrupted(runner, tmp_path / "whole", bindings)
    folder = tmp_path / "resumed"
    flags = runner.train_flags(folder, **bindings)
    ended = interrupt(runner.start(*flags), folder, 60, signal.SIGKILL)
    assert ended.code == -signal.SIGKILL
    assert 150 > len(rows(folder)) > checkpoint_steps(folder)[-1] > 0

    again = runner.run(*flags)
    assert again.code == 0, again.err
    assert again.hash == digest
    assert_same_run(folder, tmp_path / "whole")


MESH = {"DATA": 2, "FSDP": 2, "TENSOR": 2}
SHORT = {"TRAIN_STEPS": 10, "SAVE_PERIOD": 5, "EVAL_PERIOD": 5, "DROPOUT_RATE": 0.0}


@pytest.fixture(scope="module")
def one_device(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one_device")
    ended = runner.train(folder, **SHORT)
    assert ended.code == 0, ended.err
    return folder


def assert_losses_close(folder: Path, reference: Path, steps: int = 10) -> None:
    ours, theirs = losses(folder), losses(reference)
    assert sorted(ours) == list(range(1, steps + 1))
    np.testing.assert_allclose(
        [ours[step] for step in ours], [theirs[step] for step in ours], rtol=0, atol=1e-5
    )


@pytest.mark.exhaustive
def test_eight_devices_have_the_losses_of_one_and_take_over_from_one_another(
    runner: Runner, one_device: Path, tmp_path: Path
):
    folder = tmp_path / "eight"
    eight = runner.train(folder, devices=8, **SHORT | {"TRAIN_STEPS": 5}, **MESH)
    assert eight.code == 0, eight.err
    assert_losses_close(folder, one_device, 5)
    validation = [rows(each, "training_eval/micro")[0] for each in (folder, one_device)]
    assert validation[0]["loss"] == pytest.approx(validation[1]["loss"], abs=1e-5)
    # The second half on one device: the same losses again.
    one = runner.train(folder, **SHORT)
    assert one.code == 0, one.err
    assert_losses_close(folder, one_device)
    # And the other way round.
    folder = tmp_path / "one"
    shutil.copytree(one_device, folder)
    shutil.rmtree(folder / "checkpoint_10")
    eight = runner.train(folder, devices=8, **SHORT, **MESH)
    assert eight.code == 0, eight.err
    assert_losses_close(folder, one_device)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_two(runner: Runner, folder: Path, **bindings):
    port = free_port()
    return [
        runner.start(
            *runner.train_flags(folder, **bindings),
            f"--coordinator_address=127.0.0.1:{port}",
            "--process_count=2",
            f"--process_index={index}",
        )
        for index in range(2)
    ]


@pytest.mark.exhaustive
def test_two_processes_have_the_losses_of_one(runner: Runner, one_device: Path, tmp_path: Path):
    for process in start_two(runner, tmp_path, **SHORT | {"EVAL_PERIOD": 0}, FSDP=2, DATA=1):
        ended = finish(process)
        assert ended.code == 0, ended.err
    assert_losses_close(tmp_path, one_device)
    assert checkpoint_steps(tmp_path) == [5, 10]
    # What two processes saved, one can read.
    again = runner.train(tmp_path, **SHORT)
    assert again.code == 0, again.err
    assert "finished at step 10" in again.err


def test_two_processes_stop_together_when_one_is_told_to(runner: Runner, tmp_path: Path):
    bindings = SHORT | {"TRAIN_STEPS": 100_000, "SAVE_PERIOD": 100_000, "EVAL_PERIOD": 0}
    first, second = start_two(runner, tmp_path, **bindings)
    try:
        ended = interrupt(first, tmp_path, 30, signal.SIGTERM)
        other = finish(second)
    finally:
        first.kill()
        second.kill()
    assert ended.code == 0, ended.err
    assert other.code == 0, other.err
    (step,) = checkpoint_steps(tmp_path)
    assert f"stopped at step {step} of 100000, saved" in ended.err
