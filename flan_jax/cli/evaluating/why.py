"""`flan-jax eval why`: one item under two variants of a protocol, and why they differ.

flan-jax eval why bbh_cot --item hyperbaton/3 --variants paper lm_eval \
    --prediction "So the answer is (A)"
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flan_jax.cli.tables import print_json
from flan_jax.errors import UserError

if TYPE_CHECKING:
    from flan_jax.evaluation.benchmarks import Choice
    from flan_jax.evaluation.variants import View

_DESCRIPTION = """\
Shows the prompts of one item under two variants, what each makes of a prediction, and every
decision in which they differ, with its source.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    built = argparse.ArgumentParser(
        prog="flan-jax eval why", description=_DESCRIPTION, allow_abbrev=False
    )
    built.add_argument("name", help="a protocol such as bbh_cot")
    built.add_argument("--item", required=True, metavar="SUBTASK/INDEX")
    built.add_argument(
        "--variants", nargs=2, metavar=("A", "B"), help="default: the first two of the protocol"
    )
    built.add_argument("--split", help="default: the first variant's")
    built.add_argument(
        "--prediction", action="append", default=[], help="an output; may be given several times"
    )
    built.add_argument("--whole", action="store_true", help="print whole prompts, not their diff")
    built.add_argument("--format", choices=("text", "json"), default="text")
    built.add_argument("--data_dir", help="the data folder (default: FLAN_JAX_DATA, else data)")
    return built


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    arguments = parser().parse_args(argv)
    from flan_jax.evaluation import variants
    from flan_jax.evaluation.benchmarks import get_protocol
    from flan_jax.sources.folder import use_data_folder

    if arguments.data_dir:
        use_data_folder(arguments.data_dir)
    name = get_protocol(arguments.name).name
    pair = arguments.variants or _first_two(name, variants.variants_of(name))
    split = variants.shared_split(name, pair, arguments.split)
    subtask, index = _item(arguments.item)
    views = [
        variants.view(name, variant, subtask, index, split, arguments.prediction)
        for variant in pair
    ]
    if not any(view.asked for view in views):
        raise UserError(f"{name}: {split} of {subtask} has no item {index}")
    both = [get_protocol(name, variant) for variant in pair]
    choices = variants.differing_choices(*both)
    settings = variants.differing_settings(*both)
    if arguments.format == "json":
        print_json(_as_json(name, split, arguments.item, views, choices) | {"settings": settings})
    else:
        print(f"{name}, item {arguments.item} of {split}: {pair[0]} and {pair[1]}")
        _print_prompts(views, arguments.whole)
        _print_answers(views)
        _print_choices(views, choices)
        print("\nSettings that differ")
        for setting, values in settings.items():
            print(f"  {setting}: {' and '.join(repr(value) for value in values)}")
    return 0


def _first_two(name: str, variants: Sequence[str]) -> Sequence[str]:
    if len(variants) < 2:
        raise UserError(f"{name} has one variant only: {variants[0]}")
    return variants[:2]


def _item(text: str) -> tuple[str, int]:
    subtask, slash, index = text.rpartition("/")
    if not slash or not index.isdecimal():
        raise UserError(f"--item: expected SUBTASK/INDEX such as hyperbaton/3, found {text!r}")
    return subtask, int(index)


def _print_prompts(views: Sequence[View], whole: bool) -> None:
    left, right = views
    print("\nPrompt")
    if left.prompt == right.prompt:
        print("  the same")
        return
    if whole or not (left.asked and right.asked):
        for view in views:
            print(f"--- {view.variant}")
            print(view.prompt if view.asked else "(not asked: the item is an exemplar there)")
        return
    lines = difflib.unified_diff(
        left.prompt.split("\n"), right.prompt.split("\n"), left.variant, right.variant, "", "",
        n=1, lineterm="",
    )  # fmt: skip
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _print_answers(views: Sequence[View]) -> None:
    print("\nRight answer")
    for view in views:
        if view.asked:
            ranked = f"; ranked: {_list(view.continuations)}" if view.continuations else ""
            print(f"  {view.variant}: {_list(view.references)}{ranked}")
    asked = [view for view in views if view.asked]
    for number in range(len(asked[0].readings)):
        print(f"\nPrediction {number + 1}")
        for view in asked:
            reading = view.readings[number]
            if view.continuations:
                print(f"  {view.variant}: no text is read, options are ranked")
            if reading.stopped and not view.continuations:
                print(f"  {view.variant}: cut by a stop string to {reading.output!r}")
            for metric, found in reading.found.items():
                verdict = "right" if found.correct else "wrong"
                text = repr(found.text) if found.parsed else "no answer found"
                print(f"  {view.variant}, {metric}: {text}, {verdict}")


def _list(texts: Sequence[str]) -> str:
    return ", ".join(repr(text) for text in texts)


def _print_choices(
    views: Sequence[View], choices: Sequence[tuple[str, Choice | None, Choice | None]]
) -> None:
    print("\nDecisions that differ")
    for what, *pair in choices:
        print(f"  {what}")
        for view, choice in zip(views, pair, strict=True):
            text = f"{choice.value} [{choice.source}]" if choice else "not stated"
            print(f"    {view.variant}: {text}")


def _as_json(
    name: str,
    split: str,
    item: str,
    views: Sequence[View],
    choices: Sequence[tuple[str, Choice | None, Choice | None]],
) -> dict[str, Any]:
    def sides(pair: Sequence[Choice | None]) -> dict[str, Any]:
        return {
            view.variant: dataclasses.asdict(choice) if choice else None
            for view, choice in zip(views, pair, strict=True)
        }

    return {
        "protocol": name,
        "split": split,
        "item": item,
        "same_prompt": views[0].prompt == views[1].prompt,
        "variants": {view.variant: _view(view) for view in views},
        "choices": {what: sides(pair) for what, *pair in choices},
    }


def _view(view: View) -> dict[str, Any]:
    row = dataclasses.asdict(view)
    del row["variant"]
    for reading, content in zip(view.readings, row["readings"], strict=True):
        content["found"] = {metric: found._asdict() for metric, found in reading.found.items()}
    return row
