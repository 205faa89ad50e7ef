"""`flan-jax data show`: the packed batches that training reads.

flan-jax data show micro --batch 3 -n 2 --html batch.html
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from flan_jax.cli.data_inspection import (
    add_reading_arguments,
    from_zero,
    open_stream,
    positive,
    write_page,
)
from flan_jax.cli.tables import print_json

if TYPE_CHECKING:
    from flan_jax.data.inspection.batches import InspectedRow, Segment, Span
    from flan_jax.data.reader import DatasetConfig

HELP = "show the packed batches that training reads, and where each segment came from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `flan-jax data show`."""
    add_reading_arguments(parser)
    parser.add_argument(
        "--batch",
        type=from_zero,
        default=0,
        metavar="K",
        help="which batch, from 0 (default); those before it are read, too",
    )
    parser.add_argument(
        "-n", "--rows", type=positive, default=4, help="rows of the batch to show (default: 4)"
    )
    parser.add_argument(
        "--tokens", action="store_true", help="show every token, and its id in JSON"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints rows of one batch; the same bytes every time."""
    config, maker, vocabulary = open_stream(arguments)
    from flan_jax.data.inspection.batches import read_batch

    rows = read_batch(config, maker, arguments.batch, arguments.rows)
    found = describe_batch(config, rows, arguments, vocabulary, dict(getattr(maker, "missing", {})))
    if arguments.html:
        from flan_jax.data.inspection.page import batch_page

        write_page(arguments.html, batch_page(found, rows, tokens=arguments.tokens))
    if arguments.format == "json":
        print_json(found)
    elif arguments.html:
        print(f"{arguments.html}: {len(rows)} rows of batch {arguments.batch} of {arguments.name}")
    else:
        for line in _lines(found):
            print(line)
    if found["missing"]:
        print(f"left out, data missing: {', '.join(found['missing'])}", file=sys.stderr)
    return 0


def describe_batch(
    config: DatasetConfig,
    rows: list[InspectedRow],
    arguments: argparse.Namespace,
    vocabulary: str,
    missing: dict[str, str],
) -> dict[str, Any]:
    """Rows of a batch, as `--format json` prints them."""
    return {
        "mixture": config.mixture_or_task_name,
        "split": config.split,
        "seed": arguments.seed,
        "batch": arguments.batch,
        "batch_size": config.batch_size,
        "vocabulary": vocabulary,
        "lengths": dict(zip(("inputs", "targets"), config.capacity, strict=True)),
        "packed": config.pack,
        "missing": missing,
        "rows": [_row(config, row, arguments.tokens) for row in rows],
    }


def _row(config: DatasetConfig, row: InspectedRow, tokens: bool) -> dict[str, Any]:
    return {
        "row": row.number,
        "window": row.window,
        "padding": {"inputs": row.padding[0], "targets": row.padding[1]},
        "fill": {
            side: round(1 - padding / length, 6)
            for side, padding, length in zip(
                ("inputs", "targets"), row.padding, config.capacity, strict=True
            )
        },
        "loss_tokens": int((row.arrays["decoder_loss_weights"] > 0).sum()),
        "segments": [_segment(segment, tokens) for segment in row.segments],
    }


def _segment(segment: Segment, tokens: bool) -> dict[str, Any]:
    origin = segment.origin
    found: dict[str, Any] = {
        "segment": segment.number,
        "task": segment.task,
        "id": None if origin is None else origin.row,
        "epoch": None if origin is None else origin.epoch,
        "variant": None if origin is None else origin.variant,
        "template": None if origin is None else origin.template,
        "template_file": None if origin is None else origin.where,
        "exemplars": None if origin is None else list(origin.exemplars),
        "dropped_exemplars": None if origin is None else origin.dropped_exemplars,
        "inputs": _span(segment.inputs, tokens),
        "targets": _span(segment.targets, tokens),
        "loss_tokens": sum(weight > 0 for weight in segment.loss),
    }
    if origin is not None:
        found["inputs"]["rendered"] = origin.inputs
        found["targets"]["rendered"] = origin.targets
    if tokens:
        found["targets"]["loss_weights"] = list(segment.loss)
    return found


def _span(span: Span, tokens: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "start": span.start,
        "end": span.end,
        "tokens": span.end - span.start,
        "cut": span.cut,
        "unknown": span.unknown,
        "text": span.text,
    }
    if tokens:
        found |= {"ids": list(span.ids), "pieces": list(span.pieces)}
    return found


def _lines(found: dict[str, Any]) -> list[str]:
    """The rows for the terminal."""
    lengths = found["lengths"]
    lines = [
        f"batch {found['batch']} of {found['mixture']} ({found['split']}, seed {found['seed']}), "
        f"{len(found['rows'])} of {found['batch_size']} rows; tokens by {found['vocabulary']}"
    ]
    for row in found["rows"]:
        lines += [
            "",
            f"=== row {row['row']}: {len(row['segments'])} segments of window {row['window']}; "
            f"inputs {100 * row['fill']['inputs']:.1f}% of {lengths['inputs']}, targets "
            f"{100 * row['fill']['targets']:.1f}% of {lengths['targets']}; padding "
            f"{row['padding']['inputs']} and {row['padding']['targets']}; loss on "
            f"{row['loss_tokens']} tokens",
        ]
        for segment in row["segments"]:
            lines += _segment_lines(segment)
    return lines


def _segment_lines(segment: dict[str, Any]) -> list[str]:
    head = f"--- segment {segment['segment']}: {segment['task']}"
    if segment["id"] is not None:
        head = (
            f"--- segment {segment['segment']}: {segment['id']} epoch {segment['epoch']}, "
            f"{segment['variant']}, {segment['template_file']}"
        )
        if segment["exemplars"]:
            head += f", exemplars {', '.join(map(str, segment['exemplars']))}"
        if segment["dropped_exemplars"]:
            head += f", {segment['dropped_exemplars']} dropped"
    lines = [head]
    for side in ("inputs", "targets"):
        span = segment[side]
        told = f"{side} [{span['start']}:{span['end']}], {span['tokens']} tokens"
        if span["cut"]:
            told += f", {span['cut']} CUT OFF"
        if span["unknown"]:
            told += f", {span['unknown']} UNKNOWN"
        if side == "targets" and segment["loss_tokens"] != span["tokens"]:
            told += f", loss on {segment['loss_tokens']}"
        text = "|".join(span["pieces"]) if "pieces" in span else span["text"]
        lines += [told, *(f"    {line}" for line in text.splitlines() or [""])]
    return lines
