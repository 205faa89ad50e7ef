"""The Flan suite over the shipped checkpoint: killed and resumed in two processes, it ends with the
same bytes as in one go, in one process, with another batch size.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_distributed import free_port
from tests.tiny_runs import Runner, finish, gin_flags

pytestmark = pytest.mark.slow

PROTOCOLS = ("mmlu_direct", "mmlu_cot", "bbh_direct", "bbh_cot", "tydiqa", "mgsm_cot")
ITEMS = 57 + 57 + 27 + 27 + 8 + 10  # one of each subtask
SMALL = {
    "CHECKPOINT": "mixtures/micro/base",
    "NUM_EXAMPLES": 1,
    "INPUTS_LENGTH": 256,
    "DIRECT_DECODE_LEN": 12,
    "COT_DECODE_LEN": 12,
    "ROWS_PER_DEVICE": 4,
}


@pytest.fixture
def started(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen]]:
    """Processes that are killed at the end of the test if they still run."""
    monkeypatch.setenv("FLAN_JAX_DATA", str(test_data))
    processes: list[subprocess.Popen] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(runner: Runner, folder: Path, *flags: str, **bindings) -> subprocess.Popen[str]:
    values = SMALL | {"EVAL_OUTPUT_DIR": str(folder)} | bindings
    return runner.start(
        "eval",
        "--gin_file=models/t5/micro.gin",
        "--gin_file=gin/eval/flan_suite.gin",
        *gin_flags(values),
        *flags,
    )


def start_two(runner: Runner, folder: Path, **bindings) -> list[subprocess.Popen[str]]:
    address = f"127.0.0.1:{free_port()}"
    return [
        start(
            runner,
            folder,
            f"--coordinator_address={address}",
            "--process_count=2",
            f"--process_index={index}",
            **bindings,
        )
        for index in range(2)
    ]


def stored_rows(folder: Path) -> int:
    """Outputs in all stores of a folder."""
    stores = list(folder.glob("predictions/*/*.jsonl"))
    return sum(path.read_bytes().count(b"\n") - 1 for path in stores)


def outputs(folder: Path) -> dict[tuple[str, ...], tuple[str, float]]:
    """Raw output and its log-probability by item; none may be there twice."""
    found = {}
    for path in folder.glob("predictions/*/*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            row = json.loads(line)
            key = (path.name, row["item"], row["prompt"])
            assert key not in found, "answered twice"
            found[key] = (row["output"], row["logprob"])
    return found


def results(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("inference_eval/*/*"), *folder.glob("summary-*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def kill_after(processes: list[subprocess.Popen[str]], folder: Path, rows: int) -> int:
    """SIGKILL to all when so many outputs are stored; returns how many were."""
    deadline = time.monotonic() + 240
    while stored_rows(folder) < rows:
        ended = [process for process in processes if process.poll() is not None]
        assert not ended, finish(ended[0]).err
        assert time.monotonic() < deadline, f"{stored_rows(folder)} of {rows} outputs"
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate()
    return stored_rows(folder)


def test_killed_twice_and_resumed_it_ends_with_the_same_bytes(
    runner: Runner, started: list, tmp_path: Path
):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    # The store knows a checkpoint by when it was written, which is the same for both.
    started.append(start(runner, whole, BATCH_SIZE=32))
    ended = finish(started[-1])
    assert ended.code == 0, ended.err
    assert len(outputs(whole)) == ITEMS

    seed = int(os.environ.get("FLAN_JAX_TEST_SEED", "7"))
    points = sorted(random.Random(seed).sample(range(1, ITEMS - 20), 2))
    for point in points:
        processes = start_two(runner, folder, BATCH_SIZE=8)
        started.extend(processes)
        assert point <= kill_after(processes, folder, point) < ITEMS
    before = stored_rows(folder)
    processes = start_two(runner, folder, BATCH_SIZE=8)
    started.extend(processes)
    for process in processes:
        ended = finish(process)
        assert ended.code == 0, ended.err

    assert before < stored_rows(folder) == ITEMS
    assert outputs(folder) == outputs(whole)  # log-probabilities to the last bit
    assert results(folder) == results(whole)
    for protocol in PROTOCOLS:
        summary = json.loads((folder / f"summary-{protocol}-001500.json").read_text())
        assert summary["benchmark"]["protocol"] == protocol
    texts = {text for text, _ in outputs(folder).values()}
    assert len(texts) > 50  # a model that writes the same everywhere would show nothing
