"""How full packed rows are and what packing costs: ours, and Grain's packers on the same examples.

Run: python benchmarks/packing.py [--quick] [--json FILE]

Lengths are log-normal: inputs with a median of 150 tokens (sigma 1.0) up to 2048, targets with a
median of 8 (sigma 1.4) up to 512. Every repeat draws other examples; all packers take their turn at
the same ones in one process, and medians are printed. `at most` is a bound on the inputs' fill that
no packing can exceed: an example whose targets fill a row shuts it. Microseconds are CPU time an
example: of planning which examples share a row, and of planning and building the rows' arrays.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator

import grain
import numpy as np

from flan_jax.data.decoder_only import pack_decoder_only
from flan_jax.data.length_pair import (
    LengthPair,
    describe_pair,
    expected_fill,
    recommend_length_pair,
)
from flan_jax.data.packing import TokenizedExample, build_row, pack_best_fit

LONGEST = (2048, 512)
PAIRS = ((2048, 512), (1024, 256))
WINDOWS = (1024, 2048, 4096, 8192)
BUILT_WINDOW = 4096
GRAIN_BINS = 64

Result = dict[str, float]


def lognormal_lengths(count: int, seed: int = 0, sigmas: tuple[float, float] = (1.0, 1.4)):
    """Int64[Array, "count 2"]: (inputs, targets) lengths, end-of-sequence ids included."""
    random = np.random.default_rng(seed)
    drawn = np.exp(np.log([150, 8]) + sigmas * random.standard_normal((count, 2)))
    return np.clip(np.rint(drawn), 2, LONGEST).astype(np.int64)


def examples_of(lengths: np.ndarray) -> list[TokenizedExample]:
    """Examples of these lengths; every token is 7."""
    tokens = np.full(max(LONGEST), 7, np.int32)
    return [TokenizedExample(tokens[:i], tokens[:t], 0) for i, t in lengths.tolist()]


def most_inputs_fill(lengths: np.ndarray, capacity: tuple[int, int]) -> float:
    """A bound on the fraction of inputs that any packing of these examples fills."""
    shut = lengths[:, 1] > capacity[1] - lengths[:, 1].min()
    rows = shut.sum() + lengths[~shut, 0].sum() / capacity[0]
    return float(lengths[:, 0].sum() / (rows * capacity[0]))


def _timed(work: Callable[[], tuple[int, int, int]], count: int, capacity) -> Result:
    """Fill and CPU time of `work`, which returns rows and tokens of inputs and targets in them."""
    gc.collect()  # what the packer before has left is not to be paid by this one
    start = time.process_time()
    rows, inputs, targets = work()
    seconds = time.process_time() - start
    return {
        "inputs": inputs / (rows * capacity[0]),
        "targets": targets / (rows * max(capacity[1], 1)),
        "all": (inputs + targets) / (rows * sum(capacity)),
        "us_per_example": seconds / count * 1e6,
    }


def _ours_planned(lengths: np.ndarray, capacity: tuple[int, int], window: int):
    fill = expected_fill(lengths, capacity, window=window)
    return fill.rows, int(lengths[:, 0].sum()), int(lengths[:, 1].sum())


def _ours_built(examples: list[TokenizedExample], capacity: tuple[int, int], window: int):
    rows = inputs = targets = 0
    for start in range(0, len(examples), window):
        part = examples[start : start + window]
        sizes = [(len(e.inputs), len(e.targets)) for e in part]
        for group in pack_best_fit(sizes, capacity):
            row = build_row([part[i] for i in group], capacity)
            rows += 1
            inputs += int(np.count_nonzero(row["encoder_segment_ids"]))
            targets += int(np.count_nonzero(row["decoder_segment_ids"]))
    return rows, inputs, targets


def _grain_rows(packer, examples: list[TokenizedExample], capacity) -> Iterator[dict]:
    elements = [{"inputs": e.inputs, "targets": e.targets} for e in examples]
    stream = grain.MapDataset.source(elements).to_iter_dataset(
        grain.ReadOptions(num_threads=0, prefetch_buffer_size=1)
    )
    lengths = {"inputs": capacity[0], "targets": capacity[1]}
    return iter(packer(stream, length_struct=lengths, num_packing_bins=GRAIN_BINS))


def _grain(packer, examples: list[TokenizedExample], capacity: tuple[int, int]):
    rows = inputs = targets = 0
    for row in _grain_rows(packer, examples, capacity):
        rows += 1
        inputs += int(np.count_nonzero(row["inputs_segment_ids"]))
        targets += int(np.count_nonzero(row["targets_segment_ids"]))
    return rows, inputs, targets


def _decoder_only(lengths: np.ndarray, capacity: int, window: int):
    sizes = [(i, t) for i, t in lengths.tolist()]
    rows = sum(
        len(pack_decoder_only(sizes[start : start + window], capacity))
        for start in range(0, len(sizes), window)
    )
    return rows, int(lengths.sum()), 0


def measure(count: int, seed: int, sigmas: tuple[float, float]) -> dict[str, Result]:
    """One turn of every packer over the same `count` examples."""
    found: dict[str, Result] = {}
    full = lognormal_lengths(count, seed, sigmas)
    for capacity in PAIRS:
        lengths = np.minimum(full, capacity)
        examples = examples_of(lengths)
        where = f"{capacity[0]}/{capacity[1]}"
        run = functools.partial(_timed, count=count, capacity=capacity)
        for window in WINDOWS:
            work = functools.partial(_ours_planned, lengths, capacity, window)
            found[f"{where} ours, window {window}"] = run(work)
            found[f"{where} ours, window {window}"]["at_most"] = most_inputs_fill(lengths, capacity)
        work = functools.partial(_ours_built, examples, capacity, BUILT_WINDOW)
        found[f"{where} ours, window {BUILT_WINDOW}, with arrays"] = run(work)
        for name in ("FirstFit", "BestFit"):
            packer = getattr(grain.experimental, f"{name}PackIterDataset")
            work = functools.partial(_grain, packer, examples, capacity)
            found[f"{where} Grain's {name}, {GRAIN_BINS} bins, with arrays"] = run(work)
    work = functools.partial(_decoder_only, full, sum(LONGEST), BUILT_WINDOW)
    # One sequence an example: all of its tokens count as inputs.
    found[f"{sum(LONGEST)} decoder-only, window {BUILT_WINDOW}"] = _timed(
        work, count, (sum(LONGEST), 0)
    )
    return found


def recommended(count: int, seed: int, sigmas: tuple[float, float]) -> dict[str, LengthPair]:
    """Recommended length pairs, measured on examples they were not chosen by."""
    seen, unseen = (lognormal_lengths(count, seed + i, sigmas) for i in (1000, 2000))
    questions = {
        "given 2048/512": {"given": (2048, 512)},
        "given 1024/256": {"given": (1024, 256)},
        "inputs 2048, 1% may be cut": {
            "given": (2048, 512), "inputs_length": 2048, "cut_at_most": 0.01
        },
        "total 2560, 1% may be cut": {"given": (2048, 512), "total": 2560, "cut_at_most": 0.01},
    }  # fmt: skip
    answers = {name: recommend_length_pair(seen, **asked) for name, asked in questions.items()}
    return {name: describe_pair(unseen, a.capacity, a.trim) for name, a in answers.items()}


def fill_by_window(pair: LengthPair, count: int, seed: int, sigmas) -> dict[int, float]:
    """Fill of all positions by window size, on examples that the pair was not chosen by."""
    lengths = np.minimum(lognormal_lengths(count, seed + 2000, sigmas), pair.trim)
    return {w: expected_fill(lengths, pair.capacity, window=w).all for w in WINDOWS}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="16,384 examples, not 65,536")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sigmas", type=float, nargs=2, default=(1.0, 1.4))
    parser.add_argument("--json", help="file to write the medians to")
    args = parser.parse_args()
    count, sigmas = 16_384 if args.quick else 65_536, tuple(args.sigmas)
    turns = [measure(count, seed, sigmas) for seed in range(args.repeats)]
    medians = {
        name: {key: statistics.median(turn[name][key] for turn in turns) for key in first}
        for name, first in turns[0].items()
    }
    print(f"{count} examples, sigmas {sigmas}, medians of {args.repeats}")
    for name, found in medians.items():
        bound = f"  (at most {found['at_most']:6.2%})" if "at_most" in found else ""
        print(
            f"{name:48} inputs {found['inputs']:6.2%} targets {found['targets']:6.2%} "
            f"all {found['all']:6.2%} {found['us_per_example']:7.2f} us{bound}"
        )
    pairs = recommended(count, 0, sigmas)
    for name, pair in pairs.items():
        print(
            f"{name:28} -> rows {pair.inputs}/{pair.targets}, examples cut to {pair.trim}: "
            f"all {pair.fill.all:6.2%}, inputs {pair.fill.inputs:6.2%}; cut: inputs "
            f"{pair.inputs_cut:.2%} targets {pair.targets_cut:.2%}, tokens {pair.tokens_lost:.2%}"
        )
        fills = fill_by_window(pair, count, 0, sigmas)
        print("    by window:", ", ".join(f"{w}: {fill:.2%}" for w, fill in fills.items()))
    if args.json:
        report = {
            "medians": medians,
            "recommended": {
                name: {"lengths": pair.capacity, "trim": pair.trim, "fill_fraction": pair.fill.all}
                for name, pair in pairs.items()
            },
        }
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
