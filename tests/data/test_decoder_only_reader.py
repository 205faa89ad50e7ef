"""The reader's stream in the rows of a decoder-only model: the same examples, as resumable."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from flan_jax.data.counts import TRUNCATION, WINDOW, take_counts
from flan_jax.data.inspection.batches import read_batch
from flan_jax.data.reader import DatasetConfig, eval_batches, make_schedule, train_dataset
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.models.decoder_only import DecoderOnlyModel
from flan_jax.models.palm import PalmConfig

BYTES = ByteVocabulary()
MODEL = DecoderOnlyModel(PalmConfig(vocab_size=384))


def _config(**fields) -> DatasetConfig:
    fields = {"batch_size": 24, "task_feature_lengths": {"inputs": 256, "targets": 64}} | fields
    return DatasetConfig("toys", **fields).for_model(MODEL)


def _batches(config: DatasetConfig, **arguments):
    maker = config.example_maker(BYTES, BYTES, 0)
    return iter(train_dataset(config, maker, counted=True, **arguments))


def _examples(batch):
    """(inputs, targets, task) of every example of a packed batch."""
    for row in range(len(batch["decoder_target_tokens"])):
        one = {name: array[row] for name, array in batch.items()}
        for segment in range(1, one["decoder_segment_ids"].max() + 1):
            here = one["decoder_segment_ids"] == segment
            targets = here & (one["decoder_loss_weights"] > 0)
            yield (
                tuple(one["decoder_target_tokens"][here & ~targets].tolist()),
                tuple(one["decoder_target_tokens"][targets].tolist()),
                int(one["decoder_task_ids"][here][0]),
            )


def test_batches_hold_exactly_the_scheduled_examples(mixture):
    config = _config()
    maker = config.example_maker(BYTES, BYTES, 0)
    draws = make_schedule(config, maker).window_draws(0)
    planned = Counter(
        (tuple(e.inputs.tolist()), tuple(e.targets.tolist()), e.task)
        for e in map(maker.tokenized, draws)
    )
    read, truncated = Counter(), np.zeros((3, 3), np.int64)
    for batch in _batches(config):
        counts = take_counts(batch)
        if counts[WINDOW]:
            break
        assert {rows.shape for rows in batch.values()} == {(24, 320)}
        read.update(_examples(batch))
        truncated += counts[TRUNCATION]
    assert truncated[:, 0].sum() == read.total() > 0.9 * planned.total()
    assert not read - planned


def test_resuming_and_processes_change_nothing(mixture):
    whole = list(itertools.islice(_batches(_config()), 20))
    iterator = _batches(_config(), process_index=1, process_count=2)
    for _ in range(15):
        next(iterator)
    resumed = _batches(_config(), process_index=3, process_count=4)
    resumed.set_state(json.loads(json.dumps(iterator.get_state())))
    for batch in whole[15:]:
        part = next(resumed)
        assert part.keys() == batch.keys()
        for name, count in take_counts(part).items():
            np.testing.assert_array_equal(count, batch[name])
        for name, rows in part.items():
            np.testing.assert_array_equal(rows, batch[name][18:], err_msg=name)


@pytest.mark.parametrize("pack", [True, False])
def test_evaluation_rows(mixture, pack):
    config = _config(split="validation", batch_size=8, pack=pack)
    maker = config.example_maker(BYTES, BYTES, 0)
    read = list(eval_batches(config, maker, 100))
    for batch in read:
        assert {rows.shape for rows in batch.values()} == {(8, 320)}
    if pack:
        assert sum(1 for batch in read for _ in _examples(batch)) == 27
        return
    tasks = np.concatenate([batch["decoder_task_ids"][:, 0] for batch in read])
    assert tasks.tolist() == [0, 1, 2] * 9 + [-1] * 5
    assert not read[-1]["decoder_loss_weights"][3:].any()


def test_longer_rows_hold_more(mixture):
    longer = _config(row_lengths={"inputs": 600, "targets": 100})
    batch = next(_batches(longer))
    assert batch["decoder_target_tokens"].shape == (24, 700)
    assert batch["decoder_segment_ids"].max() > 6


def test_rows_that_cannot_be_shown_are_refused(mixture):
    config = _config()
    with pytest.raises(UserError, match="only those of encoder-decoders"):
        read_batch(config, config.example_maker(BYTES, BYTES, 0), 0)
