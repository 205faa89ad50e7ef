"""From the start of a process to its first finished training step: ours, transformers, T5X.

Run: python benchmarks/startup.py [--threads 1] [--repeats 3] [--json FILE] [--quick]
     [--contender NAME="COMMAND" ...]

Contenders (contender.py) are started in turns, one at a time, each in a new process: it imports
what it needs, reads the weights, makes the optimizer's state, compiles and takes one step. Nothing
that was compiled before is used: the persistent compilation cache is off. Medians are printed,
and the ratio of each turn's pair, whose median is the figure.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.contender import Contender, Problem, ratios  # noqa: E402
from benchmarks.decode import QUICK, arguments, report  # noqa: E402


def starts(
    problem: Problem, folder: Path, threads: int, repeats: int, commands: Mapping[str, list[str]]
) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each start, keyed by name."""
    problem.write(folder)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            contender = Contender(name, command, folder, threads, ["train"])
            contender.close()
            found[name].append((contender.start_wall_s, contender.start_cpu_s))
    return found


def figures(found: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Seconds of wall and of CPU time, and how many times as fast ours is as each."""
    result: dict[str, Any] = {}
    for index, kind in enumerate(("wall", "cpu")):
        seconds = {name: [turn[index] for turn in each] for name, each in found.items()}
        result |= {f"{name}_{kind}_s": statistics.median(seconds[name]) for name in seconds}
        speeds = {name: [1 / second for second in each] for name, each in seconds.items()}
        result |= ratios(speeds, kind)
    return result


def main() -> None:
    args = arguments(__doc__, repeats=3)
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    problem = QUICK if args.quick else Problem()
    with tempfile.TemporaryDirectory() as folder:
        found = starts(problem, Path(folder), args.threads, args.repeats, args.contenders)
    report(figures(found), args, problem)


if __name__ == "__main__":
    main()
