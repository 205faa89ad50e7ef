r"""`flan-jax infer`: lets a checkpoint answer prompts.

flan-jax infer --gin_file=models/t5/small.gin --gin_file=vocabularies/t5.gin \
    --gin_file=runs/infer.gin --gin.CHECKPOINT_PATH=/tmp/run/checkpoint_1000 \
    --prompts=questions.txt --output=answers.jsonl
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from flan_jax.cli.gin_command import load_gin_command, run_configured
from flan_jax.cli.processes import add_process_arguments, join_processes

HELP = "generate answers with a checkpoint"
_DESCRIPTION = """\
Lets a checkpoint answer prompts: your own, on screen (--prompt, --interactive) or from a file into
JSON lines (--prompts, --output), or those of a task or mixture (MIXTURE_OR_TASK_NAME) into T5X's
files. An interrupted job goes on where it was. Flags are T5X's.
"""
_GREETING = """\
Type a prompt and Enter; a line that ends in \\ goes on in the next. Ctrl-D ends."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--prompt", action="append", default=[], help="a prompt to answer on screen; repeatable"
    )
    source.add_argument(
        "--prompts",
        metavar="FILE",
        help="prompts to answer: JSON lines (.jsonl; field `prompt`), else a prompt a line",
    )
    source.add_argument(
        "--interactive", action="store_true", help="answer what is typed, prompt after prompt"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="where the answers to --prompts go (default: a file in INFER_OUTPUT_DIR)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="begin anew where answers are there already"
    )
    parser.add_argument("--dry_run", action="store_true", help="print prompts, generate nothing")
    add_process_arguments(parser)


def converse(ask: Callable[[str], dict[str, Any]]) -> None:
    """Reads prompts from the terminal and prints the answers, until the end of input."""
    import contextlib

    with contextlib.suppress(ImportError):  # not everywhere; arrow keys then do less
        import readline  # noqa: F401
    print(_GREETING)
    while True:
        try:
            text = input("> ")
            while text.endswith("\\"):
                text = text[:-1] + "\n" + input("… ")
        except EOFError:
            print()
            return
        if text.strip():
            row = ask(text)
            print(row["prediction"])
            if row["ended"] == "length":
                print(f"[cut at {len(row['tokens'])} tokens; MAX_DECODE_LEN sets how many]")
            if row.get("prompt_tokens_lost"):
                print(f"[the prompt was cut: its last {row['prompt_tokens_lost']} tokens are lost]")


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    command = load_gin_command(argv, "infer", _DESCRIPTION, "infer", _add_arguments)
    if command is None:
        return 0
    from flan_jax.evaluation.infer import infer

    args = command.args
    with join_processes(args):
        rows = run_configured(
            infer,
            prompts=args.prompt,
            prompts_file=args.prompts,
            output=args.output,
            overwrite=args.overwrite,
            conversation=converse if args.interactive else None,
            dry_run=args.dry_run,
        )
    for row in rows if args.prompt else ():
        answers = row.get("predictions", [row])
        print(f"> {row['prompt']}")
        print("\n".join(answer["prediction"] for answer in answers), end="\n\n")
    return 0
