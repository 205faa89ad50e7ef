"""What `benchmarks/input_pipeline.py` measures of SeqIO: cached tasks, mixed and packed.

Caches are written as `seqio_cache_tasks` leaves them (TFExamples of token ids, with `info` and
`stats`), from examples that our renderer makes; SeqIO then reads them by itself, without any of our
code: `seqio.get_dataset` of a flat mixture with `use_cached=True` and a packing feature converter,
which is what T5X calls.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = {"inputs": 2048, "targets": 512}
BATCH_SIZE = 16
SPLIT = "train"
LIST = "tasks.json"


def write_caches(folder: Path, tasks: int, rows: int, setting: Any) -> None:
    """Writes the caches of some of the mixture's tasks: the token ids that our reader takes."""
    import tensorflow as tf

    from benchmarks.pipeline_ours import PRETOKENISED, open_examples
    from flan_jax.data.schedule import Draw

    maker = open_examples(setting, PRETOKENISED)
    proportions = list(maker.mixture.proportions().items())
    chosen = np.unique(np.linspace(0, len(proportions) - 1, tasks).astype(int)).tolist()
    for position in chosen:
        place = folder / proportions[position][0]
        place.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(place / f"{SPLIT}.tfrecord-00000-of-00001")) as writer:
            for index in range(rows):
                example = maker.tokenized(Draw(position, index, 0))
                # SeqIO adds the end of a sequence after the cache.
                ids = {"inputs": example.inputs[:-1], "targets": example.targets[:-1]}
                features = {
                    name: tf.train.Feature(int64_list=tf.train.Int64List(value=value.tolist()))
                    for name, value in ids.items()
                }
                record = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(record.SerializeToString())
        shapes = {name: {"shape": [None], "dtype": "int32"} for name in LENGTHS}
        info = {"features": shapes, "num_shards": 1, "seqio_version": "0.0.20"}
        (place / f"info.{SPLIT}.json").write_text(json.dumps(info))
        (place / f"stats.{SPLIT}.json").write_text(json.dumps({"examples": rows}))
        (place / "COMPLETED").touch()
    rates = {proportions[position][0]: proportions[position][1] for position in chosen}
    (folder / LIST).write_text(json.dumps(rates))


def measure(folder: Path, vocabulary: str, seconds: float, warm_up: float) -> dict[str, float]:
    """Seconds to the first packed batch; then, `warm_up` seconds later, tokens per CPU-second.

    Prints the first batch's when it is there, for whoever does not wait for the rest.
    """
    import seqio
    import tensorflow as tf  # noqa: F401

    rates = json.loads((folder / LIST).read_text())
    seqio.add_global_cache_dirs([str(folder)])
    feature = seqio.Feature(seqio.SentencePieceVocabulary(vocabulary, 100), add_eos=True)
    for name in rates:
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(_not_read, splits=[SPLIT]),
            preprocessors=[
                seqio.CacheDatasetPlaceholder(required=True),
                seqio.preprocessors.append_eos_after_trim,
            ],
            output_features=dict.fromkeys(LENGTHS, feature),
        )
    seqio.MixtureRegistry.add("benchmark", list(rates.items()))
    start, cpu = time.monotonic(), time.process_time()
    dataset = seqio.get_dataset(
        "benchmark",
        LENGTHS,
        seqio.EncDecFeatureConverter(pack=True),
        dataset_split=SPLIT,
        shuffle=True,
        num_epochs=None,
        use_cached=True,
        seed=0,
        verbose=False,
    )
    batches = dataset.batch(BATCH_SIZE, drop_remainder=True).prefetch(2).as_numpy_iterator()
    next(batches)
    first, first_cpu = time.monotonic() - start, time.process_time() - cpu
    result = {"first_batch_s": first, "cpu_s": first_cpu}
    print(json.dumps(result), flush=True)
    # Until now, and for some time yet, most of the work goes into filling buffers.
    until = time.monotonic() + warm_up
    while time.monotonic() < until:
        next(batches)
    inputs = targets = count = 0
    wall, cpu = time.monotonic(), time.process_time()
    while time.monotonic() - wall < seconds:
        batch = next(batches)
        inputs += int(np.count_nonzero(batch["encoder_segment_ids"]))
        targets += int(np.count_nonzero(batch["decoder_segment_ids"]))
        count += BATCH_SIZE
    cpu = time.process_time() - cpu
    return {
        **result,
        "tokens_per_cpu_s": (inputs + targets) / cpu,
        "inputs_filled": inputs / (count * LENGTHS["inputs"]),
        "targets_filled": targets / (count * LENGTHS["targets"]),
        "threads": len(list(Path("/proc/self/task").iterdir())),
    }


def _not_read(split: str, shuffle_files: bool, seed: int | None = None) -> Any:
    raise AssertionError("the cache is read instead")
