"""The input pipeline at 1,838 tasks: ours and SeqIO's, in one run.

Run: python benchmarks/input_pipeline.py [--quick] [--json FILE]

A store of the whole Flan 2022 mixture is built of generated rows of realistic lengths
(`benchmarks/generated_rows.py`), as are the caches of 500 tasks that SeqIO reads. Every measurement
is a process of its own, the cases take turns, and medians are given: on a shared machine only
ratios mean something. Seconds to the first batch are those after the imports, and end when the
batch is on the device. Tokens are those that are not padding, of inputs and targets; CPU-seconds
are those of all threads and processes, from the second batch on. docs/benchmarks.md has the method
and what was found.

`--quick` takes as many turns as fit into its time, three at most, and runs SeqIO once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import generated_rows, pipeline_ours, pipeline_seqio  # noqa: E402
from benchmarks.pipeline_report import figures, print_figures  # noqa: E402

SEQIO = "SeqIO, {} cached tasks"
SEQIO_SECONDS = 10.0  # that its tokens are counted for
FEW = ", 10 tasks"
# All tasks and ten, right after each other and more than once: what else the machine does changes
# the speed of either by more than they differ.
_PAIRS = ("rendered", f"rendered{FEW}", "pre-tokenised", f"pre-tokenised{FEW}")
TURNS = (
    "first batch",
    "first batch, 2 workers",
    "first batch, pre-tokenised",
    *_PAIRS,
    "few-shot",
    *_PAIRS,
    "resume",
)
ONCE = ("same ids", "packing")  # the same every time
Result = dict[str, Any]
Runs = dict[str, list[Result]]


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
      rows: training rows a task.
      cached_rows: rows of a task in SeqIO's caches.
      seconds: of each measurement of throughput.
      turns: of all cases; of SeqIO.
      budget: seconds within which a further turn must end, going by the last one.
      seqio_limit: seconds that SeqIO has for its first batch, and then before it is measured.
    """

    rows: int
    cached_rows: int
    seconds: float
    turns: int
    seqio_turns: int
    budget: float
    seqio_limit: float
    seqio_warm_up: float


QUICK = Size(80, 40, 3.0, 3, 1, 450.0, 220.0, 40.0)
FULL = Size(400, 200, 10.0, 5, 5, float("inf"), 480.0, 90.0)


class Bench:
    """One run: a folder of data, and what was measured so far."""

    def __init__(self, folder: Path, size: Size, seqio_tasks: int, quick: bool):
        self.runs: Runs = {}
        self.notes: list[str] = []
        self._folder = folder
        self._size = size
        self._seqio_tasks = seqio_tasks
        self._start = time.monotonic()
        vocabulary, note = _vocabulary()
        self.notes += note
        self._setting = pipeline_ours.Setting(
            str(folder / "store"), str(folder / "tokens"), vocabulary, size.seconds, quick
        )

    @property
    def seqio_case(self) -> str:
        return SEQIO.format(self._seqio_tasks)

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def prepare(self) -> None:
        """Builds what is read, in processes of its own."""
        for what in ("store", "tokens", "caches"):
            if not (self._folder / what).exists():
                seconds = self._process(f"make {what}", 0, None)
                if seconds is not None:
                    self.runs.setdefault(f"make {what}", []).append(seconds)

    def take_turns(self) -> None:
        """Measures every case, turn after turn."""
        for case in ONCE:
            self._measure(case)
        last = 0.0
        for turn in range(self._size.turns):
            if turn < self._size.seqio_turns:
                self._measure(self.seqio_case)
            if turn and self.seconds() + last > self._size.budget:
                self.notes.append(f"{turn} turns: the time was up")
                return
            begin = time.monotonic()
            for case in TURNS:
                self._measure(case)
            last = time.monotonic() - begin

    def _measure(self, case: str) -> None:
        size = self._size
        # Beyond its limit, SeqIO has time for the imports, and for what comes after the batch.
        more = size.seqio_warm_up + SEQIO_SECONDS + 20
        limit = size.seqio_limit + more if case == self.seqio_case else None
        result = self._process(case, len(self.runs.get(case, ())), limit)
        if result is not None:
            self.runs.setdefault(case, []).append(result)
        whole = case.removesuffix(FEW)
        if result is not None and whole != case and whole in self.runs:
            both = (self.runs[whole][-1], result)
            many, few = (run["tokens_per_cpu_s"] for run in both)
            self.runs.setdefault(f"{whole}, all over ten", []).append({"ratio": many / few})

    def _process(self, case: str, turn: int, limit: float | None) -> Result | None:
        """The result of a process; None if there is none, with a note."""
        job = {
            "case": case, "turn": turn, "setting": dataclasses.asdict(self._setting),
            "folder": str(self._folder), "size": dataclasses.asdict(self._size),
            "seqio_tasks": self._seqio_tasks,
        }  # fmt: skip
        print(f"{self.seconds():5.0f} s: {case}", file=sys.stderr, flush=True)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
        try:
            done = subprocess.run(
                [sys.executable, __file__, "--job", json.dumps(job)],
                capture_output=True,
                text=True,
                timeout=limit,
                env={**os.environ, **quiet},
            )
        except subprocess.TimeoutExpired as error:
            lines = (error.stdout or b"").decode().splitlines()
            if lines:
                self._note(f"{case}: no time to count tokens")
                return json.loads(lines[-1])
            self._note(f"{case}: no batch within {self._size.seqio_limit:g} s")
            return {"not_within_s": self._size.seqio_limit}
        if done.returncode:
            self._note(f"{case}: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
            return None
        result = json.loads(done.stdout.splitlines()[-1])
        if "missing" in result:
            self._note(f"{case}: skipped: {result['missing']}")
            return None
        return result

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _vocabulary() -> tuple[str, list[str]]:
    """T5's vocabulary if it is here, else the micro tasks', and a note that says so."""
    data = Path(os.environ.get("FLAN_JAX_TEST_DATA") or ROOT.parent / "shared" / "data")
    file = data / "t5_vocab" / "spiece.model"
    if file.is_file():
        return str(file), []
    micro = ROOT / "mixtures" / "micro" / "vocabulary" / "micro.model"
    return str(micro), [f"T5's vocabulary is not at {file}: measured with {micro.name}"]


def run_job(job: Result) -> Result:
    """What one process does."""
    setting, size = pipeline_ours.Setting(**job["setting"]), Size(**job["size"])
    folder, case = Path(job["folder"]), job["case"]
    start = time.monotonic()
    try:
        if case == "make store":
            generated_rows.build(
                Path(setting.store), size.rows, max(1, size.rows // 8), os.cpu_count() or 1
            )
        elif case == "make tokens":
            pipeline_ours.build_tokens(setting)
        elif case == "make caches":
            tasks, rows = job["seqio_tasks"], size.cached_rows
            pipeline_seqio.write_caches(folder / "caches", tasks, rows, setting)
        elif case == SEQIO.format(job["seqio_tasks"]):
            seconds, warm_up = SEQIO_SECONDS, size.seqio_warm_up
            return pipeline_seqio.measure(folder / "caches", setting.vocabulary, seconds, warm_up)
        else:
            return pipeline_ours.measure(case, job["turn"], setting)
    except pipeline_ours.MissingPieceError as error:
        return {"missing": str(error)}
    return {"seconds": time.monotonic() - start}


def medians(runs: Runs) -> dict[str, Result]:
    """Of every number that the runs of a case have."""
    found: dict[str, Result] = {}
    for case, results in runs.items():
        names = {name: None for result in results for name in result}
        found[case] = {}
        for name in names:
            values = [result[name] for result in results if name in result]
            numbers = all(isinstance(value, int | float) for value in values)
            found[case][name] = statistics.median(values) if numbers else values[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less of everything: 8 minutes")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--folder", type=Path, help="where data are made, and kept for other runs")
    parser.add_argument("--rows", type=int, help="training rows a task")
    parser.add_argument("--seconds", type=float, help="of each measurement of throughput")
    parser.add_argument("--seqio_warm_up", type=float, help="seconds after its first batch")
    parser.add_argument("--turns", type=int, help="how often every case is measured")
    parser.add_argument("--seqio_tasks", type=int, default=500, help="cached tasks for SeqIO")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(run_job(json.loads(args.job))))
        return
    size = QUICK if args.quick else FULL
    given = {name: getattr(args, name) for name in ("rows", "seconds", "turns", "seqio_warm_up")}
    size = dataclasses.replace(size, **{n: v for n, v in given.items() if v is not None})
    size = dataclasses.replace(
        size,
        cached_rows=min(size.cached_rows, size.rows),
        seqio_turns=min(size.seqio_turns, size.turns),
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder.absolute(), size, args.seqio_tasks, args.quick)
        bench.prepare()
        bench.take_turns()
    found = medians(bench.runs)
    turns = len(bench.runs.get("first batch", ()))
    report = figures(found, bench.seqio_case)
    print_figures(report, found, bench.notes, turns, bench.seconds())
    if args.json:
        content = {
            **report,
            "turns": turns,
            "seconds": bench.seconds(),
            "load_average": os.getloadavg(),
            "notes": bench.notes,
            "medians": found,
            "runs": bench.runs,
        }
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
