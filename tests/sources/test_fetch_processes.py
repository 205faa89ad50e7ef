"""Fetches that are killed, compete, or run against the limits of the machine."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from flan_jax.sources.downloads import Download
from flan_jax.sources.fetch import fetch
from flan_jax.sources.fetch.locks import locked
from tests.sources.fetching import (
    BIG,
    QUICK,
    ROOT,
    fetch_one,
    leftovers,
    script,
    start,
    visible,
    wait_for_part,
)
from tests.sources.http_server import Break, Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server().running() as running:
        yield running


def test_a_disk_that_fills_up_is_told_clearly_and_the_rest_comes_later(server, tmp_path):
    """With a real limit of the kernel on the length of files, in a process of its own."""
    url = server.add("/file", BIG)
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n" + script(url, tmp_path)
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("failed"), done.stderr
    assert f"{os.strerror(errno.EFBIG)} (" not in done.stdout  # explained, not just passed on
    assert "too long for the file system" in done.stdout
    assert len(server.requests) == 1
    assert fetch_one(tmp_path, url, "x").status == "fetched"
    assert server.requests[1].status == 206


def test_a_folder_without_permission_is_told_clearly(server, tmp_path):
    """As an ordinary user, since root may write everywhere."""
    tmp_path.chmod(0o555)
    code = script(server.add("/file", BIG), tmp_path)
    code = code.replace("report =", "import os\nif not os.geteuid(): os.setuid(65534)\nreport =")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    tmp_path.chmod(0o755)
    assert done.stdout.startswith("failed") and "no permission" in done.stdout, done
    assert str(tmp_path) in done.stdout
    assert server.requests == []


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_leaves_nothing_half_and_its_successor_goes_on(server, tmp_path, sign):
    url = server.add("/file", BIG, pause=0.05)
    with start(url, tmp_path) as process:
        part = wait_for_part(tmp_path, 1 << 16)
        process.send_signal(sign)
        began = time.monotonic()
        process.communicate(timeout=20)
    assert process.returncode != 0
    assert time.monotonic() - began < 5
    assert visible(tmp_path) == set()
    size = part.stat().st_size
    assert (1 << 16) <= size < len(BIG)
    server.files["/file"].pause = 0.0
    assert fetch_one(tmp_path, url, "x").status == "fetched"
    assert (tmp_path / "x").read_bytes() == BIG
    assert server.asked("/file")[-1].served == len(BIG) - size
    assert leftovers(tmp_path) == []


def test_an_interrupt_does_not_wait_for_a_silent_server(server, tmp_path):
    url = server.add("/file", BIG, faults=[Break("stall", 200_000)])
    with start(url, tmp_path) as process:
        wait_for_part(tmp_path, 1 << 16)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        process.communicate(timeout=20)
    assert time.monotonic() - began < 5
    assert process.returncode != 0


def test_a_lock_has_one_holder_although_its_file_comes_and_goes(tmp_path):
    lock, holders, most, entries = tmp_path / "x.lock", 0, 0, 0

    def work() -> None:
        nonlocal holders, most, entries
        for _ in range(100):
            with locked(lock, lambda _: None, lambda: None):
                holders += 1
                most = max(most, holders)
                entries += 1
                time.sleep(0)  # lets another thread try
                holders -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, entries, holders) == (1, 4 * 100, 0)
    assert not lock.exists()


def test_two_processes_that_want_the_same_file_fetch_it_once(server, tmp_path):
    url = server.add("/file", BIG, pause=0.02)
    with start(url, tmp_path) as one, start(url, tmp_path) as two:
        told = sorted(process.communicate(timeout=30)[0].split()[0] for process in (one, two))
    assert told == ["fetched", "there"]
    assert server.served("/file") == len(BIG)
    assert (tmp_path / "x").read_bytes() == BIG
    assert leftovers(tmp_path) == []


def test_many_fetches_of_many_files_at_once(server, tmp_path):
    downloads = [Download(server.add(f"/{i}", BIG[i:]), f"{i}") for i in range(12)]
    reports = []
    work = [
        threading.Thread(
            target=lambda: reports.append(fetch(downloads, tmp_path, jobs=3, patience=QUICK))
        )
        for _ in range(4)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(reports) == 4 and all(report.complete for report in reports)
    assert sum(len(report.of("fetched")) for report in reports) == 12
    assert len(server.requests) == 12
    assert all((tmp_path / f"{i}").read_bytes() == BIG[i:] for i in range(12))
