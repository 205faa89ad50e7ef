"""The `flan-jax` command: finds the subcommand, runs it, and reports errors.

Only the chosen subcommand's module is imported, so that help and listings answer at once, without
loading JAX or TensorFlow. Every command module has a function `main(argv) -> int` that takes the
arguments after the command's name and returns the exit code.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flan_jax import __version__
from flan_jax.errors import UserError
from flan_jax.suggestions import did_you_mean

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

# What gin adds to the message of an exception, with addresses of Python objects.
_GIN_NOTE = re.compile(r"\n\s*In call to configurable '[^\n]*")


class Command(NamedTuple):
    """Where a subcommand lives and what it does, in a line."""

    module: str
    help: str


COMMANDS = {
    "quickstart": Command(
        "flan_jax.cli.quickstart", "finetune a tiny model on the micro mixture and score it"
    ),
    "train": Command("flan_jax.cli.train", "train from gin files"),
    "eval": Command("flan_jax.cli.eval", "evaluate a checkpoint under a protocol"),
    "infer": Command("flan_jax.cli.infer", "generate answers with a checkpoint"),
    "convert": Command(
        "flan_jax.cli.convert", "convert a checkpoint to our format, Hugging Face's or T5X's"
    ),
    "tasks": Command("flan_jax.cli.tasks", "list, show and check tasks and mixtures"),
    "mixture": Command("flan_jax.cli.mixture", "list mixtures; show shares, repeats and hash"),
    "data": Command("flan_jax.cli.data", "fetch datasets, store their rows, look at batches"),
    "plan": Command("flan_jax.cli.plan", "say before a run whether it fits a pod, and how fast"),
    "launch": Command(
        "flan_jax.cli.launch", "launch a job: here, on TPU VMs, GKE, SkyPilot or Slurm"
    ),
    "doctor": Command("flan_jax.cli.doctor", "check this machine and installation"),
}


def usage() -> str:
    """The text of `flan-jax --help`."""
    width = max(map(len, COMMANDS))
    lines = [
        "usage: flan-jax [--help] [--version] COMMAND ...",
        "",
        "Instruction-finetuning of language models in JAX.",
        "",
        "commands:",
        *(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()),
        "",
        "'flan-jax COMMAND --help' explains a command.",
        "FLAN_JAX_TRACEBACK=1 shows the traceback of an error.",
    ]
    return "\n".join(lines)


def _dispatch(argv: Sequence[str]) -> int:
    if not argv:
        print(usage(), file=sys.stderr)
        return EXIT_USER_ERROR
    name, *rest = argv
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name in ("-V", "--version"):
        print(f"flan-jax {__version__}")
        return 0
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        known = ["--help", "--version"] if kind == "option" else list(COMMANDS)
        raise UserError(
            f"unknown {kind} {name!r}{did_you_mean(name, known)}\n"
            f"The {kind}s are: {', '.join(known)}."
        )
    module = importlib.import_module(COMMANDS[name].module)
    return module.main(rest)


def _report(error: BaseException, message: str) -> int:
    """Prints the error on stderr; with FLAN_JAX_TRACEBACK=1 also where it came from."""
    if os.environ.get("FLAN_JAX_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exception(error)
    print(f"flan-jax: error: {_GIN_NOTE.sub('', message)}", file=sys.stderr)
    return EXIT_USER_ERROR


def _drop_stdout() -> None:
    """Points stdout at nothing: the reader has gone, and Python would flush to it at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def _look_for_no_tpu() -> None:
    """Keeps JAX from trying the TPU that libtpu, installed to plan for one, makes it look for.

    On a machine without a TPU it would complain at length before it takes the CPU.
    """
    if "JAX_PLATFORMS" in os.environ or importlib.util.find_spec("libtpu") is None:
        return
    if any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*")):
        return
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    os.environ["JAX_PLATFORMS"] = "cuda,cpu" if has_gpu else "cpu"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (by default the process's own) and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _look_for_no_tpu()
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _report(error, str(error))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "flan_jax"):
            raise
        return _report(
            error,
            f"the package {missing!r} is not installed in {sys.prefix}; install flan_jax with its "
            "dependencies (pip install -e . in a checkout), or run 'flan-jax doctor'",
        )
    except KeyboardInterrupt:
        print("flan-jax: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return EXIT_BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
