"""Tokens per CPU-second of our reader and of SeqIO's packed pipeline, over the same tasks.

Run: JAX_PLATFORMS=cpu python benchmarks/reader.py --vocabulary <spiece.model> [--tasks 10]

Both engines render the same examples and tokenise them natively (`flan_jax.seqio_tasks`); a third
line gives SeqIO with its own tokeniser. Every measurement is a process of its own, the engines take
turns, and medians are printed: on a shared machine only their ratio means something. Tokens are
those that are not padding, of inputs and targets; CPU-seconds are those of all threads, from the
second batch on.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

LENGTHS = {"inputs": 512, "targets": 128}
BATCH_SIZE = 16
MIXTURE = "benchmark"
ENGINES = ("ours", "seqio", "seqio, its own tokeniser")


def _register(tasks: int) -> None:
    import flan_jax.mixtures.micro  # noqa: F401
    from flan_jax.mixing import register_mixture
    from flan_jax.tasks import all_tasks

    names = [task.name for task in all_tasks() if task.group == "micro" and not task.held_out]
    register_mixture(MIXTURE, names[:tasks])


def _ours(path: str) -> Iterator[dict[str, np.ndarray]]:
    from flan_jax.data.reader import DatasetConfig, train_dataset
    from flan_jax.data.vocabulary import SentencePieceVocabulary

    vocabulary = SentencePieceVocabulary(path, 100)
    config = DatasetConfig(MIXTURE, LENGTHS, batch_size=BATCH_SIZE)
    return iter(train_dataset(config, config.example_maker(vocabulary, vocabulary, 0)))


def _seqio(path: str, native: bool) -> Iterator[dict[str, np.ndarray]]:
    import seqio

    from flan_jax import seqio_tasks
    from flan_jax.data.vocabulary import SentencePieceVocabulary

    if not native:
        seqio_tasks.tokenize_natively = _tokenize_by_seqio
    seqio_tasks.register(MIXTURE, SentencePieceVocabulary(path, 100))
    converter = seqio.EncDecFeatureConverter(pack=True)
    dataset = seqio.get_dataset(
        MIXTURE, LENGTHS, converter, shuffle=True, num_epochs=None, seed=0, verbose=False
    )
    return dataset.batch(BATCH_SIZE, drop_remainder=True).prefetch(2).as_numpy_iterator()


def _tokenize_by_seqio(dataset: Any, vocabularies: dict[str, Any]) -> Any:
    import seqio

    features = {name: seqio.Feature(v.to_seqio()) for name, v in vocabularies.items()}
    return seqio.preprocessors.tokenize(dataset, features)


def _tokens(batch: dict[str, np.ndarray]) -> int:
    names = ("encoder_input_tokens", "decoder_target_tokens")
    return sum(int(np.count_nonzero(batch[name])) for name in names)


def measure(engine: str, path: str, tasks: int, seconds: float) -> dict[str, float]:
    """One measurement, in this process."""
    start = time.monotonic()
    _register(tasks)
    make = {
        "ours": _ours,
        "seqio": functools.partial(_seqio, native=True),
        "seqio, its own tokeniser": functools.partial(_seqio, native=False),
    }[engine]
    batches = make(path)
    next(batches)
    first = time.monotonic() - start
    tokens = positions = 0
    wall, cpu = time.monotonic(), time.process_time()
    while time.monotonic() - wall < seconds:
        batch = next(batches)
        tokens += _tokens(batch)
        positions += batch["encoder_input_tokens"].size + batch["decoder_target_tokens"].size
    cpu = time.process_time() - cpu
    return {"tokens_per_cpu_second": tokens / cpu, "first_batch": first, "fill": tokens / positions}


def _measure_in_a_process(engine: str, args: argparse.Namespace) -> dict[str, float]:
    command = [
        sys.executable, __file__, "--engine", engine, "--vocabulary", args.vocabulary,
        "--tasks", str(args.tasks), "--seconds", str(args.seconds),
    ]  # fmt: skip
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vocabulary", required=True, help="SentencePiece model")
    parser.add_argument("--tasks", type=int, default=10, help="micro tasks in the mixture")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engine", choices=ENGINES, help="measure one engine once, as JSON")
    args = parser.parse_args()
    if args.engine:
        print(json.dumps(measure(args.engine, args.vocabulary, args.tasks, args.seconds)))
        return
    runs: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
    for _ in range(args.repeats):
        for engine in ENGINES:
            runs[engine].append(_measure_in_a_process(engine, args))
    medians = {
        engine: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for engine, found in runs.items()
    }
    print(f"{args.tasks} micro tasks, {LENGTHS}, {args.repeats} repeats, medians")
    ours = medians["ours"]["tokens_per_cpu_second"]
    for engine, found in medians.items():
        speed = found["tokens_per_cpu_second"]
        print(
            f"{engine:26} {speed / 1e3:8.0f}k tokens/CPU-s (ours: {ours / speed:5.2f} times that)  "
            f"first batch {found['first_batch']:5.1f} s  filled {found['fill']:.1%}"
        )


if __name__ == "__main__":
    main()
