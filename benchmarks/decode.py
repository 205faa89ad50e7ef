"""Greedy decoding of a small T5: ours, transformers with PyTorch, T5X; on the same weights.

Run: python benchmarks/decode.py [--threads 1] [--repeats 7] [--json FILE] [--quick]
     [--contender NAME="COMMAND" ...]

Those whose packages are installed, and those named, decode 16 prompts of 256 tokens, 64 tokens
each (contender.py has the dimensions and how they are asked), in turns; medians are printed, and
the ratio of each turn's pair, whose median is the figure: on a shared machine only ratios mean
something. `agree` is the share of tokens that are ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.contender import (  # noqa: E402
    Answer,
    Problem,
    compare,
    installed_contenders,
    named_contender,
    ratios,
)

QUICK = Problem(
    d_model=32, d_ff=64, num_heads=2, d_kv=16, num_layers=1, vocab_size=256,
    batch_size=2, inputs_length=8, targets_length=4,
)  # fmt: skip


def figures(answers: dict[str, list[Answer]]) -> dict[str, Any]:
    """Tokens per second of wall and of CPU time, and ours over theirs."""
    found: dict[str, Any] = {}
    for clock in ("wall_s", "cpu_s"):
        rates = {
            name: [answer["tokens"] / answer[clock] for answer in each]
            for name, each in answers.items()
        }
        kind = clock.removesuffix("_s")
        found |= {f"{name}_tokens_per_{kind}_s": statistics.median(rates[name]) for name in rates}
        found |= ratios(rates, kind)
    ids = {name: np.array(each[0]["ids"]) for name, each in answers.items()}
    found["agree"] = {
        name: float((ids["ours"] == theirs).mean())
        for name, theirs in ids.items()
        if name != "ours"
    }
    return found


def arguments(description: str | None, repeats: int) -> argparse.Namespace:
    """The flags of the benchmarks of the model; `contenders` are commands by name."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="CPUs that each may use")
    parser.add_argument("--repeats", type=int, default=repeats, help="turns of each")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a tiny model: does it run at all?")
    parser.add_argument(
        "--contender",
        dest="others",
        type=named_contender,
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="a further contender, or another command for one of these; may be given several times",
    )
    args = parser.parse_args()
    args.contenders = installed_contenders() | dict(args.others)
    return args


def report(found: dict[str, Any], args: argparse.Namespace, problem: Problem) -> None:
    """Prints the figures, and writes them if asked to."""
    found = {"threads": args.threads, "repeats": args.repeats, **found}
    for name, value in found.items():
        print(f"{name:32} {value}" if not isinstance(value, float) else f"{name:32} {value:.3f}")
    if args.json:
        content = {**found, "problem": dataclasses.asdict(problem)}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    args = arguments(__doc__, repeats=7)
    problem = QUICK if args.quick else Problem()
    with tempfile.TemporaryDirectory() as folder:
        answers = compare(
            problem, Path(folder), args.threads, "decode", args.repeats, args.contenders
        )
    report(figures(answers), args, problem)


if __name__ == "__main__":
    main()
