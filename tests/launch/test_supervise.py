"""The watcher of processes on this machine, with processes that are small scripts."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import flan_jax.peers
from flan_jax.launch import LaunchError, RetryPolicy
from flan_jax.launch.rendered import Processes
from flan_jax.launch.supervise import supervise

# Each process counts its starts in a file, then does what its word says at that start.
_CHILD = """
import os, pathlib, signal, sys, time
folder, index, port, count, *words = sys.argv[1:]
starts = pathlib.Path(folder, "starts_" + index)
starts.write_text(starts.read_text() + port + "\\n" if starts.exists() else port + "\\n")
word = words[min(len(starts.read_text().splitlines()), len(words)) - 1]
print("process", index, "does", word, flush=True)
if word == "waits":
    time.sleep(60)
elif word == "dies":
    while len(list(pathlib.Path(folder).glob("starts_*"))) < int(count):
        time.sleep(0.05)  # else the others may be ended before they have counted
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
elif word == "stops":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    pathlib.Path(folder, "ready_" + index).touch()
    time.sleep(60)
elif word.startswith("ends"):
    time.sleep(0.2)
    sys.exit(int(word[4:]))
"""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[supervise.__module__], "_LAST_WORDS", 2.0)


def processes(folder: Path, *words: str, port: int = 0) -> Processes:
    count = str(len(words))
    argvs = tuple(
        (
            sys.executable,
            "-SE",
            "-c",
            _CHILD,
            str(folder),
            str(index),
            "{port}",
            count,
            *word.split(),
        )
        for index, word in enumerate(words)
    )
    return Processes(argvs, tuple({"INDEX": str(i)} for i in range(len(words))), port)


def run(folder: Path, *words: str, restarts: int = 2, port: int = 0) -> tuple[int, list[str]]:
    told: list[str] = []
    code = supervise(
        "job",
        processes(folder, *words, port=port),
        RetryPolicy(restarts=restarts),
        folder / "logs",
        say=told.append,
    )
    return code, told


def starts(folder: Path, index: int) -> list[str]:
    return (folder / f"starts_{index}").read_text().split()


def test_all_end_well(tmp_path: Path):
    assert run(tmp_path, "ends0", "ends0") == (0, [])
    assert "process 1 does ends0" in (tmp_path / "logs" / "process_1.log").read_text()
    (port,) = starts(tmp_path, 0)
    assert starts(tmp_path, 1) == [port] and int(port) > 0


def test_a_killed_one_ends_all_is_named_and_all_start_again(tmp_path: Path):
    begun = time.monotonic()
    code, told = run(tmp_path, "waits ends0", "dies ends0", "waits ends0")
    assert code == 0 and time.monotonic() - begun < 30
    assert told[0].startswith("lost process 1 of 3 (pid ")
    assert told[0].endswith("was killed by SIGKILL")
    assert "start 2 of at most 3 of 'job', from the newest checkpoint" in told
    assert [len(starts(tmp_path, index)) for index in range(3)] == [2, 2, 2]


def test_restarts_are_limited(tmp_path: Path):
    with pytest.raises(LaunchError, match=r"killed by SIGKILL, and no restarts are left"):
        run(tmp_path, "dies", "waits", restarts=1)
    assert len(starts(tmp_path, 0)) == 2


def test_an_error_of_its_own_is_not_tried_again(tmp_path: Path):
    code, told = run(tmp_path, "waits", "ends2")
    assert code == 2
    assert told[0].startswith("lost process 1 of 2") and told[0].endswith("ended with status 2")
    assert len(starts(tmp_path, 0)) == 1


def test_the_cause_is_blamed_not_those_that_lost_a_peer(tmp_path: Path):
    code, told = run(tmp_path, "ends75", "ends2", "ends75")
    assert code == 2 and "process 1 of 3" in told[0]


def test_those_that_lost_a_peer_start_again(tmp_path: Path):
    code, told = run(tmp_path, "ends75 ends0", "ends75 ends0")
    assert code == 0 and "ended with status 75" in told[0]


def test_asked_to_stop_all_save_and_it_ends_well(tmp_path: Path):
    def ask() -> None:
        while len(list(tmp_path.glob("ready_*"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    code, told = run(tmp_path, "stops", "stops")
    thread.join()
    assert (code, told) == (0, [])
    assert len(starts(tmp_path, 0)) == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_words_of_others_are_waited_for_longer_than_process_0_waits():
    source = Path(sys.modules[supervise.__module__].__file__ or "").read_text()
    (seconds,) = re.findall(r"^_LAST_WORDS = ([\d.]+)$", source, re.M)
    assert float(seconds) > flan_jax.peers.LINGER + 2


_LAUNCHER = """
import sys
from pathlib import Path
from flan_jax.launch import RetryPolicy
from flan_jax.launch.supervise import supervise
from tests.launch.test_supervise import processes
folder = Path(sys.argv[1])
sys.exit(supervise("job", processes(folder, "stops", "stops"), RetryPolicy(), folder, say=print))
"""


def launcher(folder: Path) -> subprocess.Popen[bytes]:
    """A launcher whose two processes are ready."""
    root = Path(__file__).resolve().parents[2]
    started = subprocess.Popen([sys.executable, "-c", _LAUNCHER, str(folder)], cwd=root)
    while len(list(folder.glob("ready_*"))) < 2:
        assert started.poll() is None
        time.sleep(0.02)
    return started


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_launcher_that_ends_leaves_no_processes(tmp_path: Path, number: signal.Signals):
    started = launcher(tmp_path)
    pids = children(started.pid)
    assert len(pids) == 2
    started.send_signal(number)
    assert started.wait(20) == (0 if number == signal.SIGHUP else -signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, pids))


def is_alive(pid: int) -> bool:
    """Whether it runs; an orphan that has ended may wait to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(LaunchError, match=f"--port={port}: Address already in use"):
            run(tmp_path, "ends0", port=port)
    assert not (tmp_path / "starts_0").exists()
    assert run(tmp_path, "ends0", port=port)[0] == 0
    assert starts(tmp_path, 0) == [str(port)]
