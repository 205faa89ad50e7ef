"""`flan-jax eval select`: the best of a run's checkpoints, by one split."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from flan_jax.cli.tables import print_json

_DESCRIPTION = """\
Chooses the step with the best mean normalised score among the summaries in FOLDER, and prints the
chosen step's scores. A score on the split that the choice was made on is called selection-biased.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    built = argparse.ArgumentParser(
        prog="flan-jax eval select",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    built.add_argument("folder", help="output folder of flan-jax eval, or a run's MODEL_DIR")
    built.add_argument(
        "--protocol",
        action="append",
        default=[],
        metavar="NAME",
        help="judge by this protocol; repeatable (default: by all)",
    )
    built.add_argument("--split", help="split to choose on (default: the only one)")
    built.add_argument("--format", choices=("text", "json"), default="text")
    return built


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    arguments = parser().parse_args(argv)
    from flan_jax.evaluation.selection import BIASED, read_summaries, select

    found = select(read_summaries(arguments.folder), arguments.protocol, arguments.split)
    if arguments.format == "json":
        print_json(found.as_dict())
        return 0
    print(f"mean normalised score on {', '.join(found.names)}:")
    for step, value in found.values.items():
        print(f"  step {step:>8,}  {value:6.1f}" + ("  chosen" if step == found.step else ""))
    if found.incomplete:
        steps = ", ".join(map(str, found.incomplete))
        print(f"not considered, since a protocol is missing: steps {steps}")
    print(f"scores of step {found.step}:")
    for each in found.reported:
        summary = each.summary
        note = f"  {BIASED}: the step was chosen on this split" if each.biased else ""
        print(
            f"  {summary.name} ({summary.split}): {summary.score:.1f} "
            f"({summary.low:.1f} to {summary.high:.1f}){note}"
        )
    return 0
