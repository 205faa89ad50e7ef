"""What `benchmarks/input_pipeline.py` measures of our reader, each in a process of its own."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

MIXTURE = "flan2022"
LENGTHS = {"inputs": 2048, "targets": 512}
BATCH_SIZE = 16
VARIANTS = {
    "rendered": {"zs_opt": 1.0, "zs_noopt": 1.0},
    "few-shot": {"fs_opt": 1.0, "fs_noopt": 1.0},
    "as mixed": None,
}
# Examples read before throughput is measured, or seconds if that is less: templates are compiled
# when they are first drawn.
WARM_UP, WARM_UP_S = 20_480, 10.0
# A batch that took longer was being made; so many batches come at once at most.
NOT_READY_S, BATCHES_AT_ONCE = 0.002, 32
PRETOKENISED = "pre-tokenised"
Result = dict[str, Any]


class MissingPieceError(Exception):
    """Something that is measured is not in this flan_jax."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all measurements share.

    Attributes:
      store: folder of the store of rows.
      tokens: folder of the store of rendered and tokenised examples.
      vocabulary: file of the SentencePiece model, or `micro`.
      seconds: how long throughput is measured.
      quick: whether the rest is measured on less, too.
    """

    store: str
    tokens: str
    vocabulary: str
    seconds: float
    quick: bool = False


def peak_rss_gb(process: str = "self") -> float:
    """The most memory that a process had at a time, as Linux counts it; elsewhere, this one."""
    status = Path("/proc", process, "status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def cpu_seconds() -> float:
    """Of this process, all threads, and of its processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def tokens_of(batch: dict[str, np.ndarray]) -> int:
    """Tokens of inputs and targets that are not padding."""
    names = ("encoder_input_tokens", "decoder_target_tokens")
    return sum(int(np.count_nonzero(batch[name])) for name in names)


def load_vocabulary(path: str) -> Any:
    from flan_jax.data.vocabulary import SentencePieceVocabulary

    return SentencePieceVocabulary(path, 100)


def ten_tasks(number: int) -> list[str]:
    """Ten tasks that stand for the whole mixture: at even steps along its shares."""
    from flan_jax.mixing import get_mixture

    shares = get_mixture(MIXTURE).proportions()
    ends = np.cumsum(list(shares.values()))
    points = (np.arange(10) + (number * 0.618 + 0.5) % 1) / 10
    return [list(shares)[i] for i in np.searchsorted(ends, points)]


def _mixture(kind: str, tasks: list[str] | None) -> str:
    """The name of a mixture of these variants, over all tasks or a few, equally."""
    from flan_jax.mixing import get_mixture, register_mixture

    if kind == "as mixed" and tasks is None:
        return MIXTURE
    name = f"benchmark_{kind.replace('-', '')}_{len(tasks) if tasks else 'all'}"
    members = dict.fromkeys(tasks, 1.0) if tasks else dict(get_mixture(MIXTURE).rates)
    return register_mixture(name, members, variants=VARIANTS[kind]).name


def open_examples(
    setting: Setting, kind: str = "as mixed", tasks: list[str] | None = None, **arguments: Any
) -> Any:
    """What a training run would make its examples with."""
    return _opened(setting, kind, tasks, **arguments)[1]


def open_reader(
    setting: Setting, kind: str = "as mixed", tasks: list[str] | None = None, workers: int = 0
) -> Any:
    """The dataset that a training run would read, not iterated yet."""
    from flan_jax.data.reader import train_dataset

    return train_dataset(*_opened(setting, kind, tasks, num_workers=workers))


def _opened(setting: Setting, kind: str, tasks: list[str] | None, **arguments: Any) -> Any:
    import flan_jax.mixtures  # noqa: F401
    from flan_jax.data.reader import DatasetConfig

    if kind == PRETOKENISED:
        stores = {"token_store": setting.tokens}
        kind = "rendered"
    else:
        stores = {"store": setting.store}
    _require(DatasetConfig, stores)
    vocabulary = load_vocabulary(setting.vocabulary)
    config = DatasetConfig(
        _mixture(kind, tasks), LENGTHS, batch_size=BATCH_SIZE, **stores, **arguments
    )
    return config, config.example_maker(vocabulary, vocabulary, 0)


def _require(config: type, arguments: dict[str, str]) -> None:
    """Raises MissingPieceError unless the reader can read from these stores."""
    lacking = arguments.keys() - config.__dataclass_fields__.keys()
    if lacking:
        raise MissingPieceError(f"the reader has no {', '.join(lacking)}")
    for folder in arguments.values():
        if not Path(folder, "manifest.json").is_file():
            raise MissingPieceError(f"{folder} was not made")


def put_on_device(batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """The batch as the trainer gives it to JAX; returns when it is there."""
    import jax

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    arrays = {n: jax.make_array_from_process_local_data(sharding, a) for n, a in batch.items()}
    return jax.block_until_ready(arrays)


def _import_all() -> None:
    """All that a training process has imported when it begins to read."""
    import jax  # noqa: F401

    import flan_jax.data.reader
    import flan_jax.mixtures  # noqa: F401


def first_batch(setting: Setting, kind: str, workers: int) -> Result:
    """Seconds from the imports to a packed batch on the device; and memory, reading on."""
    _import_all()
    start, cpu = time.monotonic(), time.process_time()
    batches = iter(open_reader(setting, kind, workers=workers))
    put_on_device(next(batches))
    seconds, cpu = time.monotonic() - start, time.process_time() - cpu
    until = time.monotonic() + min(setting.seconds, 5)
    while time.monotonic() < until:
        put_on_device(next(batches))
    result = {"first_batch_s": seconds, "cpu_s": cpu, "peak_rss_gb": peak_rss_gb()}
    if workers:
        result["peak_rss_of_workers_gb"] = sum(peak_rss_gb(child) for child in _children())
    _without_tensorflow()
    _close(batches)
    return result


def _children() -> list[str]:
    """Processes that this one has started, where Linux tells."""
    files = Path("/proc/self/task").glob("*/children")
    return [process for file in files for process in file.read_text().split()]


def _without_tensorflow() -> None:
    found = [name for name in ("tensorflow", "seqio", "tensorflow_datasets") if name in sys.modules]
    assert not found, f"the reading process has imported {', '.join(found)}"


def _close(batches: Any) -> None:
    close = getattr(batches, "close", None)
    if close is not None:
        close()


def throughput(setting: Setting, kind: str, tasks: list[str] | None = None) -> Result:
    """Tokens per CPU-second once the templates are compiled, and how full the rows are."""
    batches: Iterator[dict[str, np.ndarray]] = iter(open_reader(setting, kind, tasks))
    examples, until = 0, time.monotonic() + min(WARM_UP_S, 4 * setting.seconds)
    while examples < WARM_UP and time.monotonic() < until:
        examples += _examples_of(next(batches))
    _until_waited_for(batches)
    filled = {"inputs": 0, "targets": 0}
    rows = examples = 0
    start, cpu = time.monotonic(), cpu_seconds()
    while time.monotonic() - start < setting.seconds:
        for batch in _until_waited_for(batches):
            filled["inputs"] += int(np.count_nonzero(batch["encoder_segment_ids"]))
            filled["targets"] += int(np.count_nonzero(batch["decoder_segment_ids"]))
            rows += BATCH_SIZE
            examples += _examples_of(batch)
    cpu, wall = cpu_seconds() - cpu, time.monotonic() - start
    total = sum(filled.values())
    _without_tensorflow()
    return {
        "tokens_per_cpu_s": total / cpu,
        "tokens_per_s": total / wall,
        "tokens_per_example": total / examples,
        **{f"{side}_filled": filled[side] / (rows * LENGTHS[side]) for side in filled},
    }


def _examples_of(batch: dict[str, np.ndarray]) -> int:
    return int(batch["decoder_segment_ids"].max(axis=1).sum())


def _until_waited_for(batches: Iterator[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Batches up to one that was not ready yet: the first of a window of the reader.

    Windows are made ahead and in one go; measuring from one's beginning to another's counts neither
    tokens whose cost is left out, nor costs whose tokens are.
    """
    found = []
    for _ in range(BATCHES_AT_ONCE):
        start = time.monotonic()
        found.append(next(batches))
        if time.monotonic() - start > NOT_READY_S:
            break
    return found


def resume(setting: Setting, kind: str) -> Result:
    """Bytes of the iterator's state, and seconds to go on from it in this process."""
    _import_all()
    dataset = open_reader(setting, kind)
    batches = iter(dataset)
    for _ in range(7):
        next(batches)
    state = batches.get_state()
    expected = next(batches)
    _close(batches)
    start, cpu = time.monotonic(), time.process_time()
    again = iter(dataset)
    again.set_state(state)
    batch = next(again)
    seconds, cpu = time.monotonic() - start, time.process_time() - cpu
    for name, array in expected.items():
        np.testing.assert_array_equal(batch[name], array)
    return {"resume_s": seconds, "cpu_s": cpu, "state_bytes": len(json.dumps(state))}


def same_ids(setting: Setting) -> Result:
    """Fraction of strings whose ids are those of SentencePiece itself, of the schedule's first.

    Strings are the renderer's; ids those that it, or the store of tokens, gives.
    """
    import sentencepiece

    from flan_jax.data.reader import make_schedule

    native = sentencepiece.SentencePieceProcessor(model_file=setting.vocabulary)
    result: Result = {}
    same = count = 0
    for kind in ("rendered", "few-shot", PRETOKENISED):
        config, maker = _opened(setting, kind, None)
        renderer = open_examples(setting, "rendered") if kind == PRETOKENISED else maker
        lengths = []
        for draw in make_schedule(config, maker).window_draws(0):
            # One epoch is stored, and read again in the next.
            drawn = draw._replace(epoch=0) if kind == PRETOKENISED else draw
            text, ids = renderer.example(drawn), maker.tokenized(draw)
            for side, found in (("inputs", ids.inputs), ("targets", ids.targets)):
                expected = [*native.encode(getattr(text, side))[: LENGTHS[side] - 1], 1]
                same += expected == found.tolist()
                count += 1
            lengths.append((len(ids.inputs), len(ids.targets)))
        sides = zip(*lengths, strict=True)
        result[f"{kind}_median_lengths"] = [statistics.median(side) for side in sides]
        result[f"{kind}_mean_lengths"] = np.mean(lengths, axis=0).round(1).tolist()
    return {"ids_equal": same / count, "strings": count, **result}


def packing(setting: Setting) -> Result:
    """How full rows are, in windows of the reader's, for the lengths of benchmarks/packing.py."""
    from benchmarks.packing import lognormal_lengths
    from flan_jax.data.length_pair import describe_pair, expected_fill, recommend_length_pair
    from flan_jax.data.reader import WINDOW

    count = 16_384 if setting.quick else 65_536
    seen, unseen = lognormal_lengths(count, 1), lognormal_lengths(count, 2)
    pair = recommend_length_pair(seen, (2048, 512), window=WINDOW)
    found: Result = {
        "fill_fraction": describe_pair(unseen, pair.capacity, pair.trim, window=WINDOW).fill.all,
        "recommended_lengths": list(pair.capacity),
    }
    for capacity in ((2048, 512), (1024, 256)):
        fill = expected_fill(np.minimum(unseen, capacity), capacity, window=WINDOW)
        found[f"inputs_filled_{capacity[0]}_{capacity[1]}"] = fill.inputs
    return found


OURS: dict[str, Callable[..., Result]] = {
    "first batch": functools.partial(first_batch, kind="as mixed", workers=0),
    "first batch, 2 workers": functools.partial(first_batch, kind="as mixed", workers=2),
    "first batch, pre-tokenised": functools.partial(first_batch, kind=PRETOKENISED, workers=0),
    "as mixed": functools.partial(throughput, kind="as mixed"),
    "rendered": functools.partial(throughput, kind="rendered"),
    "few-shot": functools.partial(throughput, kind="few-shot"),
    "pre-tokenised": functools.partial(throughput, kind=PRETOKENISED),
    "resume": functools.partial(resume, kind="as mixed"),
    "resume, pre-tokenised": functools.partial(resume, kind=PRETOKENISED),
    "same ids": same_ids,
    "packing": packing,
}


def measure(case: str, turn: int, setting: Setting) -> Result:
    """One measurement, in this process. Raises MissingPieceError if it cannot be made."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if case.endswith(", 10 tasks"):
        import flan_jax.mixtures  # noqa: F401

        return OURS[case.removesuffix(", 10 tasks")](setting, tasks=ten_tasks(turn))
    return OURS[case](setting)


def build_tokens(setting: Setting) -> None:
    """Renders and tokenises the store's training rows, once, zero-shot."""
    from flan_jax.store.token_build import build_token_store

    config, maker = _opened(setting, "rendered", None)
    outcomes, manifest = build_token_store(
        maker,
        setting.tokens,
        mixture_name=config.mixture_or_task_name,
        jobs=os.cpu_count() or 1,
    )
    if manifest is None:
        failed = [outcome for outcome in outcomes if outcome.status == "failed"]
        raise RuntimeError(f"{len(failed)} tasks were not rendered: {failed[0]}")
