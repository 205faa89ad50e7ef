"""Four real processes under `flan-jax launch local`; one is killed at a random moment.

`make test` kills once, `make test-exhaustive` twice, or as often as FLAN_JAX_KILLS says.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.tiny_runs import Runner, finish, losses

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

COUNT = 4
KILLS = int(os.environ.get("FLAN_JAX_KILLS", "2"))
SECONDS = 60  # within which the job must have ended
LIMIT = 1500  # for a whole run, on a machine with much else to do


def arguments(runner: Runner, folder: Path) -> list[str]:
    return [
        *("launch", "local", "train", f"--processes={COUNT}", "--run", "--no_check"),
        *("--name=kill", f"--folder={folder / 'launched'}", f"--gin_file={runner.tiny}"),
        f"--gin.MODEL_DIR={folder / 'model'}",
    ]


@pytest.fixture(scope="module")
def undisturbed(runner: Runner, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = finish(runner.start(*arguments(runner, folder)), LIMIT)
    assert ended.code == 0, ended.err
    assert "lost process" not in ended.err
    return ended.hash, losses(folder / "model")


def children(launcher: subprocess.Popen[str]) -> dict[int, int]:
    """Process ids of the job's processes by index."""
    found = {}
    try:
        text = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
    except FileNotFoundError:  # it has ended
        return {}
    for pid in map(int, text.split()):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        for word in words:
            if word.startswith(b"--process_index="):
                found[int(word.partition(b"=")[2])] = pid
    return found


def wait_until(launcher: subprocess.Popen[str], condition, seconds: float, what: str):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended = launcher.poll() is not None  # before it is asked for the last time
        if found := condition():
            return found
        if ended:
            _, err = launcher.communicate()
            raise AssertionError(f"no {what}: the launcher ended, {launcher.returncode}:\n{err}")
        time.sleep(0.02)
    raise AssertionError(f"no {what} after {seconds} s")


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def rows_written(model: Path) -> int:
    path = model / "train" / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(i, marks=pytest.mark.exhaustive) for i in range(1, KILLS))]
)
def test_killed_at_a_random_moment_it_ends_restarts_and_comes_out_the_same(
    seed: int, undisturbed, runner: Runner, tmp_path: Path
):
    draw = random.Random(seed)
    victim, after_rows, pause = draw.randrange(COUNT), draw.randrange(6), draw.uniform(0, 1)
    launcher = runner.start(*arguments(runner, tmp_path))
    try:
        four = wait_until(
            launcher, lambda: len(found := children(launcher)) == COUNT and found, 60, "processes"
        )
        model = tmp_path / "model"
        enough = f"row {after_rows}"
        wait_until(launcher, lambda: rows_written(model) >= after_rows, LIMIT, enough)
        time.sleep(pause)
        os.kill(four[victim], signal.SIGKILL)
        killed = time.monotonic()
        others = [pid for index, pid in four.items() if index != victim]
        wait_until(launcher, lambda: all(map(is_gone, others)), SECONDS, "end of the others")
        assert time.monotonic() - killed < SECONDS
        ended = finish(launcher, LIMIT)
    finally:
        if launcher.poll() is None:
            launcher.terminate()
            launcher.wait(60)
    assert ended.code == 0, ended.err
    named = f"lost process {victim} of {COUNT} (pid {four[victim]}) was killed by SIGKILL"
    assert named in ended.err
    assert re.search(r"start 2 of at most \d+ of 'kill'", ended.err)
    expected_hash, expected_losses = undisturbed
    assert ended.hash == expected_hash
    assert losses(model) == expected_losses
