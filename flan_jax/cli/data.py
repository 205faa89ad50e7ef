"""`flan-jax data`: which datasets are in the data folder, and fetching those that are not.

flan-jax data status --data_dir ~/data
flan-jax data fetch gsm8k
flan-jax data build gsm8k --out ~/stores/gsm8k
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from flan_jax.cli import data_build, data_fetch, data_render, data_show, data_stats
from flan_jax.cli.tables import FORMATS, print_json, print_table
from flan_jax.errors import UserError

HELP = "fetch datasets, build stores of their rows, and look at batches"
STYLES = {"found": "green", "missing": "yellow"}


def chosen_folder(option: str | None) -> Path:
    """The data folder: the option if given, else as `flan_jax.sources.folder` finds it.

    Raises:
      UserError: The folder that the option or the environment variable names does not exist.
    """
    from flan_jax.sources import folder

    variable = folder.ENVIRONMENT_VARIABLE
    path = Path(option).expanduser() if option else folder.data_folder()
    if (option or os.environ.get(variable)) and not path.is_dir():
        where = "--data_dir" if option else variable
        raise UserError(f"{where} names {str(path)!r}, which is not a folder; make or correct it")
    return path.resolve()


def status(arguments: argparse.Namespace) -> int:
    """Prints every dataset that the sources know, whether found or not."""
    from flan_jax.sources.folder import status as dataset_status

    folder = chosen_folder(arguments.data_dir)
    datasets = dataset_status(folder)
    if arguments.format == "json":
        print_json(
            {
                "folder": str(folder),
                "datasets": [
                    {
                        "name": dataset.name,
                        "found": dataset.found,
                        "path": str(dataset.path),
                        "detail": dataset.detail,
                    }
                    for dataset in datasets
                ],
            }
        )
        return 0
    rows = [
        (dataset.name, "found" if dataset.found else "missing", str(dataset.path), dataset.detail)
        for dataset in datasets
    ]
    print_table(
        ("dataset", "status", "path", "detail"), rows, format=arguments.format, styles=STYLES
    )
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of `flan-jax data`."""
    top = argparse.ArgumentParser(prog="flan-jax data", description=HELP)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("status", help="list the datasets and where they were found")
    one.add_argument("--data_dir", help="the data folder (default: FLAN_JAX_DATA, else ./data)")
    one.add_argument("--format", choices=FORMATS, default="auto", help="default: auto")
    one.set_defaults(run=status)
    two = commands.add_parser("fetch", help=data_fetch.HELP)
    data_fetch.add_arguments(two)
    two.set_defaults(run=data_fetch.run)
    for name, module in (("show", data_show), ("stats", data_stats)):
        text = f"{module.HELP[0].upper()}{module.HELP[1:]}."
        inspecting = commands.add_parser(name, help=module.HELP, description=text)
        module.add_arguments(inspecting)
        inspecting.set_defaults(run=module.run)
    three = commands.add_parser("build", help=data_build.HELP)
    data_build.add_arguments(three)
    three.set_defaults(run=data_build.run)
    four = commands.add_parser("render", help=data_render.HELP)
    data_render.add_arguments(four)
    four.set_defaults(run=data_render.run)
    return top


def main(argv: Sequence[str]) -> int:
    """Runs `flan-jax data` and returns its exit code."""
    argv, beam_options = data_build.split_options(argv)
    arguments = parser().parse_args(argv, argparse.Namespace(beam_options=beam_options))
    return arguments.run(arguments)
