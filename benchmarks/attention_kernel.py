"""Cycles of the attention kernels by the TPU compiler's own schedule, ours beside JAX's.

Run: python benchmarks/attention_kernel.py [--chip v4] [--cases encoder palm] [--json FILE]

Needs libtpu and no TPU. Each kernel is compiled ahead of time, in a process of its own, with the
compiler's low-level dump; its final instruction bundles (one a cycle) are counted, those of loops
as often as the loops run. What is not counted: stalls on memory and the matrix unit, so figures are
lower bounds of time, alike for all kernels. What is counted too often: code outside loops that runs
once a column of heads is counted for each program.

"cycles" are of one core for 1024 pairs of a query and a key (one vector register of scores), "MXU"
is the share of the core's peak that the products of the algorithm make of it: 2 forward, 5 backward
(JAX's kernels recompute scores twice in their backward pass, which is not counted in their favour).
Of causal attention half the pairs are counted. JAX's flash attention reads T5's bias as [batch,
heads, queries, keys] from memory, and its backward pass here leaves out the bias's gradient; its
splash attention takes no bias.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from flan_jax.plan.compiler import TPU_ENVIRONMENT  # noqa: E402


@dataclass(frozen=True)
class Chip:
    """A topology's name, and peak bf16 FLOP a cycle of one core (public figures of the chips)."""

    topology: dict[str, str]
    flop_a_cycle: float


MEGACORE = {"chip_config_name": "megacore"}
CHIPS = {
    "v4": Chip({"topology_name": "v4:2x2x1"} | MEGACORE, 275e12 / 2 / 1.05e9),
    "v5e": Chip({"topology_name": "v5e:2x2"}, 197e12 / 1.5e9),
    "v5p": Chip({"topology_name": "v5p:2x2x1"} | MEGACORE, 459e12 / 2 / 1.75e9),
    "v6e": Chip({"topology_name": "v6e:2x2"}, 918e12 / 1.75e9),
}

# batch, queries, keys, heads, key heads, head dimension; of T5-XL's encoder and of PaLM 8B.
SIZES = {
    "encoder": {"sizes": [4, 2048, 2048, 32, 32, 64], "causal": False},
    "palm": {"sizes": [1, 2560, 2560, 16, 1, 256], "causal": True},
}
CONTENDERS = {
    "encoder": ("ours", "jax flash 256", "jax flash 512"),
    "palm": ("ours", "jax splash 512"),
}


# --- The child: compiles one kernel --------------------------------------------------------------


def compile_one(case: dict[str, Any]) -> dict[str, Any]:
    """Compiles value and gradient; returns what the parent must know to count loops."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    topology = topologies.get_topology_desc(platform="tpu", **case["topology"])
    sharding = SingleDeviceSharding(topology.devices[0])
    contender, _, block = case["contender"].partition(" ")
    make = {"ours": ours, "jax": jax_flash if "flash" in block else jax_splash}[contender]
    loss, arrays, rest, trips = make(case, int(block.split()[-1]) if block else 0)

    def laid_out(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    arrays = {name: laid_out(*x) for name, x in arrays.items()}
    rest = {name: laid_out(*x) for name, x in rest.items()}

    def total(arrays: Any, rest: Any) -> Any:
        return jnp.sum(loss(arrays, rest).astype(jnp.float32) ** 2)

    jax.jit(jax.grad(total)).trace(arrays, rest).lower(lowering_platforms=("tpu",)).compile()
    return trips


def ours(case: dict[str, Any], _: int) -> Any:
    import jax.numpy as jnp

    from flan_jax.kernels.flash_attention import flash_attention, kernel_grid
    from flan_jax.kernels.operands import visited_pairs

    batch, q, k, heads, key_heads, kv = case["sizes"]
    arrays = {
        "query": ((batch, q, heads * kv), jnp.bfloat16),
        "key": ((batch, k, key_heads * kv), jnp.bfloat16),
        "value": ((batch, k, key_heads * kv), jnp.bfloat16),
    }
    if not case["causal"]:
        arrays["bias_by_offset"] = ((heads, q + k - 1), jnp.float32)
    rest = {"query_segments": ((batch, q), jnp.int32), "key_segments": ((batch, k), jnp.int32)}

    def loss(arrays: Any, rest: Any) -> Any:
        split = {
            name: x.reshape(*x.shape[:2], -1, kv) if x.ndim == 3 else x
            for name, x in arrays.items()
        }
        return flash_attention(**split, **rest, causal=case["causal"])

    bias = "bias_by_offset" in arrays
    grid = kernel_grid((batch, q, heads, kv), (k, key_heads), causal=case["causal"], bias=bias)
    programs = grid.batch * grid.columns * grid.query_blocks
    main = programs * visited_pairs(grid) / (grid.queries * grid.block_k)
    once_a_row = grid.batch * grid.columns * grid.splits * grid.key_blocks
    a_column = [grid.columns * grid.splits * (grid.offsets // 128 - 1)] * grid.heads * bias
    write = [] if grid.in_parts else [once_a_row]
    return (
        loss,
        arrays,
        rest,
        {
            "forward": {"programs": programs, "loops": [once_a_row, *a_column, main, main]},
            "backward": {
                "programs": programs,
                "loops": [once_a_row, *a_column, *a_column, main, *write, *a_column],
            },
        },
    )


def jax_flash(case: dict[str, Any], block: int) -> Any:
    import jax.numpy as jnp
    from jax.experimental.pallas.ops.tpu import flash_attention as flash

    batch, q, k, heads, _, kv = case["sizes"]
    names = [f for f in flash.BlockSizes.__dataclass_fields__ if f != "block_b"]
    blocks = flash.BlockSizes(block_b=1, **dict.fromkeys(names, block))
    shape = ((batch, heads, q, kv), jnp.bfloat16)
    arrays = {"q": shape, "k": shape, "v": shape}
    rest = {"ab": ((batch, heads, q, k), jnp.float32), "segments": ((batch, q), jnp.int32)}

    def loss(arrays: Any, rest: Any) -> Any:
        ids = flash.SegmentIds(rest["segments"], rest["segments"])
        return flash.flash_attention(**arrays, ab=rest["ab"], segment_ids=ids, block_sizes=blocks)

    tiles = {"programs": batch * heads * (q // block) * (k // block), "loops": []}
    return loss, arrays, rest, {"jvp_jit_flash": tiles, "bwd_dq": tiles, "bwd_dkv": tiles}


def jax_splash(case: dict[str, Any], block: int) -> Any:
    import jax
    import jax.numpy as jnp
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    batch, q, k, heads, _, kv = case["sizes"]
    names = [f for f in splash.BlockSizes.__dataclass_fields__ if f.startswith("block_")]
    blocks = splash.BlockSizes(**dict.fromkeys(names, block))
    mask = splash.MultiHeadMask([splash.CausalMask((q, k))] * heads)
    kernel = splash.make_splash_mqa_single_device(mask, block_sizes=blocks)
    arrays = {
        "q": ((batch, heads, q, kv), jnp.bfloat16),
        "k": ((batch, k, kv), jnp.bfloat16),
        "v": ((batch, k, kv), jnp.bfloat16),
    }
    rest = {"segments": ((batch, q), jnp.int32)}

    def loss(arrays: Any, rest: Any) -> Any:
        ids = splash.SegmentIds(rest["segments"], rest["segments"])
        return jax.vmap(kernel)(arrays["q"], arrays["k"], arrays["v"], segment_ids=ids)

    side = q // block
    tiles = {"programs": batch * heads * side * (side + 1) / 2, "loops": []}
    return loss, arrays, rest, {"fwd": tiles, "dq": tiles, "dkv": tiles}


# --- The parent: counts -------------------------------------------------------------------------

_BUNDLE = re.compile(r"\s*(?:0x[0-9a-f]+|0)\s*(LB|LH|LE|PB|PF|CT)?\s*:((?: ?>)*)\s*\{")


def count_bundles(text: str) -> tuple[int, list[int]]:
    """Bundles of the grid's loop outside inner loops, and of each innermost loop in order."""
    straight, loops = 0, []
    for line in text.splitlines():
        found = _BUNDLE.match(line)
        if not found:
            continue
        depth = found[2].count(">")
        if found[1] == "LB" and depth > 1:
            loops.append(0)
        if depth > 1:
            loops[-1] += 1
        elif depth == 1:
            straight += 1
    return straight, loops


def kernel_cycles(dump: Path, kernel: str, trips: dict[str, Any]) -> float:
    """Cycles of all cores together."""
    files = [
        path
        for path in dump.glob(f"*{kernel}*-final_bundles.txt")
        if "schedule-analysis" not in path.name
    ]
    if len(files) != 1:
        raise RuntimeError(f"expected one schedule of {kernel!r}, found {[f.name for f in files]}")
    straight, loops = count_bundles(files[0].read_text())
    if len(loops) != len(trips["loops"]):
        raise RuntimeError(f"{kernel}: expected {len(trips['loops'])} loops, found {len(loops)}")
    inner = sum(bundles * times for bundles, times in zip(loops, trips["loops"], strict=True))
    return straight * trips["programs"] + inner


def measure(chip: Chip, name: str, contender: str) -> dict[str, Any]:
    case = SIZES[name] | {"contender": contender, "topology": chip.topology}
    with tempfile.TemporaryDirectory() as folder:
        dump = " ".join(
            f"--xla_jf_{option}"
            for option in (f"dump_to={folder}", "dump_llo_text=true", "emit_annotations=true")
        )
        ended = subprocess.run(
            [sys.executable, __file__, "--child", json.dumps(case)],
            env=os.environ | TPU_ENVIRONMENT | {"LIBTPU_INIT_ARGS": dump},
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            return {"case": name, "kernel": contender, "error": ended.stderr.strip()[-300:]}
        kernels = json.loads(ended.stdout.splitlines()[-1])
        cycles = [kernel_cycles(Path(folder), kernel, t) for kernel, t in kernels.items()]
    batch, q, k, heads, _, kv = case["sizes"]
    pairs = batch * heads * q * k / (2 if case["causal"] else 1)
    figures: dict[str, Any] = {"case": name, "kernel": contender}
    for way, spent, products in (("forward", cycles[0], 2), ("backward", sum(cycles[1:]), 5)):
        figures[f"{way}_cycles"] = spent / pairs * 1024
        figures[f"{way}_mxu"] = 2 * products * kv * pairs / (spent * chip.flop_a_cycle)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chip", choices=CHIPS, default="v4")
    parser.add_argument("--cases", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(compile_one(args.child)))
        return
    found = []
    print(f"{'case':9}{'kernel':16}{'forward':>20}{'backward':>20}   ({args.chip}: cycles, MXU)")
    for name in args.cases:
        for contender in CONTENDERS[name]:
            figures = measure(CHIPS[args.chip], name, contender)
            found.append(figures)
            row = f"{name:9}{contender:16}"
            if "error" in figures:
                print(row + figures["error"])
                continue
            ways = [
                (figures[f"{way}_cycles"], figures[f"{way}_mxu"]) for way in ("forward", "backward")
            ]
            print(row + "".join(f"{cycles:12.2f}{mxu:8.1%}" for cycles, mxu in ways))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
