"""The recipes, replayed: commands must give the output that stands below them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from flan_jax.cli.launch import read_job, split_arguments
from flan_jax.launch import checks, execute
from tests.launch.cases import RENEW, launch
from tests.launch.fake_programs import FakePrograms
from tests.test_docs_commands import _PRINT_CONFIGS

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "launch" / "recipes").glob("*.md"))
_REPLAY = re.compile(
    r"```sh\n(?P<command>(?:(?!```).)*)```\n\n```text\n(?P<output>.*?)```$", re.S | re.M
)
_SHELL = re.compile(r"^```sh\n(.*?)^```$", re.S | re.M)
# A vocabulary that the reader has on disk.
_OWN_FILES = {"my/vocabulary.gin": "include 'vocabularies/t5.gin'\n"}


def words(command: str) -> list[str]:
    first, *rest = shlex.split(command.replace("\\\n", " "))
    assert first == "flan-jax"
    return rest


@pytest.fixture
def readers_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google Cloud answers as in the recipes: the machines are taken away once."""
    (tmp_path / "bin").mkdir()
    programs = FakePrograms(tmp_path / "bin", ("gcloud",))
    states = ["WAITING_FOR_RESOURCES", "ACTIVE", "SUSPENDED", "WAITING_FOR_RESOURCES", "ACTIVE"]
    programs.script(
        (" describe ", [{"out": f"{state}\n"} for state in states]),
        ("start.sh", [{"status": 255}, {}]),
    )
    monkeypatch.setenv("PATH", programs.path)
    monkeypatch.chdir(tmp_path)
    for name, text in _OWN_FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    # Configurations are checked by the test below, in one process.
    monkeypatch.setattr(checks, "check_configuration", lambda spec: {})
    # The reader may do everything in the buckets.
    monkeypatch.setattr(checks, "check_buckets", lambda spec, uses: [])
    clock = SimpleNamespace(sleep=lambda seconds: None, monotonic=time.monotonic)
    monkeypatch.setattr(sys.modules[execute.__module__], "time", clock)


def test_there_is_a_recipe_for_each_real_job():
    assert [path.stem for path in RECIPES] == [
        "build_the_collection_on_beam",
        "evaluate_checkpoints",
        "flan_palm_62b_on_v4_512",
        "flan_t5_xl_on_v5e_64",
        "lora_on_one_gpu",
    ]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_replay(recipe: Path, readers_machine: None):
    text = recipe.read_text(encoding="utf-8")
    assert _REPLAY.search(text)

    def replay(block: re.Match[str]) -> str:
        command = words(block["command"])
        assert command[0] == "launch"
        code, out, err = launch(*command[1:])
        assert code == 0, err
        assert out + err
        return f"```sh\n{block['command']}```\n\n```text\n{out}{err}```"

    replayed = _REPLAY.sub(replay, text)
    if RENEW:
        recipe.write_text(replayed, encoding="utf-8")
    assert replayed == text or RENEW


@pytest.mark.slow
def test_the_configurations_of_all_recipes_pass_all_checks(tmp_path: Path):
    commands = []
    for recipe in RECIPES:
        for block in _SHELL.findall(recipe.read_text(encoding="utf-8")):
            command = words(block)
            if command[0] == "plan":
                commands.append(command)
                continue
            _, spec = read_job(*split_arguments(command[1:]))
            if spec.command == "data-build":
                checks.check_configuration(spec)
            else:
                commands.append([spec.command, *checks.gin_flags(spec), *spec.arguments])
    for name, text in _OWN_FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert len(commands) >= 8
    done = subprocess.run(
        [sys.executable, "-c", _PRINT_CONFIGS],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    for command, (code, _, err) in zip(commands, json.loads(done.stdout), strict=True):
        assert code == 0, f"{command}:\n{err}"
