"""Several real processes: they find each other, compute the same as one, and end together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flan_jax.checkpoints.own import open_own
from flan_jax.distributed import in_cluster, joined
from flan_jax.rendezvous import DistributedError
from tests.tiny_runs import Ended, Runner, checkpoint_steps, finish, losses

SCRIPT = Path(__file__).with_name("joined_process.py")
MOST_SECONDS = 60.0  # for survivors to end after a process is lost


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# --- Flags -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("localhost:1", None, None), "without --process_count, --process_index"),
        ((None, 2, 1), "without --coordinator_address"),
        (("localhost", 2, 1), "must be host:port"),
        (("localhost:x", 2, 1), "must be host:port"),
        (("localhost:1", 2, 2), "indices go from 0 to 1"),
        (("localhost:1", 0, 0), "at least 1"),
    ],
)
def test_flags_that_do_not_fit(flags, message):
    with pytest.raises(DistributedError, match=message), joined(*flags):
        raise AssertionError("joined")


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_NTASKS": "4"}, False),  # in a batch script, outside a job step
        ({"OMPI_COMM_WORLD_SIZE": "2", "JAX_PLATFORMS": "cpu"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, False),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a:1"}, True),
    ],
)
def test_machines_that_say_so(environment, several):
    assert in_cluster(environment) is several


# --- Small processes -------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    yield
    while _started:
        process = _started.pop()
        process.kill()
        process.communicate()


_started: list[subprocess.Popen[str]] = []


def start(address: str, count: int, index: int, *arguments: int, **environment: str):
    variables = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "PYTHONPATH": str(SCRIPT.parent.parent),
    }
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), address, str(count), str(index), *map(str, arguments)],
        env=variables | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _started.append(process)
    return process


def wait_for_line(process: subprocess.Popen[str], beginning: str) -> None:
    """Reads what a process prints up to a line with this beginning (gloo prints lines too)."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(finish(process).err)


def start_all(count: int, *arguments: int) -> list[subprocess.Popen[str]]:
    address = f"127.0.0.1:{free_port()}"
    return [start(address, count, index, *arguments) for index in range(count)]


def disturb(
    processes: list[subprocess.Popen[str]], victim: int, number: signal.Signals
) -> list[Ended]:
    """How the others end after a signal to one; in time, or this fails."""
    processes[victim].send_signal(number)
    begun = time.monotonic()
    ended = [finish(each, MOST_SECONDS) for i, each in enumerate(processes) if i != victim]
    assert time.monotonic() - begun < MOST_SECONDS
    return ended


@pytest.mark.slow
def test_processes_of_a_slurm_step_find_each_other():
    def step(index: int) -> dict[str, str]:
        return {
            "SLURM_JOB_ID": job,
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_STEP_NUM_NODES": "1",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(index),
            "SLURM_LOCALID": str(index),
        }

    job = str(os.getpid())  # the port is made of it
    for index, process in enumerate([start("-", 2, i, 3, **step(i)) for i in range(2)]):
        ended = finish(process)
        assert ended.code == 0, ended.err
        assert ended.out.splitlines()[-1] == f"2 {index} 2 1"


@pytest.mark.slow
def test_a_process_that_fails_tells_the_others():
    address = f"127.0.0.1:{free_port()}"
    others = [start(address, 3, index, 10_000) for index in (0, 2)]
    failing = finish(start(address, 3, 1, 10_000, 5))
    assert failing.code == 2, failing.err
    assert failing.err.rstrip().endswith("the disk of this one is full")
    for other in others:
        ended = finish(other, MOST_SECONDS)
        assert ended.code not in (0, None), ended.err
        assert "process 1 of 3" in ended.err
        assert "failed: the disk of this one is full" in ended.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize("victim", [0, 2])
def test_the_others_end_and_name_the_lost_process(victim: int, number: signal.Signals):
    processes = start_all(3, 100_000)
    for each in processes:
        wait_for_line(each, "0 ")
    pid = processes[victim].pid
    for ended in disturb(processes, victim, number):
        assert ended.code not in (0, None), ended.err
        lost = f"lost process {victim} of 3 ({socket.gethostname()}, pid {pid})"
        assert lost in ended.err, ended.err
        assert "go on from the newest checkpoint" in ended.err


# --- Whole runs ------------------------------------------------------------------------------

SHORT = {"TRAIN_STEPS": 10, "SAVE_PERIOD": 5, "EVAL_PERIOD": 5, "DROPOUT_RATE": 0.0}


def start_run(runner: Runner, folder: Path, count: int, devices: int = 1, **bindings):
    """`flan-jax train` in several processes of so many devices."""
    address = f"127.0.0.1:{free_port()}"
    processes = [
        runner.start(
            *runner.train_flags(folder, **bindings),
            f"--coordinator_address={address}",
            f"--process_count={count}",
            f"--process_index={index}",
            devices=devices,
        )
        for index in range(count)
    ]
    _started.extend(processes)
    return processes


def parameters(folder: Path, step: int) -> dict[str, np.ndarray]:
    """The parameters of a checkpoint, read by this one process."""
    reader = open_own(folder / f"checkpoint_{step}")
    return {name: reader.read(name) for name in reader.infos if name.startswith("params/")}


@pytest.mark.slow
def test_four_and_then_two_processes_train_as_one(runner: Runner, tmp_path: Path):
    """On meshes whose `tensor` crosses processes, which then read the same rows."""
    reference = runner.train(tmp_path / "one", **SHORT)
    assert reference.code == 0, reference.err
    folder = tmp_path / "several"
    first = SHORT | {"TRAIN_STEPS": 5, "FSDP": 2, "TENSOR": 2}
    for process in start_run(runner, folder, 4, **first):
        ended = finish(process)
        assert ended.code == 0, ended.err
    # The second half: another mesh and another number of processes, from their checkpoint.
    for process in start_run(runner, folder, 2, devices=2, **SHORT, DATA=1, FSDP=4):
        ended = finish(process)
        assert ended.code == 0, ended.err
    assert checkpoint_steps(folder) == [5, 10]
    ours, theirs = losses(folder), losses(tmp_path / "one")
    assert sorted(ours) == list(range(1, 11))
    np.testing.assert_allclose(
        [ours[step] for step in ours], [theirs[step] for step in ours], rtol=0, atol=1e-5
    )
    wanted = parameters(tmp_path / "one", 10)
    for name, value in parameters(folder, 10).items():
        np.testing.assert_allclose(value, wanted.pop(name), rtol=0, atol=1e-4, err_msg=name)
    assert wanted == {}


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_run_of_four_ends_when_one_is_killed(runner: Runner, tmp_path: Path):
    long = SHORT | {"TRAIN_STEPS": 100_000, "SAVE_PERIOD": 100_000, "EVAL_PERIOD": 0}
    processes = start_run(runner, tmp_path, 4, **long)
    metrics = tmp_path / "train" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 20:
        assert all(each.poll() is None for each in processes), finish(processes[0], 60).err
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for ended in disturb(processes, 2, signal.SIGKILL):
        assert ended.code not in (0, None), ended.err
        assert f"lost process 2 of 4 ({socket.gethostname()}, pid {processes[2].pid})" in ended.err
