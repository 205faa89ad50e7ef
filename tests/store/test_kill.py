"""A build that is killed at any moment goes on where it was, and the store is the same."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.store.helpers import MODULE_NAME, MODULE_TEXT, contents, write_rows

ROOT = Path(__file__).resolve().parents[2]
_TASKS = 30
_KILLS = 50
# Builds when it is told to, in a child of its own: starting Python anew for every kill would take
# most of the time. Each task says in a file that it is being read, and takes a while.
_SERVER = f"""\
import json, os, sys, time
import flan_jax.sources.fetch.locks
from flan_jax.mixing import define_mixture
from flan_jax.sources.jsonl import JsonlSource
from flan_jax.store import build_store
import {MODULE_NAME} as content

data = sys.argv[1]
names = [f"t{{i:02d}}" for i in range({_TASKS})]


class Slow(JsonlSource):
    def row(self, split, index):
        if (split, index) == ("train", 0):
            with open(os.path.join(data, "log"), "a") as log:
                log.write(self.files["train"] + "\\n")
        if index % 10 == 0:
            time.sleep(0.001)
        return super().row(split, index)


for name in names:
    content.task(name, Slow({{"train": f"{{name}}.jsonl"}}), to_fields=content.to_fields)
mixture = define_mixture("many", names)
for line in sys.stdin:
    child = os.fork()
    if not child:
        build_store(mixture, line.strip(), shard_bytes=20_000)
        os._exit(0)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(json.dumps(status), flush=True)
"""


class _Builder:
    """Runs builds in real processes and may kill them."""

    def __init__(self, process: subprocess.Popen):
        self._process = process

    def run(self, out: Path, kill_after: float | None = None) -> bool:
        """Whether the build ended by itself, and well."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{out}\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(child, signal.SIGKILL)
        status = json.loads(self._process.stdout.readline())
        assert status in (0, signal.SIGKILL)
        return status == 0


@pytest.fixture
def builder(tmp_path):
    code, data = tmp_path / "code", tmp_path / "data"
    code.mkdir()
    data.mkdir()
    (code / f"{MODULE_NAME}.py").write_text(MODULE_TEXT)
    (code / "t.yaml").write_text('templates: [{inputs: "{{ question }}", targets: "{{ answer }}"}]')
    (code / "server.py").write_text(_SERVER)
    for number in range(_TASKS):
        write_rows(data, f"t{number:02d}", 20 + number)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{code}",
        "FLAN_JAX_DATA": str(data),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    process = subprocess.Popen(
        [sys.executable, str(code / "server.py"), str(data)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    with process:
        yield _Builder(process)
        process.stdin.close()


def _moment(moments: random.Random, whole: float, kills: int) -> float:
    """When to kill a build that takes `whole` seconds, at its start, amid its tasks or packing.

    Later after each kill, so that it comes to an end though packing starts over every time.
    """
    return moments.uniform(0.0, 0.15 + 0.05 * kills) * whole


@pytest.mark.slow
def test_killed_at_fifty_random_moments(builder, tmp_path):
    log = tmp_path / "data" / "log"
    started = time.monotonic()
    assert builder.run(tmp_path / "whole")
    whole = time.monotonic() - started
    wanted = contents(tmp_path / "whole")
    assert len(log.read_text().splitlines()) == _TASKS
    moments = random.Random(0)
    kills = rounds = 0
    while kills < _KILLS:
        rounds += 1
        target = tmp_path / f"killed{rounds}"
        log.write_text("")
        here = 0
        while not builder.run(target, _moment(moments, whole, here)):
            here += 1
            assert here < 100
        kills += here
        assert contents(target) == wanted
        # What was finished was not read again: each kill costs the task that was under way.
        assert len(log.read_text().splitlines()) <= _TASKS + here
    assert rounds > 1


@pytest.mark.slow
def test_killed_while_an_old_store_is_replaced(builder, tmp_path):
    """At every moment the folder holds the old store or the new one, whole."""
    from flan_jax.store import open_store

    data, target = tmp_path / "data", tmp_path / "target"
    started = time.monotonic()
    assert builder.run(target)
    whole = time.monotonic() - started
    moments = random.Random(1)
    kills = 0
    versions = ("is", "was", "will be")
    while kills < 15:
        before = open_store(target).manifest
        for number in range(0, _TASKS, 3):
            write_rows(data, f"t{number:02d}", 20 + number, word=versions[kills % 3] + "?" * kills)
        here = 0
        while not builder.run(target, _moment(moments, whole, here)):
            kills += 1
            here += 1
            assert here < 100
            store = open_store(target, verify="always")
            if store.manifest.index == before.index:
                assert store.manifest == before
            assert store.source("t01").row("train", 0)["question"] == "t01 0 is?"
    assert builder.run(tmp_path / "fresh")
    assert contents(target) == contents(tmp_path / "fresh")


@pytest.mark.slow
def test_a_killed_build_takes_its_processes_along(builder, tmp_path):
    """`--jobs`: nobody goes on writing, and the next build finds what it needs."""
    code = tmp_path / "code"
    module = (code / "server.py").read_text().split("mixture = ")[0]
    module = module.replace("sys.argv[1]", 'os.environ["FLAN_JAX_DATA"]')
    (code / "own_slow.py").write_text(
        f'{module}\nfrom flan_jax.mixing import register_mixture\nregister_mixture("many", names)\n'
    )
    log = tmp_path / "data" / "log"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{code}",
        "FLAN_JAX_DATA": str(tmp_path / "data"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "flan_jax", "data", "build", "many", "--out"]
    command += [str(tmp_path / "s"), "--jobs", "2", "--module", "own_slow"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    with subprocess.Popen(command, **quiet) as process:
        deadline = time.monotonic() + 60
        while not (log.exists() and len(log.read_text().splitlines()) > 4):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.005)
        process.kill()
    time.sleep(1)
    started = len(log.read_text().splitlines())
    time.sleep(1)
    assert len(log.read_text().splitlines()) == started < _TASKS
    assert subprocess.run(command, **quiet).returncode == 0
    assert len(log.read_text().splitlines()) <= _TASKS + 2
    log.write_text("")
    command[command.index("--out") + 1] = str(tmp_path / "fresh")
    assert subprocess.run(command, **quiet).returncode == 0
    assert contents(tmp_path / "s") == contents(tmp_path / "fresh")
