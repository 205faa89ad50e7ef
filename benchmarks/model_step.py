"""A training step of a small T5: ours, transformers with PyTorch, T5X; from the same weights.

Run: python benchmarks/model_step.py [--threads 1] [--repeats 5] [--json FILE] [--quick]
     [--contender NAME="COMMAND" ...]

Those whose packages are installed, and those named, take steps on one batch of 16 examples of
256 + 64 tokens, float32, dropout off, with Adafactor (contender.py has the dimensions and how they
are asked), in turns; medians are printed, and the ratio of each turn's pair, whose median is the
figure: on a shared machine only ratios mean something.
`initial_loss` is that of the same weights, before any update; `last_loss` that of the last step.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.contender import Answer, Problem, compare, ratios  # noqa: E402
from benchmarks.decode import QUICK, arguments, report  # noqa: E402


def figures(answers: dict[str, list[Answer]]) -> dict[str, Any]:
    """Seconds a step of wall and of CPU time, and how many times as fast ours is as each."""
    found: dict[str, Any] = {}
    for clock in ("wall_s", "cpu_s"):
        seconds = {
            name: [answer[clock] / answer["steps"] for answer in each]
            for name, each in answers.items()
        }
        kind = clock.removesuffix("_s")
        found |= {f"{name}_{kind}_s_a_step": statistics.median(seconds[name]) for name in seconds}
        speeds = {name: [1 / second for second in each] for name, each in seconds.items()}
        found |= ratios(speeds, kind)
    found["initial_loss"] = {name: each[0]["initial_loss"] for name, each in answers.items()}
    found["last_loss"] = {name: each[-1]["losses"][-1] for name, each in answers.items()}
    return found


def main() -> None:
    args = arguments(__doc__, repeats=5)
    problem = QUICK if args.quick else Problem()
    with tempfile.TemporaryDirectory() as folder:
        answers = compare(
            problem, Path(folder), args.threads, "train 2", args.repeats, args.contenders
        )
    report(figures(answers), args, problem)


if __name__ == "__main__":
    main()
