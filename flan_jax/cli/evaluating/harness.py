r"""`flan-jax eval harness`: lm-evaluation-harness, with our models as its model `flan_jax`.

flan-jax eval harness --tasks mmlu --num_fewshot 5 --model_args \
    checkpoint=/tmp/run/checkpoint_1000,gin_file=models/t5/small.gin+vocabularies/t5.gin
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence

from flan_jax.errors import UserError

_COMMANDS = ("run", "ls", "validate")
_DESCRIPTION = """\
Runs lm_eval with the model `flan_jax`. All its options may be given (`lm_eval run --help`); these
are the usual ones. docs/lm_eval.md has the arguments of the model.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of `flan-jax eval harness` that help shows; others go to lm_eval as well."""
    top = argparse.ArgumentParser(
        prog="flan-jax eval harness", description=_DESCRIPTION, allow_abbrev=False
    )
    group = top.add_argument_group("options of lm_eval")
    group.add_argument("--model_args", help="checkpoint=…,gin_file=… and more")
    for name, about in (
        ("--tasks", "names, separated by commas"),
        ("--num_fewshot", "exemplars"),
        ("--batch_size", "contexts at a time"),
        ("--limit", "items of each task, to try things out"),
        ("--include_path", "folder of tasks of one's own"),
        ("--output_path", "folder for results"),
    ):
        group.add_argument(name, help=about)
    group.add_argument("--log_samples", action="store_true", help="write each item as well")
    top.add_argument(
        "--install",
        action="store_true",
        help="make plain `lm_eval --model flan_jax` of this environment work, by a file that "
        "Python reads when it starts",
    )
    top.add_argument("--uninstall", action="store_true", help="remove that file")
    return top


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    from flan_jax.lm_eval_adapter import registration

    args, _ = parser().parse_known_args(argv or ["--help"])
    if args.uninstall:
        print(f"removed {registration.uninstall()}")
        return 0
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "lm-evaluation-harness is not installed in this environment: pip install "
            "'flan_jax[lm-eval]'"
        )
    if args.install:
        print(f"wrote {registration.install()}; `lm_eval --model {registration.NAME}` works now")
        return 0
    registration.register()
    return _run(argv, registration.NAME)


def _run(argv: Sequence[str], name: str) -> int:
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    before = sys.argv
    command, rest = (argv[0], argv[1:]) if argv[0] in _COMMANDS else ("run", argv)
    given = any(word.split("=")[0] in ("--model", "-M") for word in rest)
    model = ["--model", name] if command == "run" and not given else []
    sys.argv = ["lm_eval", command, *model, *rest]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
    return 0
