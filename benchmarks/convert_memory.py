"""Peak memory of `flan-jax convert`, against 1.3 times the largest tensor plus 1 GB.

Run: python benchmarks/convert_memory.py [--quick] [--folder DIR] [--json FILE]

A Hugging Face checkpoint of random numbers is generated (by default some 3 GB: a T5 of base size
with mT5's vocabulary) and converted from format to format by the real command line, each in a
process of its own, whose peak resident set (VmHWM: its memory, and files that it has mapped) is
read from /proc at its end. The largest tensor is that of the source or target, whichever has the
larger one: our format and T5X's scanned layout have tensors of all layers. Needs twice the
checkpoint's size of disk; what was generated is removed. `--quick` does the first conversion alone,
of 1.2 GB.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from flan_jax.checkpoints.hf import hf_infos, hf_layout, open_hf  # noqa: E402
from flan_jax.checkpoints.hf.writer import create_hf  # noqa: E402
from flan_jax.checkpoints.own import open_own  # noqa: E402
from flan_jax.checkpoints.t5x import open_t5x  # noqa: E402
from flan_jax.models.t5 import T5Config  # noqa: E402

# Each converts what an earlier one made: (name, source, target, flags).
STEPS = (
    ("hf -> ours", "hf", "ours", ("--to", "orbax")),
    ("ours -> t5x legacy", "ours", "legacy", ("--to", "t5x", "--t5x_format", "legacy")),
    ("t5x legacy -> hf", "legacy", "hf_again", ("--to", "hf")),
    (
        "ours -> t5x scanned",
        "ours",
        "scanned",
        ("--to", "t5x", "--layout", "scanned", "--tile_bias"),
    ),
    ("t5x scanned -> ours", "scanned", "ours_again", ("--to", "orbax", "--dtype", "bfloat16")),
)
OPEN = {"hf": open_hf, "ours": open_own, "legacy": open_t5x, "scanned": open_t5x}
_RUN = """
import sys
from flan_jax.cli.main import main
code = main(sys.argv[1:])
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print("PEAK", int(line.split()[1]) * 1024)
sys.exit(code)
"""


def generate(folder: Path, config: T5Config) -> None:
    """A Hugging Face checkpoint of standard normal numbers."""
    infos = hf_infos(hf_layout(config))
    writer = create_hf(folder, infos, config)
    for number, (name, info) in enumerate(infos.items()):
        values = np.random.default_rng(number).standard_normal(math.prod(info.shape), np.float32)
        writer.write(name, values.reshape(info.shape))
    writer.close()


def sizes(infos: Iterable[Any]) -> list[int]:
    """Bytes of tensors."""
    return [math.prod(info.shape) * info.dtype.itemsize for info in infos]


def measure(source: Path, target: Path, flags: Iterable[str]) -> dict[str, float]:
    """Runs one conversion; its peak memory in bytes and its seconds.

    Raises:
      RuntimeError: it failed.
    """
    start = time.monotonic()
    command = [sys.executable, "-c", _RUN, "convert", str(source), str(target), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0 or "verified" not in done.stdout:
        raise RuntimeError(f"{' '.join(command[3:])}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    peak = int(done.stdout.rpartition("PEAK ")[2])
    return {"peak_bytes": peak, "seconds": time.monotonic() - start}


def run(folder: Path, config: T5Config, quick: bool) -> list[dict[str, Any]]:
    """All conversions, or the first; a row each."""
    generate(folder / "hf", config)
    rows = []
    for name, source, target, flags in STEPS[: 1 if quick else None]:
        row: dict[str, Any] = {"conversion": name}
        row |= measure(folder / source, folder / target, flags)
        largest, total = 0, 0
        for place in (source, target):
            reader = OPEN[place.removesuffix("_again")](folder / place)
            found = sizes(reader.infos.values())
            reader.close()
            largest, total = max(largest, *found), max(total, sum(found))
        row |= {"largest_tensor_bytes": largest, "checkpoint_bytes": total}
        row["limit_bytes"] = 1.3 * largest + 1e9
        row["within"] = row["peak_bytes"] <= row["limit_bytes"]
        rows.append(row)
        print_row(row)
        if target.endswith("_again"):
            shutil.rmtree(folder / target)
        if name == "t5x legacy -> hf":
            shutil.rmtree(folder / "hf")
            shutil.rmtree(folder / "legacy")
    return rows


def print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['conversion']:20}  {row['checkpoint_bytes'] / 1e9:5.2f} GB, largest tensor "
        f"{row['largest_tensor_bytes'] / 1e9:5.2f} GB: peak {row['peak_bytes'] / 1e9:5.2f} GB of "
        f"{row['limit_bytes'] / 1e9:5.2f} GB allowed, {row['seconds']:.0f} s"
        f"{'' if row['within'] else '  EXCEEDED'}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small one, one conversion")
    parser.add_argument("--folder", help="where to work (default: the system's temporary folder)")
    parser.add_argument("--json", help="file for the rows")
    flags = parser.parse_args()
    config = T5Config(
        vocab_size=60_000 if flags.quick else 250_112,
        emb_dim=768,
        num_heads=12,
        num_encoder_layers=12,
        num_decoder_layers=12,
        mlp_dim=2048 if flags.quick else 5120,
    )
    with tempfile.TemporaryDirectory(prefix="convert-", dir=flags.folder) as folder:
        rows = run(Path(folder), config, flags.quick)
    if flags.json:
        Path(flags.json).write_text(json.dumps(rows, indent=1))
    return 0 if all(row["within"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
