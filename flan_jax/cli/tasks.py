"""`flan-jax tasks`: list, show, sample and check tasks and mixtures.

flan-jax tasks list --group cot
flan-jax tasks sample gsm8k_cot -n 2 --variant fs_noopt
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from flan_jax.cli import task_checks, task_counts, task_listing, task_overlap, task_sampling
from flan_jax.cli.content import load_content
from flan_jax.cli.tables import FORMATS
from flan_jax.prompts.render import VARIANTS

# T5's and Flan's lengths in tokens (Longpre et al., 2023, mix at 2,048 and 512).
INPUTS_LENGTH = 2048
TARGETS_LENGTH = 512


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {number}")
    return number


def _add_lengths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vocabulary",
        help="a SentencePiece model (default: t5_vocab/spiece.model of the data folder, else the "
        "micro collection's)",
    )
    parser.add_argument("--inputs_length", type=_positive, default=INPUTS_LENGTH, metavar="TOKENS")
    parser.add_argument(
        "--targets_length", type=_positive, default=TARGETS_LENGTH, metavar="TOKENS"
    )


def _add_list(add: Callable[..., argparse.ArgumentParser]) -> None:
    parser = add("list", task_listing.list_tasks, "list the tasks")
    for name, what in (
        ("group", "collection, such as cot"),
        ("cluster", "kind of task, such as mathematics"),
        ("source", "kind of source, such as tsv"),
        ("split", "tasks that have this split"),
        ("tag", "tasks with this tag"),
        ("language", "tasks in this language, such as de"),
    ):
        parser.add_argument(f"--{name}", help=what)
    parser.add_argument(
        "--held_out",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="only tasks that are never trained on, or (--no-held_out) only the others",
    )


def parser() -> argparse.ArgumentParser:
    """The arguments of `flan-jax tasks`."""
    top = argparse.ArgumentParser(prog="flan-jax tasks", description="Tasks and mixtures.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[..., int], text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        one.add_argument("--format", choices=FORMATS, default="auto", help="default: auto")
        one.add_argument(
            "--module",
            action="append",
            default=[],
            help="a module of yours that registers tasks; may be given several times",
        )
        one.add_argument("--data_dir", help="the data folder (default: FLAN_JAX_DATA, else data)")
        one.set_defaults(run=run)
        return one

    _add_list(add)
    show = add("show", task_listing.show_task, "show all about one task")
    show.add_argument("name", help="the task")
    add("counts", task_counts.counts, "count the Flan 2022 collection, beside Flan's own numbers")
    sample = add("sample", task_sampling.sample, "print rendered prompts and their lengths")
    sample.add_argument("name", help="a task or mixture")
    sample.add_argument("-n", "--number", type=_positive, default=5, help="how many (default: 5)")
    sample.add_argument("--split", default="train", help="default: train")
    sample.add_argument("--variant", choices=VARIANTS, help="default: drawn as in training")
    sample.add_argument("--template", type=int, help="position in the file (default: drawn)")
    sample.add_argument("--seed", type=int, default=0, help="default: 0")
    sample.add_argument(
        "--allow_missing", action="store_true", help="leave out tasks whose data are missing"
    )
    _add_lengths(sample)
    text = "check tasks and their templates; exit status 1 if not all is well"
    check = add("check", task_checks.check, text)
    check.add_argument("names", nargs="*", metavar="name", help="tasks or mixtures")
    check.add_argument(
        "--group",
        action="append",
        default=[],
        help="all tasks of a collection, such as muffin; may be given several times",
    )
    check.add_argument(
        "--templates_only",
        action="store_true",
        help="check what needs no data: the templates and their wording",
    )
    check.add_argument(
        "--rows", type=_positive, default=20, help="rows of each split to render (default: 20)"
    )
    _add_lengths(check)
    task_overlap.add_arguments(add("overlap", task_overlap.overlap, task_overlap.HELP), _positive)
    return top


def main(argv: Sequence[str]) -> int:
    """Runs `flan-jax tasks` and returns its exit code.

    Raises:
      UserError: unknown names, missing data, modules that fail; each says how to fix it.
    """
    arguments = parser().parse_args(argv)
    if arguments.data_dir:
        from flan_jax.sources.folder import use_data_folder

        use_data_folder(arguments.data_dir)
    load_content(arguments.module)
    return arguments.run(arguments)
