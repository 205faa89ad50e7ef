"""The command-line frame: dispatch, errors, exit codes, and what start-up imports."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import types

import pytest

from flan_jax import __version__
from flan_jax.cli import main as cli
from flan_jax.errors import UserError

HEAVY = ("jax", "jaxlib", "flax", "tensorflow", "seqio", "grain", "orbax", "numpy.random")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Puts a function in place of `flan-jax probe`, and in the table of commands."""

    def install(run):
        module = types.ModuleType("flan_jax.cli.probe")
        module.main = run
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, "probe", cli.Command(module.__name__, "a probe"))

    return install


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--help"]) == 0
    output = capsys.readouterr().out
    for name, entry in cli.COMMANDS.items():
        assert f"  {name} " in output
        assert entry.help in output


def test_version(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"flan-jax {__version__}\n"


def test_without_a_command_prints_usage_and_fails(capsys: pytest.CaptureFixture[str]):
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: flan-jax ")


def test_misspelt_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["trian", "--gin_file=a.gin"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("flan-jax: error: unknown command 'trian'; did you mean 'train'?")
    assert "quickstart" in error


def test_unknown_option_is_called_an_option(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--versoin"]) == 2
    assert "unknown option '--versoin'; did you mean '--version'?" in capsys.readouterr().err


def test_command_gets_the_rest_of_the_line_and_gives_the_exit_code(command):
    seen = []
    command(lambda argv: seen.append(list(argv)) or 7)
    assert cli.main(["probe", "--help", "probe"]) == 7
    assert seen == [["--help", "probe"]]


def raising(error: BaseException):
    def run(argv):
        raise error

    return run


def test_user_error_is_a_message_without_traceback(command, monkeypatch, capsys):
    class MissingError(UserError, ValueError):
        pass

    monkeypatch.delenv("FLAN_JAX_TRACEBACK", raising=False)
    command(raising(MissingError("no folder 'x'; make it")))
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == "flan-jax: error: no folder 'x'; make it\n"


def test_traceback_on_demand(command, monkeypatch, capsys):
    monkeypatch.setenv("FLAN_JAX_TRACEBACK", "1")
    command(raising(UserError("no such task")))
    assert cli.main(["probe"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last):")
    assert error.endswith("flan-jax: error: no such task\n")


def test_a_bug_keeps_its_traceback(command):
    command(raising(ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["probe"])


def test_interrupt(command, capsys):
    command(raising(KeyboardInterrupt()))
    assert cli.main(["probe"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_missing_dependency_is_named(command, capsys):
    def run(argv):
        importlib.import_module("no_such_package_of_anyone.module")

    command(run)
    assert cli.main(["probe"]) == 2
    assert "'no_such_package_of_anyone' is not installed" in capsys.readouterr().err


def test_missing_module_of_our_own_is_a_bug(command):
    def run(argv):
        importlib.import_module("flan_jax.no_such_module")

    command(run)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["probe"])


def test_reader_that_leaves_early_ends_the_command_quietly():
    # The command prints when its input ends, which is after the pipe has been closed.
    code = (
        "import sys, time, types, flan_jax.cli.main as cli\n"
        "module = types.ModuleType('flan_jax.cli.probe')\n"
        "def run(argv):\n"
        "    sys.stdin.read()\n"
        "    print('x' * 1_000_000)\n"
        "    return 0\n"
        "module.main = run\n"
        "sys.modules[module.__name__] = module\n"
        "cli.COMMANDS['probe'] = cli.Command(module.__name__, '')\n"
        "sys.exit(cli.main(['probe']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.close()  # Only now does it print.
        errors = process.stderr.read().decode()
        assert process.wait() == 141
    assert errors == ""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["nonsense"], *([name, "--help"] for name in cli.COMMANDS)],
    ids=" ".join,
)
def test_start_up_imports_neither_jax_nor_tensorflow(arguments: list[str]):
    code = (
        "import json, sys\n"
        "from flan_jax.cli.main import main\n"
        "try:\n"
        f"    code = main({arguments!r})\n"
        "except SystemExit as end:\n"  # argparse's way to end after help
        "    code = end.code\n"
        f"print(json.dumps([code, [m for m in {HEAVY!r} if m in sys.modules]]), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = (result.stderr.splitlines() or [""])[-1]
    assert last.startswith("["), result.stderr
    status, loaded = json.loads(last)
    assert status == (2 if arguments == ["nonsense"] else 0), result.stderr
    assert loaded == []
    if arguments[-1] == "--help":
        assert "usage" in result.stdout.lower()
