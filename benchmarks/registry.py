"""What it costs to have the whole collection registered: seconds, memory, modules.

Run: python benchmarks/registry.py [--flan_checkout <folder of google-research/FLAN>]

Every measurement is a process of its own, the cases take turns, and medians are printed. Seconds
and megabytes (of resident memory) are those beyond what was there before the first import of the
case: for the cases with SeqIO, beyond importing SeqIO itself.

FLAN's own registration can be measured next to ours, in the same way, where its checkout and the
packages it imports are installed for this Python.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TASK = "bool_q"
# Importing it registers all that FLAN has for the 2022 collection.
FLAN_MODULE = "flan.v2.mixtures"


def _resident_mb() -> float:
    """Resident memory of this process, as Linux counts it; 0 elsewhere."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    except FileNotFoundError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _count_ours() -> tuple[int, int]:
    from flan_jax.mixing import registered_mixtures
    from flan_jax.tasks import registered_tasks

    return len(registered_tasks()), len(registered_mixtures())


def _count_seqio() -> tuple[int, int]:
    import seqio

    return len(seqio.TaskRegistry.names()), len(seqio.MixtureRegistry.names())


def _names_alone() -> tuple[int, int]:
    importlib.import_module("flan_jax.mixtures")
    return _count_ours()


def _one_task() -> tuple[int, int]:
    importlib.import_module("flan_jax.mixtures")
    from flan_jax.tasks import get_task

    get_task(TASK)
    return _count_ours()


def _all_definitions() -> tuple[int, int]:
    importlib.import_module("flan_jax.mixtures")
    from flan_jax.mixing import deferred_mixtures
    from flan_jax.tasks import all_tasks

    all_tasks()
    deferred_mixtures()
    return _count_ours()


def _all_in_seqio() -> tuple[int, int]:
    importlib.import_module("flan_jax.mixtures")
    return _count_seqio()


def _flan_in_seqio() -> tuple[int, int]:
    importlib.import_module(FLAN_MODULE)
    return _count_seqio()


# Each registers something and says how many tasks and mixtures there are then.
CASES: dict[str, Callable[[], tuple[int, int]]] = {
    "names announced": _names_alone,
    f"asked for {TASK}": _one_task,
    "all defined": _all_definitions,
    "all in SeqIO": _all_in_seqio,
    "FLAN's in SeqIO": _flan_in_seqio,
}
WITH_SEQIO = (_all_in_seqio, _flan_in_seqio)


def measure(case: str, flan_checkout: str | None) -> dict[str, Any]:
    """One measurement, in this process."""
    run = CASES[case]
    if flan_checkout:
        sys.path.insert(0, flan_checkout)
    if run in WITH_SEQIO:
        importlib.import_module("seqio")
    before, memory, start = set(sys.modules), _resident_mb(), time.perf_counter()
    tasks, mixtures = run()
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "megabytes": _resident_mb() - memory,
        "modules": len(set(sys.modules) - before),
        "families": sorted(
            name.removeprefix("flan_jax.mixtures.")
            for name in set(sys.modules) - before
            if name.startswith("flan_jax.mixtures.")
        ),
        "tasks": tasks,
        "mixtures": mixtures,
    }


def _measure_in_a_process(case: str, flan_checkout: str | None) -> dict[str, Any]:
    """As `measure`. Raises RuntimeError with the process's last words if it fails."""
    command = [sys.executable, __file__, "--case", case]
    if flan_checkout:
        command += ["--flan_checkout", flan_checkout]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RuntimeError(lines[-1])
    return json.loads(done.stdout.splitlines()[-1])


def _checked(checkout: str | None) -> str | None:
    """The checkout, if FLAN's tasks can be imported from it here; else says why not."""
    if checkout is None:
        print("FLAN's own: not measured; give --flan_checkout (a clone of google-research/FLAN)")
        return None
    file = Path(checkout, *FLAN_MODULE.split(".")).with_suffix(".py")
    if not file.is_file():
        print(f"FLAN's own: not measured; there is no {file}: is it a clone of FLAN?")
        return None
    try:
        _measure_in_a_process("FLAN's in SeqIO", checkout)
    except RuntimeError as error:
        print(
            f"FLAN's own: not measured; importing {FLAN_MODULE} from {checkout} fails here: "
            f"{error}. Install what FLAN's requirements name into this Python"
        )
        return None
    return checkout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--flan_checkout", help="folder of a clone of google-research/FLAN")
    parser.add_argument("--case", choices=CASES, help="measure one case once, as JSON")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case, args.flan_checkout)))
        return
    checkout = _checked(args.flan_checkout)
    cases = [case for case, run in CASES.items() if checkout or run is not _flan_in_seqio]
    runs: dict[str, list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(args.repeats):
        for case in cases:
            own = checkout if CASES[case] is _flan_in_seqio else None
            runs[case].append(_measure_in_a_process(case, own))
    print(f"medians of {args.repeats}; with SeqIO: beyond importing SeqIO")
    for case, found in runs.items():
        seconds, megabytes = (
            statistics.median(run[key] for run in found) for key in ("seconds", "megabytes")
        )
        one = found[0]
        print(
            f"{case:18} {seconds:7.3f} s {megabytes:7.1f} MB {one['modules']:5,} modules imported  "
            f"{one['tasks']:6,} tasks {one['mixtures']:4,} mixtures"
        )
    families = runs[f"asked for {TASK}"][0]["families"]
    print(f"asking for {TASK} imports of the content: {', '.join(families)}")


if __name__ == "__main__":
    main()
