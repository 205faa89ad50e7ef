"""What the documentation names exists: commands, flags, gin files, macros, modules, links."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from flan_jax.cli.eval import SUBCOMMANDS
from flan_jax.cli.main import COMMANDS, main
from flan_jax.config import SearchPaths

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
GIN_COMMANDS = ("train", "eval", "infer", "plan")

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.S | re.M)
_CODE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
# Written by runs; a package; a module that ADR 1 says must not be.
_NO_GIN_FILES = {"config.gin", "best.gin", "flan_jax.gin"}
_ABSENT = {"flan_jax/mixtures.py"}

# One process reads all configurations: gin's state and the registries of this one stay as they are.
_PRINT_CONFIGS = """
import contextlib, io, json, sys
from flan_jax.cli.main import main
results = []
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([*arguments, "--print_config"])
        except SystemExit as stop:  # argparse
            code = stop.code
    results.append([code, out.getvalue(), err.getvalue()])
json.dump(results, sys.stdout)
"""


def shell_commands(page: Path) -> list[list[str]]:
    """Arguments of each `flan-jax` in the page's shell blocks, assignments before it left out."""
    found = []
    for block in _FENCE.finditer(page.read_text(encoding="utf-8")):
        if block["language"] not in ("sh", "bash", "console"):
            continue
        for line in block["text"].replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and _ASSIGNMENT.fullmatch(words[0]):
                words.pop(0)
            if words and words[0] == "flan-jax":
                found.append(words[1:])
    return found


def inline_code(page: Path) -> list[str]:
    """Texts between backticks outside of blocks, line breaks as spaces."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(text.split()) for text in _CODE.findall(prose)]


def subcommand(words: list[str]) -> str | None:
    """The subcommand of `flan-jax eval` that a command calls, if it does."""
    found = words[1] if words[0] == "eval" and len(words) > 1 else None
    return found if found in SUBCOMMANDS else None


ALL_COMMANDS = [(page.name, words) for page in PAGES for words in shell_commands(page)]
# The page on adding a task brings a module of its own; tests/test_docs.py follows it to the letter.
CONFIGURED = [
    (name, words)
    for name, words in ALL_COMMANDS
    if words[0] in GIN_COMMANDS and "--module" not in words and words[1:2] != [subcommand(words)]
]


@pytest.fixture(scope="module")
def configurations() -> list[tuple[int, str, str]]:
    """Status, configuration and errors of every command in CONFIGURED."""
    done = subprocess.run(
        [sys.executable, "-c", _PRINT_CONFIGS],
        input=json.dumps([words for _, words in CONFIGURED]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=True,
    )
    return [tuple(result) for result in json.loads(done.stdout)]


@cache
def help_text(*arguments: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return out.getvalue()


_DATA = ("status", "fetch", "build", "render", "show", "stats")


@cache
def known_flags() -> frozenset[str]:
    texts = [help_text(), *(help_text(name) for name in COMMANDS)]
    texts += [help_text("tasks", name) for name in ("list", "show", "sample", "check", "overlap")]
    texts += [help_text("mixture", name) for name in ("list", "show")]
    texts += [help_text("data", name) for name in _DATA]
    texts += [help_text("eval", name) for name in SUBCOMMANDS]
    texts += [file.read_text(encoding="utf-8") for file in (ROOT / "benchmarks").glob("*.py")]
    return frozenset(flag for text in texts for flag in re.findall(r"(?<![\w-])--?\w+", text))


@cache
def sources() -> str:
    """All Python and gin text of the library and its content."""
    files = [f for part in ("flan_jax", "mixtures", "gin") for f in (ROOT / part).rglob("*.*")]
    return "\n".join(f.read_text(encoding="utf-8") for f in files if f.suffix in (".py", ".gin"))


def test_the_pages_have_commands():
    assert {name for name, _ in CONFIGURED} >= {"train.md", "evaluate.md", "models.md"}
    assert {words[0] for _, words in CONFIGURED} == set(GIN_COMMANDS)


@pytest.mark.parametrize("position", range(len(CONFIGURED)))
def test_a_configured_command_passes_all_checks(
    position: int, configurations: list[tuple[int, str, str]]
):
    code, text, errors = configurations[position]
    assert code == 0, f"{CONFIGURED[position]}:\n{errors}"
    for word in CONFIGURED[position][1]:
        if word.startswith("--gin."):
            assert re.search(rf"^{word[len('--gin.') :].split('=')[0]} =", text, re.M), word


def test_every_mixture_in_a_command_is_registered():
    listed = subprocess.run(
        [sys.executable, "-m", "flan_jax", "mixture", "list", "--format", "json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=True,
    )
    known = {mixture["name"] for mixture in json.loads(listed.stdout)}
    for name, words in CONFIGURED:
        for word in words:
            if word.startswith(("--gin.MIXTURE_OR_TASK_NAME=", "--gin.EVAL_MIXTURE=")):
                assert set(re.findall(r"\w+", word.split("=", 1)[1])) <= known, (name, word)


@pytest.mark.parametrize(
    "command",
    [words for _, words in ALL_COMMANDS]
    + [
        shlex.split(text)[1:]
        for page in PAGES
        for text in inline_code(page)
        if re.match(r"flan-jax \w", text)
    ],
    ids=" ".join,
)
def test_commands_exist_and_their_arguments_parse(command: list[str]):
    assert command[0] in COMMANDS
    module = importlib.import_module(COMMANDS[command[0]].module)
    if command[0] in ("tasks", "mixture", "data") and len(command) > 1:
        module.parser().parse_args(command[1:])
    if name := subcommand(command):
        if len(command) > 2:  # in prose a command may stand without its arguments
            importlib.import_module(f"flan_jax.cli.evaluating.{name}").parser().parse_args(
                command[2:]
            )
        return
    flags = {word.split("=")[0] for word in command if word.startswith("--")}
    shown = help_text(*command[:1])
    for flag in flags if command[0] in GIN_COMMANDS else ():
        assert flag.startswith("--gin.") or flag in shown, flag


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_flags_exist(page: Path):
    for text in inline_code(page):
        for flag in re.findall(r"(?<!\S)--\w+", text):
            assert flag in known_flags() or flag == "--gin", f"{flag} in `{text}`"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_gin_files_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    paths = SearchPaths.create([ROOT])
    for name in set(re.findall(r"(?<![\w./])[\w./]+\.gin\b", text)) - _NO_GIN_FILES:
        assert paths.find(name), name


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_and_folders_of_the_repository_exist(page: Path):
    for text in inline_code(page):
        if re.fullmatch(r"(flan_jax|mixtures|gin|docs|tests|benchmarks|launch)/[\w/.-]*", text):
            assert (ROOT / text).exists() != (text in _ABSENT), text


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_macros_and_variables_exist(page: Path):
    for text in inline_code(page):
        for name in re.findall(r"(?<![\w.<-])[A-Z]+(?:_[A-Z]+)+(?![\w-])", text):
            known = name in sources() or name.startswith(("FLAN_JAX_", "JAX_"))
            assert known, f"{name} in `{text}`"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_modules_exist(page: Path):
    for text in inline_code(page):
        if re.fullmatch(r"flan_jax(\.\w+)+", text):
            module, _, name = text.rpartition(".")
            try:
                importlib.import_module(text)
            except ModuleNotFoundError:
                assert hasattr(importlib.import_module(module), name), text


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_resolve(page: Path):
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if not link.startswith("https://"):
            assert (page.parent / link.partition("#")[0]).is_file(), link
