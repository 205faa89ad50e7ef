"""Statistics of the examples that a training stream draws, by task and group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from flan_jax.data.examples import ExampleMaker
from flan_jax.data.length_pair import recommend_length_pair
from flan_jax.data.reader import DatasetConfig, make_schedule, window_groups
from flan_jax.data.schedule import WINDOW
from flan_jax.fingerprint import mixture_hash

SIDES = ("inputs", "targets")
QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}
# Upper ends of the histograms' bins, in tokens: two to a doubling.
_EDGES = tuple(sorted({2**n for n in range(2, 17)} | {3 * 2**n for n in range(2, 15)}))

_RECOMMENDED_FROM = 4 * WINDOW  # examples that row lengths are tried on


@dataclass(frozen=True)
class Sample:
    """The examples of the first windows of a stream, a column of numbers for each property.

    Attributes:
      windows: windows read.
      tasks: position of the task in the mixture.
      lengths: tokens of inputs and targets before anything is cut, end of sequence included:
        shape (2, examples).
      exemplars, dropped: exemplars shown, and left out because they did not fit.
      epochs: how often the row was read before.
      same_row, other_row: whether inputs and targets are those of an earlier example of the
        sample, made of the same row or of another.
      rows: rows that the examples are packed in.
    """

    windows: int
    tasks: np.ndarray
    lengths: np.ndarray
    exemplars: np.ndarray
    dropped: np.ndarray
    epochs: np.ndarray
    same_row: np.ndarray
    other_row: np.ndarray
    rows: int


def collect(
    config: DatasetConfig,
    maker: ExampleMaker,
    examples: int,
    progress: Callable[[int], None] | None = None,
) -> Sample:
    """Reads whole windows of a training stream from its beginning until `examples` are read.

    Args:
      config: what to read.
      maker: makes its examples.
      examples: at least so many; windows are read whole, since they are packed whole.
      progress: called with the number of examples read, after each window.

    Raises:
      UserError: the dataset is at fault, as for the reader.
    """
    schedule = make_schedule(config, maker)
    limits = _limits(maker)
    columns: list[tuple[int, int, int, int, int, int, bool, bool]] = []
    seen: dict[bytes, tuple[int, int]] = {}
    windows = rows = 0
    while len(columns) < examples:
        lengths = []
        for draw in schedule.window_draws(windows):
            example = maker.example(draw)
            size = (
                len(maker.inputs_vocabulary.encode(example.inputs)) + 1,
                len(maker.targets_vocabulary.encode(example.targets)) + 1,
            )
            source = (draw.task, draw.index)
            first = seen.setdefault(_digest(example.inputs, example.targets), source)
            again = first is not source
            columns.append(
                (
                    draw.task,
                    *size,
                    len(example.exemplars),
                    example.dropped_exemplars,
                    draw.epoch,
                    again and first == source,
                    again and first != source,
                )
            )
            lengths.append((min(size[0], int(limits[0])), min(size[1], int(limits[1]))))
        rows += len(window_groups(config, lengths, maker.seed, windows))
        windows += 1
        if progress is not None:
            progress(len(columns))
    table = np.array(columns, dtype=np.int64).T
    return Sample(
        windows,
        table[0],
        table[1:3],
        table[3],
        table[4],
        table[5],
        table[6].astype(bool),
        table[7].astype(bool),
        rows,
    )


def _digest(inputs: str, targets: str) -> bytes:
    text = f"{len(inputs)} {inputs}{targets}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def summarise(
    config: DatasetConfig,
    maker: ExampleMaker,
    sample: Sample,
    *,
    steps: int,
    vocabulary: str,
) -> dict[str, Any]:
    """What `flan-jax data stats --format json` prints; its keys are documented there.

    Args:
      config, maker: what was read.
      sample: the examples.
      steps: length of the run that epochs are told for, of `config.batch_size` rows a step.
      vocabulary: its name, for the reader.
    """
    mixture = maker.mixture
    limits = _limits(maker)
    kept = np.minimum(sample.lengths, limits[:, None])
    totals = kept.sum(axis=1)
    per_row = len(sample.tasks) / sample.rows
    drawn = steps * config.batch_size * per_row
    proportions = mixture.proportions()
    tasks, groups = [], {}
    for position, task in enumerate(maker.tasks):
        group = mixture.parts.get(task.name, task.group)
        chosen = sample.tasks == position
        size = maker.num_examples(position)
        draws = drawn * proportions[task.name]
        tasks.append(
            {
                "name": task.name,
                "group": group,
                "share": proportions[task.name],
                "rows": size,
                "draws": round(draws, 1),
                "epochs": round(draws / size, 4) if size else None,
                **_figures(limits, sample, chosen, totals),
            }
        )
        groups.setdefault(group, []).append(position)
    return {
        "mixture": mixture.name,
        "hash": mixture_hash(mixture),
        "split": config.split,
        "seed": maker.seed,
        "vocabulary": vocabulary,
        "lengths": dict(maker.feature_lengths),
        "row_lengths": dict(zip(SIDES, config.capacity, strict=True)),
        "windows": sample.windows,
        "steps": steps,
        "batch_size": config.batch_size,
        "missing": dict(maker.missing),
        "packing": _packing(config, sample, totals),
        "edges": {side: bin_edges(int(limit)) for side, limit in zip(SIDES, limits, strict=True)},
        "total": _figures(limits, sample, np.ones(len(sample.tasks), bool), totals),
        "groups": [
            {
                "name": group,
                "tasks": len(members),
                "share": sum(tasks[member]["share"] for member in members),
                "most_epochs": max(tasks[m]["epochs"] or 0.0 for m in members),
                **_figures(limits, sample, np.isin(sample.tasks, members), totals),
            }
            for group, members in groups.items()
        ],
        "tasks": tasks,
        "recommended": _recommended(config, maker, sample),
    }


def _limits(maker: ExampleMaker) -> np.ndarray:
    """Lengths that examples are cut to; rows may be longer."""
    return np.array([maker.feature_lengths[side] for side in SIDES])


def _packing(config: DatasetConfig, sample: Sample, totals: np.ndarray) -> dict[str, Any]:
    capacity = np.array(config.capacity)
    fill = totals / (sample.rows * capacity)
    return {
        "packed": config.pack,
        "rows": sample.rows,
        "examples_per_row": round(len(sample.tasks) / sample.rows, 4),
        "fill": {
            "inputs": round(float(fill[0]), 6),
            "targets": round(float(fill[1]), 6),
            "all": round(float(totals.sum() / (sample.rows * capacity.sum())), 6),
        },
    }


def _figures(
    limits: np.ndarray, sample: Sample, chosen: np.ndarray, totals: np.ndarray
) -> dict[str, Any]:
    """Figures of the chosen examples; `totals` are the tokens of all, inputs and targets."""
    tokens = np.minimum(sample.lengths[:, chosen], limits[:, None]).sum(axis=1)
    return {
        "examples": int(chosen.sum()),
        "tokens": int(tokens.sum()),
        "tokens_share": round(float(tokens.sum() / totals.sum()), 6),
        "targets_share": round(float(tokens[1] / totals[1]), 6),
        **{
            side: _lengths(sample.lengths[row, chosen], int(limits[row]))
            for row, side in enumerate(SIDES)
        },
        "exemplars": int(sample.exemplars[chosen].sum()),
        "dropped_exemplars": int(sample.dropped[chosen].sum()),
        "repeats": int((sample.epochs[chosen] > 0).sum()),
        "duplicates": {
            "same_row": int(sample.same_row[chosen].sum()),
            "other_row": int(sample.other_row[chosen].sum()),
        },
    }


def _lengths(lengths: np.ndarray, limit: int) -> dict[str, Any] | None:
    """Figures of the lengths of some texts; None where there are none."""
    if not len(lengths):
        return None
    over = lengths[lengths > limit] - limit
    edges = bin_edges(limit)
    places = np.searchsorted(edges, lengths)
    return {
        "mean": round(float(lengths.mean()), 2),
        **{
            name: int(np.quantile(lengths, share, method="inverted_cdf"))
            for name, share in QUANTILES.items()
        },
        "max": int(lengths.max()),
        "truncated": len(over),
        "tokens_cut": int(over.sum()),
        "largest_cut": int(over.max()) if len(over) else 0,
        "histogram": np.bincount(places, minlength=len(edges) + 1).tolist(),
    }


def bin_edges(limit: int) -> list[int]:
    """Upper ends of a histogram's bins, but for the last, which has none.

    `limit` is one, so that no bin holds both texts that are cut and such as are not.
    """
    return sorted({*_EDGES, limit})


def bins(counts: Sequence[int], edges: Sequence[int]) -> list[tuple[int, int | None]]:
    """(index, upper end) of a histogram's bins, from the first to the last that is not empty."""
    filled = np.flatnonzero(counts).tolist()
    ends = [*edges, None]
    return [(i, ends[i]) for i in range(filled[0], filled[-1] + 1)] if filled else []


def _recommended(
    config: DatasetConfig, maker: ExampleMaker, sample: Sample
) -> dict[str, Any] | None:
    """Row lengths that would be filled better, cutting no more examples; None if nothing is packed.

    Of the examples that the mixture draws first: a few windows tell as much as many.
    """
    if not config.pack:
        return None
    given = (maker.feature_lengths["inputs"], maker.feature_lengths["targets"])
    lengths = sample.lengths.T[:_RECOMMENDED_FROM]
    pair = recommend_length_pair(lengths, given, window=WINDOW)
    return {
        "inputs": pair.inputs,
        "targets": pair.targets,
        "trim": dict(zip(SIDES, pair.trim, strict=True)),
        "fill": {
            "inputs": round(pair.fill.inputs, 6),
            "targets": round(pair.fill.targets, 6),
            "all": round(pair.fill.all, 6),
        },
        "examples_per_row": round(pair.fill.examples_per_row, 4),
    }
