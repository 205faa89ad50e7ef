"""`flan-jax data fetch`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flan_jax.cli import main as cli
from flan_jax.cli.content import load_content
from tests.sources.http_server import Server, Status

ROOT = Path(__file__).resolve().parents[2]
# Addresses as in real definitions: tests lead them to the local server by --mirror.
MODULE = '''\
from flan_jax.mixing import register_mixture
from flan_jax.sources.base import SourceError
from flan_jax.sources.downloads import Download, ManualDownload
from flan_jax.sources.jsonl import JsonlSource
from flan_jax.tasks import TaskDefinition, register_task


class Listed(JsonlSource):
    """JSON lines whose origin is known."""

    def downloads(self):
        return tuple(Download(f"https://data.example/{f}", f) for f in self.files.values())


class ByHand(JsonlSource):
    """JSON lines that have to be asked for."""

    def downloads(self):
        return tuple(ManualDownload(f, "Ask the authors.") for f in self.files.values())


class Broken(JsonlSource):
    def downloads(self):
        raise SourceError("the index is broken")


class Old:
    """A source of before `downloads`."""

    kind = "old"

    def describe(self):
        return "old"

    def splits(self):
        return ("train",)

    def num_examples(self, split):
        return 0

    def row(self, split, index):
        raise IndexError


def task(name, source):
    register_task(TaskDefinition(name, "fetched", "own", source, None, "MIT"))


task("fetch_one", Listed({"train": "one/train.jsonl", "test": "shared.jsonl"}))
task("fetch_two", Listed({"train": "two/train.jsonl", "test": "shared.jsonl"}))
task("fetch_absent", Listed({"train": "absent.jsonl"}))
task("fetch_manual", ByHand({"train": "manual.jsonl"}))
task("fetch_broken", Broken({"train": "broken.jsonl"}))
task("fetch_unknown", JsonlSource({"train": "unknown/train.jsonl"}))
task("fetch_old", Old())
register_mixture("fetch_good", ["fetch_one", "fetch_two"])
register_mixture("fetch_all", ["fetch_one", "fetch_absent", "fetch_manual", "fetch_two"])
'''


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server().running() as running:
        for path in ("/one/train.jsonl", "/two/train.jsonl", "/shared.jsonl"):
            running.add(path, b'{"input": "i", "answer": "a"}\n' * 1000)
        yield running


@pytest.fixture
def run(server, tmp_path, monkeypatch, capsys):
    """Runs the command in this process: (exit code, stdout, stderr)."""
    from flan_jax import mixing, tasks

    load_content()  # before the registries are copied, which are put back afterwards
    module = "fetch_test_tasks"
    (tmp_path / f"{module}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))
    monkeypatch.setattr(mixing, "_MIXTURES", dict(mixing._MIXTURES))
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path / "data"))

    def run(*arguments: str) -> tuple[int, str, str]:
        mirror = f"https://data.example={server.address}"
        options = ["--module", module, "--mirror", mirror, "--attempts", "1"]
        capsys.readouterr()
        code = cli.main(["data", "fetch", *arguments, *options])
        return code, *capsys.readouterr()

    yield run
    sys.modules.pop(module, None)


def test_a_mixture_is_fetched_each_file_once(run, server, tmp_path):
    code, output, errors = run("fetch_good")
    assert code == 0
    rows = [line.split("\t")[:2] for line in output.splitlines()]
    assert rows == [
        ["fetched", "one/train.jsonl"],
        ["fetched", "shared.jsonl"],
        ["fetched", "two/train.jsonl"],
    ]
    assert errors.count("fetched one/train.jsonl (30,000 bytes)") == 1
    assert "0 there, 3 fetched, 0 failed, 0 manual" in errors
    assert len(server.requests) == 3
    assert (tmp_path / "data/shared.jsonl").read_bytes() == server.files["/shared.jsonl"].content
    code, output, errors = run("fetch_one", "fetch_two")
    assert code == 0
    assert [line.split("\t")[0] for line in output.splitlines()] == ["there"] * 3
    assert len(server.requests) == 3


def test_missing_data_are_listed_with_reasons_and_the_exit_code_tells(run, server):
    code, output, errors = run("fetch_all", "--format", "json")
    assert code == 1
    report = json.loads(output)
    assert report["complete"] is False
    found = {outcome["name"]: outcome for outcome in report["outcomes"]}
    assert {name: outcome["status"] for name, outcome in found.items()} == {
        "one/train.jsonl": "fetched",
        "shared.jsonl": "fetched",
        "absent.jsonl": "failed",
        "manual.jsonl": "manual",
        "two/train.jsonl": "fetched",
    }
    assert "404" in found["absent.jsonl"]["detail"]
    assert "Ask the authors." in found["manual.jsonl"]["detail"]
    assert "failed absent.jsonl: the server answers 404" in errors
    code, output, _ = run("fetch_all", "--allow_missing")
    assert code == 0
    assert output.count("\n") == 5


def test_sources_that_cannot_say_what_they_need(run):
    code, output, _ = run("fetch_broken", "fetch_unknown", "fetch_old", "fetch_one")
    assert code == 1
    rows = [line.split("\t") for line in output.splitlines()]
    assert [row[:2] for row in rows] == [
        ["fetched", "one/train.jsonl"],
        ["fetched", "shared.jsonl"],
        ["failed", "fetch_broken"],
        ["manual", "fetch_unknown"],
    ]
    assert rows[2][2] == "the index is broken"
    assert "unknown/train.jsonl is not in the data folder" in rows[3][2]
    assert run("fetch_old")[0] == 0


def test_a_group_is_fetched_by_its_name(run):
    code, output, _ = run("fetched", "--allow_missing")
    assert code == 0
    assert len(output.splitlines()) == 7


def test_another_folder_is_made(run, tmp_path):
    assert run("fetch_one", "--data_dir", str(tmp_path / "a/b"))[0] == 0
    assert (tmp_path / "a/b/one/train.jsonl").is_file()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch_goood"], "did you mean 'fetch_good'"),
        (["fetch_one", "--mirror", "example.org"], "expected PREFIX=URL"),
        (["fetch_one", "--data_dir", "fetch_test_tasks.py"], "cannot be made"),
    ],
)
def test_slips_end_with_status_2_and_a_hint(run, server, arguments, message):
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert message in errors and "Traceback" not in errors
    assert server.requests == []


def test_mirrors_of_the_environment_and_of_options(run, server, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_MIRRORS", f"https://data.example/one={server.address}/mirror")
    server.add("/mirror/train.jsonl", b"mirrored")
    server.files["/shared.jsonl"].faults = [Status(503)]
    code, output, _ = run("fetch_one")
    assert code == 1
    assert "fetched\tone/train.jsonl" in output and "503" in output
    assert Path("data/one/train.jsonl").read_bytes() == b"mirrored"


def test_an_interrupt_ends_soon_and_the_next_run_goes_on(run, server, tmp_path):
    content = server.files["/one/train.jsonl"].content * 20
    server.add("/one/train.jsonl", content, pause=0.1)
    arguments = ["data", "fetch", "fetch_one", "--module", "fetch_test_tasks"]
    mirror = f"https://data.example={server.address}"
    with subprocess.Popen(
        [sys.executable, "-m", "flan_jax", *arguments, "--mirror", mirror],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 60
        while server.served("/one/train.jsonl") < 200_000 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in errors and "Traceback" not in errors
    assert not (tmp_path / "data/one/train.jsonl").exists()
    server.files["/one/train.jsonl"].pause = 0.0
    assert run("fetch_one")[0] == 0
    assert (tmp_path / "data/one/train.jsonl").read_bytes() == content
    assert server.asked("/one/train.jsonl")[-1].status == 206


def test_a_terminal_gets_bars_and_a_table(run, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, output, errors = run("fetch_good", "fetch_absent", "--allow_missing")
    assert code == 0
    assert "status" in output and "absent.jsonl" in output
    errors = re.sub(r"\x1b\[[\d;?]*\w", "", errors)
    assert "fetched one/train.jsonl" in errors and "failed absent.jsonl" in errors
