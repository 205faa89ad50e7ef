"""The page on adding a task, followed to the letter in an empty folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "add_a_task.md"
_BLOCK = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<language>\w+)\n(?P<text>.*?)^```$", re.S | re.M)


def blocks() -> list[re.Match[str]]:
    return list(_BLOCK.finditer(PAGE.read_text(encoding="utf-8")))


def commands() -> list[list[str]]:
    (shell,) = [block["text"] for block in blocks() if block["language"] == "sh"]
    lines = shell.replace("\\\n", " ").splitlines()
    assert all(line.startswith("flan-jax ") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder a newcomer has after saving every file of the page."""
    for block in blocks():
        if block["language"] != "sh":
            (name,) = re.findall(r"`(\S+)`$", block["before"])
            (tmp_path / name).write_text(block["text"], encoding="utf-8")
    return tmp_path


def run(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    # -P keeps the current folder off the path, as it is for the installed command.
    start = "import sys; from flan_jax.cli.main import main; sys.exit(main())"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "FLAN_JAX_DATA": str(folder)}
    return subprocess.run(
        [sys.executable, "-P", "-c", start, *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_page_is_short_and_has_every_file():
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) <= 40
    names = [re.findall(r"`(\S+)`$", b["before"]) for b in blocks() if b["language"] != "sh"]
    assert names == [["capitals.jsonl"], ["capitals.yaml"], ["my_tasks.py"]]
    assert [arguments[:2] for arguments in commands()] == [
        ["tasks", "check"],
        ["tasks", "sample"],
        ["train", "--module"],
    ]


def test_the_task_passes_its_check(folder: Path):
    done = run(folder, [*commands()[0], "--format", "json"])
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)["tasks"]
    assert report["ok"] and report["task"] == "capitals" and report["rows"] == 3
    assert {finding["severity"] for finding in report["findings"]} == {"note"}


def test_the_sample_shows_rows_and_answers(folder: Path):
    done = run(folder, commands()[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("=== capitals train[") == 2
    rows = [json.loads(line) for line in (folder / "capitals.jsonl").read_text().splitlines()]
    shown = [r for r in rows if r["country"] in done.stdout and f"\n{r['answer']}\n" in done.stdout]
    assert len(shown) >= 2
    assert run(folder, commands()[1]).stdout == done.stdout


def test_a_slip_in_the_templates_is_caught(folder: Path):
    path = folder / "capitals.yaml"
    path.write_text(path.read_text().replace("{{ country }} is", "{{ contry }} is"))
    done = run(folder, commands()[0])
    assert done.returncode == 1
    assert "uses the field 'contry'" in done.stdout
    assert "did you mean 'country'" in done.stdout


@pytest.mark.exhaustive
@pytest.mark.slow
def test_training_runs_and_leaves_a_checkpoint(folder: Path):
    done = run(folder, commands()[2])
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "capitals_run" / "checkpoint_2").is_dir()
    assert (folder / "capitals_run" / "config.gin").is_file()
    losses = re.findall(r"loss\s+([\d.]+)", done.stdout + done.stderr)
    assert losses and all(float(loss) > 0 for loss in losses)
