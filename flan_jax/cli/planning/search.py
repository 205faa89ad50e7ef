"""`flan-jax plan --search`: many ways to run a step, compiled one after the other and ranked."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flan_jax.cli.planning.job import Job, load_job, planned_run
from flan_jax.cli.planning.planner import Planner
from flan_jax.cli.tables import print_json, print_table
from flan_jax.config import LoadedConfig
from flan_jax.errors import UserError
from flan_jax.plan.preflight import misfit
from flan_jax.plan.search import (
    XLA_SETS,
    Candidate,
    candidates,
    default_grid,
    parse_grid,
    parse_xla,
    ranked,
)
from flan_jax.plan.steps import PlannedRun

Result = tuple[Candidate, Mapping[str, Any]]
COLUMNS = (
    "candidate",
    "fits",
    "GiB a chip",
    "s serial",
    "s overlapped",
    "MFU serial",
    "MFU",
    "why",
)
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b")
# The mesh's parameters, and the macros by which files of gin/mesh set them.
_MESH = "partitioning.PjitPartitioner."


def search(
    args: argparse.Namespace, planner: Planner, job: Job, config: LoadedConfig
) -> list[Result]:
    """All candidates with their reports, best first.

    What cannot run or cannot fit is told without compiling. Progress goes to standard error.

    Raises:
      UserError: a flag is at fault, a name is nowhere bound, or nothing can run.
    """
    results: list[Result] = []
    possible = []
    for candidate in _candidates(args, planner.machine.devices, config):
        # A wrong name or value is a mistake in all candidates, and ends the search here.
        prepared = _prepared(job, candidate)
        reason = misfit(prepared.run, job.step, planner.machine)
        if reason is None:
            possible.append((candidate, prepared))
        else:
            results.append((candidate, _cannot(reason.reason, reason.needed_gib)))
            _say(f"{candidate.label}: {_outcome(results[-1][1])}")
    for index, (candidate, prepared) in enumerate(possible, start=1):
        _say(f"[{index}/{len(possible)}] {candidate.label} …")
        report = _report(planner, prepared, candidate)
        _say(f"[{index}/{len(possible)}] {candidate.label}: {_outcome(report)}")
        results.append((candidate, report))
    best_first = ranked(results)
    if all(report.get("error") for _, report in best_first):
        reasons = "\n  ".join(f"{c.label}: {report['error']}" for c, report in best_first)
        raise UserError(f"--search: no candidate can run:\n  {reasons}")
    return best_first


class _Prepared(NamedTuple):
    """A candidate's configuration."""

    job: Job
    config: LoadedConfig
    run: PlannedRun


def _prepared(job: Job, candidate: Candidate) -> _Prepared:
    job = job.bound(candidate.bindings)
    config = load_job(job)
    return _Prepared(job, config, planned_run(job, config))


def _candidates(args: argparse.Namespace, devices: int, config: LoadedConfig) -> list[Candidate]:
    grid = parse_grid(args.search)
    bound = config.values()
    meshes: list[dict[str, str]] = [{}]
    if not grid:
        meshes = [
            {_bindable(name, bound): size for name, size in {"data": "1", **mesh}.items()}
            for mesh in default_grid(devices)
        ]
    sets: dict[str, Mapping[str, str]] = dict(XLA_SETS)
    if args.search_xla:
        sets = {text: parse_xla([text]) for text in args.search_xla}
    fixed = parse_xla(args.xla)
    return candidates(meshes, grid, {name: {**fixed, **options} for name, options in sets.items()})


def _bindable(axis: str, bound: Mapping[str, Any]) -> str:
    """The macro of a mesh axis if files use one (it may be bound on the command line too)."""
    return axis.upper() if axis.upper() in bound else f"{_MESH}{axis}"


def _report(planner: Planner, prepared: _Prepared, candidate: Candidate) -> dict[str, Any]:
    """The candidate's report; of what the compiler refuses, one that says why."""
    try:
        return planner.plan(*prepared, candidate.xla_options)
    except UserError as error:
        return _cannot(str(error), None)


def _cannot(reason: str, needed_gib: float | None) -> dict[str, Any]:
    return {"fits": False, "error": reason, "hbm_gib_per_chip": needed_gib}


def _outcome(report: Mapping[str, Any]) -> str:
    if report.get("error"):
        lines = report["error"].splitlines()
        # Of a traceback, the line that says what went wrong.
        said = next((line for line in reversed(lines) if _ERROR.match(line)), lines[0])
        return f"cannot run: {said}"
    memory = f"{report['hbm_gib_per_chip']:.1f} of {report['hbm_limit_gib']:.1f} GiB"
    if not report["fits"]:
        return f"does not fit, {memory}"
    times = f"{report['step_time_serial_s']:.3f} s serial, MFU {report['mfu_serial']:.3f}"
    return f"fits, {memory}, {times}" + (", from the cache" if report["cached"] else "")


def show_ranking(results: Sequence[Result], format: str) -> None:
    """Prints the results as a table or as JSON, best first."""
    if format == "json":
        print_json(
            [
                {"bindings": c.bindings, "xla_options": c.xla_options, **report}
                for c, report in results
            ]
        )
        return
    rows = [(candidate.label, *_cells(report)) for candidate, report in results]
    print_table(COLUMNS, rows, format=format, styles={"yes": "green", "no": "red"})


def _cells(report: Mapping[str, Any]) -> tuple[str, ...]:
    def number(name: str, digits: int) -> str:
        value = report.get(name)
        return "-" if value is None else f"{value:.{digits}f}"

    return (
        "yes" if report["fits"] else "no",
        number("hbm_gib_per_chip", 1),
        number("step_time_serial_s", 3),
        number("step_time_overlapped_s", 3),
        number("mfu_serial", 3),
        number("mfu_overlapped", 3),
        report.get("error") or "",
    )


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
