"""`flan-jax eval score`: the score of predictions that any system made."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flan_jax.cli.tables import print_json, print_table

if TYPE_CHECKING:
    from flan_jax.evaluation.benchmark_scores import BenchmarkResult
    from flan_jax.evaluation.predictions import Predictions
    from flan_jax.evaluation.scores import Scores

_DESCRIPTION = """\
Scores JSON lines {"id": "<subtask>/<index>", "prediction": "…"}. A list of predictions is a list of
paths: the answer of most of them counts; those without an answer do not vote.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    built = argparse.ArgumentParser(
        prog="flan-jax eval score",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    built.add_argument("benchmark", help="a protocol such as bbh_cot, or a benchmark such as bbh")
    built.add_argument("predictions", help="a file of JSON lines")
    add_benchmark_arguments(built)
    built.add_argument("--trained_on", help="the mixture that the system was finetuned on")
    built.add_argument("--items", metavar="OUT.jsonl", help="writes the verdict on each item there")
    built.add_argument("--format", choices=("text", "json"), default="text")
    return built


def add_benchmark_arguments(built: argparse.ArgumentParser) -> None:
    """What says which items are scored, and how."""
    built.add_argument("--variant", default="paper", help="whose protocol (default: paper)")
    built.add_argument("--split", help="of the benchmark (default: the protocol's)")
    built.add_argument(
        "--partial", action="store_true", help="score what there is, though predictions are missing"
    )


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    arguments = parser().parse_args(argv)
    from flan_jax.evaluation.benchmark_scores import benchmark_result
    from flan_jax.evaluation.benchmarks import BenchmarkProtocol
    from flan_jax.evaluation.predictions import match, read_predictions, requests_to_judge
    from flan_jax.evaluation.scores import score

    protocol = BenchmarkProtocol(arguments.benchmark, arguments.variant, arguments.split)
    found = read_predictions(arguments.predictions)
    matched = match(protocol, requests_to_judge(protocol), found, partial=arguments.partial)
    scores = score(matched.requests, matched.outputs)
    result = benchmark_result(
        protocol,
        matched.requests,
        matched.outputs,
        trained=_mixture(arguments.trained_on),
        missing=len(matched.missing),
        scores=scores,
    )
    if arguments.items:
        _write_items(arguments.items, matched, scores)
    if arguments.format == "json":
        print_json(result.as_dict())
    else:
        print_result(result)
    return 0


def _mixture(name: str | None) -> Any:
    """The mixture called `name`. Raises UserError if there is none."""
    if name is None:
        return None
    from flan_jax.cli.content import load_content
    from flan_jax.mixing import get_mixture

    load_content()
    return get_mixture(name)


def _write_items(path: str, matched: Predictions, scores: Scores) -> None:
    from flan_jax.evaluation.scorers import get_scorer
    from flan_jax.files import write_atomically

    lines = []
    for request in matched.requests:
        output = matched.outputs[request.id]
        item = scores.items[request.id]
        row = {
            "id": request.id,
            "question": request.prompt,
            "target": request.answer,
            "output": output,
            "prediction": get_scorer(request.metrics[0]).find(request, output).text,
            "correct": item.value,
            "parsed": item.parsed,
        }
        if request.id in matched.votes:
            row["votes"] = matched.votes[request.id]
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines))


def print_result(result: BenchmarkResult) -> None:
    """The score in a few lines, then a table of groups and subtasks."""
    overall, noise = result.overall, result.noise
    other = "micro" if result.mean == "macro" else "macro"
    interval = f"{result.level:.0%} CI {overall.low:.1f} to {overall.high:.1f}"
    if result.missing:
        total = overall.n + result.missing
        print(f"PARTIAL: {result.missing:,} of {total:,} items have no prediction and do not count")
    print(f"{result.name} ({result.variant}, {result.split}): {result.score:.2f}  {interval}")
    print(
        f"{result.mean} mean of {len(result.subtasks)} subtasks, {overall.n:,} items; {other} mean "
        f"{getattr(result, other):.2f}; chance {overall.chance:.1f}, normalized "
        f"{overall.normalized:.1f}, always the same answer {overall.majority:.1f}"
    )
    print(
        f"noise: standard error {noise.standard_error:.2f}; differences below {noise.unpaired:.1f} "
        f"points (about {noise.paired:.1f} on the same items) are not told apart"
    )
    print(f"no answer found in {overall.counts['unparsed']:,} outputs; they count as wrong")
    print(f"held out from training: {result.exposure.label} ({result.exposure.reason})")
    rows = [
        [name, f"{part.score:.1f}", f"{part.low:.1f} to {part.high:.1f}", f"{part.n:,}",
         f"{part.chance:.1f}", str(part.counts["unparsed"] or "–")]
        for name, part in (*result.groups.items(), *result.subtasks.items())
    ]  # fmt: skip
    print_table(["subtask", result.metric, "interval", "n", "chance", "unparsed"], rows)
