"""The table of docs/plan.md: the paper's models on the pods they might be finetuned on.

Run: python benchmarks/plan_table.py [--write docs/plan.md] [--only REGEX] [--list]

Every row is one `flan-jax plan` at the batch and the lengths of Flan's finetuning (T5: 64 rows,
PaLM: 32; 2048 inputs and 512 targets, which a decoder-only model has in one sequence of 2560). What
was compiled before, from the same code, is taken from the plans' cache: a run that was stopped goes
on where it was. `--write` renews the page after every row, and leaves alone the rows that it did
not come to. All rows take some hours on two cores.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.doc_tables import markdown, read_table, renewed, write_table  # noqa: E402

NAME = "plan table"
COLUMNS = (
    "model",
    "slice",
    "chips",
    "fsdp × tensor",
    "fits",
    "GiB of a chip's",
    "step, s",
    "MFU serial",
    "overlapped",
    "serial, by bundles",
    "overlapped",
    "tokens/s serial",
    "compiled in, s",
)
LENGTHS = "{'inputs': 2048, 'targets': 512}"


@dataclass(frozen=True)
class Row:
    """One model on one slice.

    Attributes:
      model: as shown.
      files: gin files.
      topology: the slice.
      chips: in it.
      tensor: size of the mesh's `tensor`; `fsdp` is the rest.
      batch: rows.
      bindings: more of gin.
      xla: options of the compiler, or names of sets.
    """

    model: str
    files: tuple[str, ...]
    topology: str
    chips: int
    tensor: int
    batch: int
    bindings: tuple[str, ...] = ()
    xla: tuple[str, ...] = ("no_windowed_einsum",)

    @property
    def label(self) -> tuple[str, str]:
        return self.model, self.topology

    def flags(self) -> list[str]:
        mesh = {"DATA": 1, "FSDP": self.chips // self.tensor}
        if not any(binding.startswith("MODEL_PARALLEL_SUBMESH") for binding in self.bindings):
            mesh["TENSOR"] = self.tensor
        bindings = {**mesh, "BATCH_SIZE": self.batch, "TASK_FEATURE_LENGTHS": LENGTHS}
        return [
            *(f"--gin_file={file}" for file in self.files),
            *(f"--gin.{name}={value}" for name, value in bindings.items()),
            *(f"--gin.{binding}" for binding in self.bindings),
            *(f"--xla={option}" for option in self.xla),
            f"--topology={self.topology}",
        ]


def rows() -> Iterator[Row]:
    """All rows, those with goals first.

    Of the shapes that 256 and 512 chips can have, 4 x 4 x 16 and 4 x 4 x 32 give `tensor` planes of
    16 chips that are tori.
    """
    yield _t5("xl", "v4-32", 16)
    yield _t5("xxl", "v4-64", 32, 2, "products")
    yield _palm("8b", "v4:2x4x4", 32, 2, "parameters")
    yield _palm("62b", "v4:4x4x16", 256, 16, "parameters")
    yield _palm("540b", "v4:4x4x32", 512, 16, "dots")
    for size in ("small", "base", "large", "xl", "xxl"):
        for topology, chips in (("v4-32", 16), ("v4-64", 32), ("v5e-64", 64), ("v5e-256", 256)):
            if (size, topology) not in (("xl", "v4-32"), ("xxl", "v4-64")):
                large = size == "xxl" or (size, topology) == ("xl", "v5e-64")
                policy = "full" if large else "parameters"
                # 64 rows keep 64 chips busy; beyond that, chips share a row.
                yield _t5(size, topology, chips, max(1, chips // 64), policy)
    yield _palm("8b", "v4:4x4x32", 512, 16, "parameters")
    yield _palm("62b", "v4:4x4x32", 512, 16, "parameters")
    for size in ("8b", "62b", "540b"):
        huge = size == "540b"
        yield _palm(size, "v5p:4x4x8", 128, 8, "full" if huge else "parameters")
        yield _palm(size, "v5p:4x4x32", 512, 16, "dots" if huge else "parameters")


def _t5(size: str, topology: str, chips: int, tensor: int = 1, policy: str = "parameters") -> Row:
    files = (f"models/t5/{size}.gin", "runs/finetune.gin")
    bindings = _bindings(tensor, policy)
    return Row(f"Flan-T5 {size}", files, topology, chips, tensor, 64, bindings)


def _palm(size: str, topology: str, chips: int, tensor: int, policy: str) -> Row:
    files = (f"models/palm/{size}.gin", "runs/flan_palm.gin")
    # As in the paper, attention is causal.
    bindings = (*_bindings(tensor, policy), "INPUTS_BIDIRECTIONAL=False")
    return Row(f"Flan-PaLM {size[:-1]}B", files, topology, chips, tensor, 32, bindings)


def _bindings(tensor: int, policy: str) -> tuple[str, ...]:
    dims = 2 if tensor > 1 else 1
    # Planes of 16 on v4 and v5p are 4 x 4.
    plane = ("MODEL_PARALLEL_SUBMESH=(4, 4, 1, 1)",) if tensor == 16 else ()
    sharding = (f"ACTIVATION_PARTITIONING_DIMS={dims}", f"REMAT_POLICY='{policy}'", *plane)
    # Dropout by the chip's own generator, as anyone would who is short of time.
    return (*sharding, "USE_HARDWARE_RNG=True")


def plan(row: Row, more: list[str]) -> dict[str, Any]:
    """The report of `flan-jax plan`; with `error` if there is none."""
    command = [sys.executable, "-m", "flan_jax", "plan", *row.flags(), "--format=json", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        # What is wrong comes first, and then what to do.
        _, _, message = done.stderr.partition("error: ")
        return {"error": " ".join(message.split("\n")[:2]) or "no output"}
    return json.loads(done.stdout)


def cells(row: Row, report: dict[str, Any]) -> list[str]:
    """A row of the table."""
    mesh = f"{row.chips // row.tensor} × {row.tensor}"
    first = [*row.label, str(row.chips), mesh]
    if "error" in report:
        return [*first, f"not compiled: {report['error']}", *["–"] * 8]
    memory = f"{report['hbm_gib_per_chip']:.1f} of {report['hbm_limit_gib']:.1f}"
    if "step_time_s" not in report:
        return [*first, "no", memory, *["–"] * 7]
    times = f"{report['step_time_overlapped_s']:.3f} to {report['step_time_serial_s']:.3f}"
    return [
        *first,
        "yes" if report["fits"] else "no",
        memory,
        times,
        f"{report['mfu_serial']:.3f}",
        f"{report['mfu_overlapped']:.3f}",
        f"{report['by_bundles']['mfu_serial']:.3f}",
        f"{report['by_bundles']['mfu_overlapped']:.3f}",
        f"{report['tokens_per_s']['serial']:,.0f}",
        f"{report['trace_s'] + report['compile_s']:.0f}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="PAGE", help="renew the table of this page")
    parser.add_argument("--only", default="", help="rows whose 'model on slice' matches")
    parser.add_argument("--list", action="store_true", help="show the commands, run nothing")
    parser.add_argument("--cache_dir", help="see flan-jax plan")
    args = parser.parse_args()
    everything = list(rows())
    chosen = [row for row in everything if re.search(args.only, " on ".join(row.label))]
    more = [f"--cache_dir={args.cache_dir}"] if args.cache_dir else []
    new: dict[tuple[str, ...], list[str]] = {}
    for row in chosen:
        if args.list:
            print(" ".join(["flan-jax plan", *row.flags()]))
            continue
        new[row.label] = cells(row, plan(row, more))
        print("\t".join(new[row.label]), flush=True)
        if args.write:
            old = read_table(args.write, NAME)
            table = renewed([one.label for one in everything], old, new)
            write_table(args.write, NAME, markdown(COLUMNS, table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
