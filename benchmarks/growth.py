"""How plans and steps grow: with layers, batch, sequence and chips.

Run: python benchmarks/growth.py [--write docs/plan.md] [--quick] [--only REGEX]

A decoder of PaLM's kind, 2048 wide (1.2 billion parameters with 16 layers), is planned by `flan-jax
plan` again and again, one thing varied at a time. What must hold: the time and the memory that
compiling takes are flat in layers (they are scanned over) and in chips; the step's own time grows
with batch and sequence. Each line's last column compares with the first of its kind, in the same
run; compilation is compared by processor seconds, for a machine has other things to do. `--quick`
does the first two points of each kind.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.doc_tables import markdown, read_table, renewed, write_table  # noqa: E402

NAME = "growth table"
COLUMNS = (
    "varied",
    "value",
    "chips",
    "compiled in, s",
    "CPU, s",
    "memory to compile, GiB",
    "GiB a chip",
    "step serial, s",
    "against the first",
)
MODEL = """
include 'models/palm/architecture.gin'
network.PalmConfig.emb_dim = 2048
network.PalmConfig.num_heads = 16
network.PalmConfig.head_dim = 128
network.PalmConfig.mlp_dim = 8192
network.PalmConfig.vocab_size = 32128
network.PalmConfig.remat_policy = 'full'
include 'runs/finetune.gin'
DROPOUT_RATE = 0.0
"""
TOPOLOGIES = {4: "v4:2x2x1", 16: "v4:2x2x4", 64: "v4:4x4x4", 512: "v4:8x8x8", 4096: "v4:16x16x16"}


@dataclass(frozen=True)
class Point:
    """One plan; what is not varied is as here.

    Attributes:
      varied: "layers", "batch", "sequence" or "chips".
      layers, batch, sequence, chips: of the model, the batch, its rows and the slice.
    """

    varied: str
    layers: int = 16
    batch: int = 64
    sequence: int = 1024
    chips: int = 16

    @property
    def value(self) -> int:
        return getattr(self, self.varied)

    @property
    def label(self) -> tuple[str, str]:
        return self.varied, f"{self.value:,}"

    def flags(self) -> list[str]:
        tensor = max(1, self.chips // self.batch)
        lengths = {"inputs": self.sequence * 3 // 4, "targets": self.sequence // 4}
        bindings = {
            "network.PalmConfig.num_layers": self.layers,
            "BATCH_SIZE": self.batch,
            "TASK_FEATURE_LENGTHS": lengths,
            "DATA": 1,
            "FSDP": self.chips // tensor,
            "TENSOR": tensor,
        }
        return [
            *(f"--gin.{name}={value}" for name, value in bindings.items()),
            f"--topology={TOPOLOGIES[self.chips]}",
            "--xla=no_windowed_einsum",
        ]


def points(quick: bool) -> Iterator[Point]:
    """All plans, the first of each kind being what the others are compared with."""
    kinds: dict[str, list[Any]] = {
        "layers": [{"layers": n} for n in (4, 16, 64)],
        "batch": [{"batch": n} for n in (16, 64, 256)],
        "sequence": [{"sequence": n} for n in (512, 1024, 4096)],
        # 512 rows, so that thousands of chips have something to do.
        "chips": [{"chips": n, "batch": 512} for n in (4, 64, 512, 4096)],
    }
    for varied, values in kinds.items():
        for fields in values[:2] if quick else values:
            yield Point(varied, **fields)


def plan(point: Point, model: Path) -> dict[str, Any]:
    """The report of `flan-jax plan`, compiled anew.

    Raises:
      RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "flan_jax", "plan", f"--gin_file={model}", *point.flags()]
    done = subprocess.run(
        [*command, "--no_cache", "--format=json"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode not in (0, 3):
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr}")
    return json.loads(done.stdout)


def cells(point: Point, report: dict[str, Any], first: dict[str, Any]) -> list[str]:
    """A row of the table. Layers and chips are compared by the work of compiling."""
    compiled = report["trace_s"] + report["compile_s"]
    step = report.get("step_time_serial_s")
    if point.varied in ("layers", "chips"):
        ratio = f"CPU × {report['cpu_s'] / first['cpu_s']:.2f}"
    elif step and first.get("step_time_serial_s"):
        ratio = f"step × {step / first['step_time_serial_s']:.2f}"
    else:
        ratio = "-"
    return [
        *point.label,
        str(point.chips),
        f"{compiled:.0f}",
        f"{report['cpu_s']:.0f}",
        f"{report['peak_rss_gib']:.1f}",
        f"{report['hbm_gib_per_chip']:.1f}" + ("" if report["fits"] else " (does not fit)"),
        f"{step:.3f}" if step else "-",
        ratio,
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="PAGE", help="renew the table of this page")
    parser.add_argument("--quick", action="store_true", help="two points of each kind")
    parser.add_argument("--only", default="", help="kinds (layers, batch, ...) that match")
    args = parser.parse_args()
    order = [point.label for point in points(quick=False)]
    first: dict[str, dict[str, Any]] = {}
    new: dict[tuple[str, ...], list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model.gin")
        model.write_text(MODEL, encoding="utf-8")
        for point in points(args.quick):
            if not re.search(args.only, point.varied):
                continue
            report = plan(point, model)
            compared = first.setdefault(point.varied, report)
            new[point.label] = cells(point, report, compared)
            print("\t".join(new[point.label]), flush=True)
            if args.write:
                table = renewed(order, read_table(args.write, NAME), new)
                write_table(args.write, NAME, markdown(COLUMNS, table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
