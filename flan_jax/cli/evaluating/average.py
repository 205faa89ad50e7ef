"""`flan-jax eval average`: the normalized average of a suite, from results or as published."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from flan_jax.cli.tables import print_json, print_table
from flan_jax.errors import UserError

_DESCRIPTION = """\
Averages the normalised scores of the six settings of the Flan paper: of files that `flan-jax eval
score --format json` or a job (summary-….json) wrote; with --published, of the paper's own table.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    built = argparse.ArgumentParser(
        prog="flan-jax eval average",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    built.add_argument("results", nargs="*", help="JSON files, one for each protocol")
    built.add_argument(
        "--published", action="store_true", help="recompute the published averages instead"
    )
    built.add_argument("--format", choices=("text", "json"), default="text")
    return built


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    arguments = parser().parse_args(argv)
    if arguments.published == bool(arguments.results):
        raise UserError("give results to average, or --published; one of the two")
    return (_published if arguments.published else _average)(arguments)


def _average(arguments: argparse.Namespace) -> int:
    from flan_jax.evaluation.normalized_average import normalized_average
    from flan_jax.evaluation.run_files import read_result
    from flan_jax.mixtures.benchmarks.suites import FLAN

    normalized: dict[str, float] = {}
    for path in arguments.results:
        result = read_result(path)
        # By the name with its settings: other variants and several paths are other numbers.
        if result["name"] in normalized:
            raise UserError(f"{path}: there is a result of {result['name']} already")
        if result["missing"]:
            raise UserError(
                f"{path}: {result['missing']:,} items of {result['name']} are missing; "
                "an average needs whole benchmarks"
            )
        normalized[result["name"]] = result["normalized"]
    average = normalized_average(FLAN, normalized)
    if arguments.format == "json":
        parts = {"parts": dict(average.parts), "components": dict(average.components)}
        print_json({"normalized_average": average.value, **parts})
        return 0
    rows = [*average.components.items(), *average.parts.items(), (FLAN.name, average.value)]
    print_table(["protocol", "normalized"], [[name, f"{value:.2f}"] for name, value in rows])
    return 0


def _published(arguments: argparse.Namespace) -> int:
    from flan_jax.evaluation.benchmarks import get_protocol
    from flan_jax.evaluation.paper_results import recompute_averages
    from flan_jax.mixtures.benchmarks.suites import FLAN

    rows = recompute_averages(FLAN, {name: get_protocol(name) for name in FLAN.components})
    if arguments.format == "json":
        keys = ("model", "published", "difference", "flags")
        found = [{key: getattr(row, key) for key in keys} for row in rows]
        for row, each in zip(found, rows, strict=True):
            row["recomputed"] = each.recomputed.value
            row["parts"] = dict(each.recomputed.parts)
        print_json(found)
        return 0
    print_table(
        ["model", "published", "recomputed", "difference", "flags"],
        [
            [r.model, f"{r.published:.1f}", f"{r.recomputed.value:.2f}", f"{r.difference:+.2f}",
             "; ".join(r.flags)]
            for r in rows
        ],
    )  # fmt: skip
    return 0
