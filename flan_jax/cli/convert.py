"""`flan-jax convert`: from one checkpoint format to another.

flan-jax convert hf://google/flan-t5-small checkpoints/checkpoint_0 --to orbax
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flan_jax.cli.tables import FORMATS as OUTPUT_FORMATS
from flan_jax.cli.tables import print_json, print_table

if TYPE_CHECKING:
    from flan_jax.checkpoints.convert import Conversion

DESCRIPTION = """\
Converts a checkpoint between our format (orbax), Hugging Face's (hf) and T5X's (t5x).

The source's format is found out by its files; its configuration (our run document, config.gin of
T5X, config.json of Hugging Face) gives the model's dimensions. All names, shapes and dtypes are
checked before anything is written; tensors pass through memory one at a time; what was written is
read back and compared bit by bit; the target is there whole or not at all. The source is only read.
"""
EPILOG = """\
examples:
  flan-jax convert hf://google/flan-t5-small out/checkpoint_0 --to orbax
  flan-jax convert runs/my_run/checkpoint_2000 out/flan --to hf --vocabulary spiece.model
  flan-jax convert out/flan out/checkpoint_2000 --to t5x --t5x_format legacy
"""


def make_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="flan-jax convert",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("source", metavar="SRC", help="a checkpoint's folder, gs://bucket/path or hf://owner/name")
    add("target", metavar="DST", help="the folder to be made: it becomes the checkpoint itself")
    add("--to", required=True, choices=("orbax", "hf", "t5x"), help="format (orbax is our own)")
    add("--t5x_format", choices=("orbax", "legacy"), default="orbax", help="default: orbax")
    add(
        "--layout",
        choices=("unscanned", "scanned"),
        default="unscanned",
        help="of --to t5x: one subtree a layer (examples/t5, the default) or stacked layers "
        "(examples/scalable_t5)",
    )
    add(
        "--tile_bias",
        action="store_true",
        help="with --layout scanned, whose layers have a relative position bias each: copy the one "
        "that they share to all",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the parameters (default: as in the source)",
    )
    optimizer = parser.add_mutually_exclusive_group()
    optimizer.add_argument(
        "--with_optimizer",
        dest="with_optimizer",
        action="store_true",
        default=True,
        help="keep the optimizer's state where the target can hold it (the default)",
    )
    optimizer.add_argument(
        "--no_optimizer", dest="with_optimizer", action="store_false", help="leave it out"
    )
    add(
        "--keep_adapters",
        action="store_true",
        help="with --to orbax, keep LoRA adapters apart (default: merged into their kernels)",
    )
    add(
        "--vocabulary",
        metavar="FILE",
        help="SentencePiece model to make tokenizer files of, or `bytes` (default: the one that "
        "the checkpoint names, if it is here)",
    )
    add("--extra_ids", type=int, default=100, help="sentinels after its pieces (default: 100)")
    add("--overwrite", action="store_true", help="replace a checkpoint at DST")
    add("--dry_run", action="store_true", help="check all, print the table, write nothing")
    add("--format", choices=OUTPUT_FORMATS, default="auto", help="of the output")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs `flan-jax convert`."""
    arguments = make_parser().parse_args(argv)
    # Tensors go from disk to disk: an accelerator has no part in it.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from flan_jax.checkpoints.convert import Options, convert
    from flan_jax.checkpoints.staging import Terminated

    options = Options(
        to=arguments.to,
        t5x_format=arguments.t5x_format,
        layout=arguments.layout,
        tile_bias=arguments.tile_bias,
        dtype=arguments.dtype,
        with_optimizer=arguments.with_optimizer,
        keep_adapters=arguments.keep_adapters,
        vocabulary=_vocabulary(arguments.vocabulary, arguments.extra_ids),
        overwrite=arguments.overwrite,
        dry_run=arguments.dry_run,
    )
    try:
        done = convert(arguments.source, arguments.target, options, _progress_line())
    except Terminated as stop:
        print("flan-jax: terminated; nothing was written", file=sys.stderr)
        return 128 + stop.number
    if arguments.format == "json":
        print_json(summary(done, arguments.target))
    else:
        show(done, arguments.target, arguments.format)
    return 0


def _vocabulary(name: str | None, extra_ids: int) -> Any:
    if name is None:
        return None
    from flan_jax.data.vocabulary import ByteVocabulary, SentencePieceVocabulary

    return (
        ByteVocabulary(extra_ids) if name == "bytes" else SentencePieceVocabulary(name, extra_ids)
    )


def _progress_line() -> Any:
    """A callback that keeps one line of a terminal up to date; None elsewhere."""
    if not sys.stderr.isatty():
        return None
    shown = [""]

    def tell(phase: str, done: int, total: int) -> None:
        line = f"\r{phase} {done / 1e9:.2f} of {total / 1e9:.2f} GB"
        if line != shown[0]:
            shown[0] = line
            end = "\n" if phase == "verifying" and done >= total else ""
            print(line, end=end, file=sys.stderr, flush=True)

    return tell


def summary(conversion: Conversion, target: str) -> dict[str, Any]:
    """All that is printed, as `--format json` prints it."""
    plan, source = conversion.plan, conversion.source
    parameters = sum(
        math.prod(shape) for name, shape in _our_shapes(conversion) if name.startswith("params/")
    )
    return {
        "source": {"path": source.path, "kind": source.kind},
        "target": {"path": target, "kind": conversion.target.kind},
        "written": conversion.done is not None,
        "step": source.step,
        "parameters": parameters,
        "bytes": plan.num_bytes,
        "tensors": len(plan.infos),
        "rows": _rows(conversion),
        "dropped": list(plan.dropped),
        "unused": list(source.unused),
        "notes": list(conversion.notes),
    }


def _our_shapes(conversion: Conversion) -> Iterable[tuple[str, tuple[int, ...]]]:
    from flan_jax.checkpoints.plan import our_shapes

    return our_shapes(move.target for move in conversion.plan.moves).items()


def _rows(conversion: Conversion) -> list[dict[str, Any]]:
    """One row a tensor of ours."""
    shapes, rows = dict(_our_shapes(conversion)), []
    moves: dict[str, list[Any]] = {}
    for move in conversion.plan.moves:
        moves.setdefault(move.target.ours, []).append(move)
    infos = conversion.source.reader.infos
    used: dict[str, str] = {}
    for name, group in moves.items():
        sources = [move.source.theirs for move in group if move.source is not None]
        before = sorted({infos[each].dtype.name for each in sources})
        after = group[0].dtype.name
        done = []
        if len(sources) < len(group):
            done.append("made (zeros)")
        if name in conversion.merged:
            done.append("merged")
        if sources and before != [after]:
            done.append(f"cast {'/'.join(before)} to {after}{_error(conversion, name)}")
        tied = used.get(sources[0]) if sources else None
        if tied is not None and name.startswith("params/"):
            done.append(f"tied with {tied}")
        if len({move.target.layer for move in group}) < len(group):
            done.append("copied to each layer")
        used.update(dict.fromkeys(sources, name))
        rows.append(
            {
                "tensor": name,
                "shape": list(shapes[name]),
                "dtype": after,
                "from": _pattern(sources, name),
                "to": _pattern([move.target.theirs for move in group], name),
                "done": ", ".join(done) or "mapped",
            }
        )
    return rows


def _error(conversion: Conversion, name: str) -> str:
    if conversion.done is None:
        return ""
    return f" (largest error {conversion.done.cast_errors.get(name, 0.0):.2g})"


def _pattern(names: Sequence[str], ours: str) -> str:
    """One name for many that differ in a layer's number: `block.{0..7}.wo`; "=" for our own."""
    names = list(dict.fromkeys(names))
    if len(names) < 2:
        return "=" if names == [ours] else "".join(names)
    split = [re.split(r"(\d+)", name) for name in names]
    for at in range(1, min(map(len, split)), 2):
        numbers = sorted({int(parts[at]) for parts in split})
        if len(numbers) == len(names):
            middle = f"{{{numbers[0]}..{numbers[-1]}}}"
            return "".join([*split[0][:at], middle, *split[0][at + 1 :]])
    return f"{names[0]} … {names[-1]}"


def show(conversion: Conversion, target: str, format: str) -> None:
    """Prints the table and what it comes to."""
    found = summary(conversion, target)
    print(f"{found['source']['path']}: {found['source']['kind']}")
    parameters = [row for row in found["rows"] if row["tensor"].startswith("params/")]
    others = [row for row in found["rows"] if not row["tensor"].startswith("params/")]
    cells = [
        (
            row["tensor"].removeprefix("params/"),
            "x".join(map(str, row["shape"])),
            row["from"],
            row["to"],
            row["done"],
        )
        for row in parameters
    ]
    print_table(("parameter", "shape", "from", "to", ""), cells, format=format)
    print()
    slots = [row for row in others if row["tensor"].startswith("opt_state/")]
    if slots:
        made = sum(row["done"].startswith("made") for row in slots)
        extra = f" ({made} made of zeros)" if made else ""
        print(f"optimizer    {len(slots)} tensors of its state carried over{extra}")
    dropped = [name for name in found["dropped"] if name.startswith("opt_state/")]
    if dropped:
        print(f"dropped      optimizer state ({len(dropped)} tensors)")
    for name in found["dropped"]:
        if not name.startswith("opt_state/"):
            print(f"dropped      {name}")
    if found["unused"]:
        print(f"not used     {_some(found['unused'])}")
    for note in found["notes"]:
        print(f"note         {note}")
    print(f"step         {'unknown' if found['step'] is None else found['step']}")
    print(
        f"in all       {found['parameters']:,} parameters, {found['tensors']} tensors, "
        f"{found['bytes'] / 1e6:,.1f} MB"
    )
    if conversion.done is None:
        print(f"dry run      nothing was written; {target} would be {conversion.target.kind}")
    else:
        print("verified     every tensor was read back and equals what was read from the source")
        print(f"written      {target} ({conversion.target.kind})")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
