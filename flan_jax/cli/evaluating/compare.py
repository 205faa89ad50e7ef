"""`flan-jax eval compare`: the difference of two systems on the same items."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from flan_jax.cli.evaluating.score import add_benchmark_arguments
from flan_jax.cli.tables import print_json, print_table
from flan_jax.errors import UserError

_DESCRIPTION = """\
Scores two files of predictions (see `flan-jax eval score`) and gives AFTER minus BEFORE with its
interval by the paired bootstrap: much sharper than two intervals side by side.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    built = argparse.ArgumentParser(
        prog="flan-jax eval compare",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    built.add_argument("benchmark", help="a protocol such as bbh_cot, or a benchmark such as bbh")
    built.add_argument("before", help="a file of JSON lines")
    built.add_argument("after", help="another one")
    add_benchmark_arguments(built)
    built.add_argument("--format", choices=("text", "json"), default="text")
    return built


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    arguments = parser().parse_args(argv)
    from flan_jax.evaluation.benchmarks import BenchmarkProtocol
    from flan_jax.evaluation.paired import compare_items, values_of
    from flan_jax.evaluation.predictions import match, read_predictions, requests_to_judge
    from flan_jax.evaluation.scores import score

    protocol = BenchmarkProtocol(arguments.benchmark, arguments.variant, arguments.split)
    requests = requests_to_judge(protocol)
    sides, left_out = [], 0
    for path in (arguments.before, arguments.after):
        try:
            matched = match(protocol, requests, read_predictions(path), partial=arguments.partial)
        except UserError as error:
            known = str(error)
            raise UserError(known if path in known else f"{path}: {known}") from error
        # One resample: only what each item scored is of interest here.
        sides.append(values_of(score(matched.requests, matched.outputs, resamples=1)))
    if arguments.partial:
        shared = sides[0].keys() & sides[1].keys()
        left_out = len(requests) - len(shared)
        sides = [{identity: side[identity] for identity in shared} for side in sides]
    comparison = compare_items(*sides, mean=protocol.definition.mean)
    if arguments.format == "json":
        content = dataclasses.asdict(comparison)
        print_json({"protocol": protocol.name, "left_out": left_out, **content})
        return 0
    if left_out:
        print(f"PARTIAL: {left_out:,} of {len(requests):,} items lack a prediction in either file")
    whole = comparison.overall
    verdict = "" if whole.clear else "; not told apart from none"
    print(
        f"{protocol.name}: {whole.before:.2f} → {whole.after:.2f}, difference {whole.value:+.2f} "
        f"(95% CI {whole.low:+.2f} to {whole.high:+.2f}){verdict}"
    )
    print(f"{whole.n:,} items: {whole.gained:,} gained, {whole.lost:,} lost")
    rows = [
        [name, f"{d.before:.1f}", f"{d.after:.1f}", f"{d.value:+.1f}" + ("" if d.clear else "?"),
         f"{d.low:+.1f} to {d.high:+.1f}", f"+{d.gained} −{d.lost}", f"{d.n:,}"]
        for name, d in comparison.subtasks.items()
    ]  # fmt: skip
    print_table(["subtask", "before", "after", "change", "interval", "items", "n"], rows)
    return 0
