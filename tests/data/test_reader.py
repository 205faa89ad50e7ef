"""The reader: exact resume, the same global batch on any number of processes."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

from flan_jax.data.reader import DatasetConfig, eval_batches, make_schedule, train_dataset
from flan_jax.data.schedule import WINDOW
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.sources.base import SourceError

BYTES = ByteVocabulary()
LENGTHS = {"inputs": 256, "targets": 64}


def _config(**kwargs) -> DatasetConfig:
    return DatasetConfig(
        **{
            "mixture_or_task_name": "toys",
            "task_feature_lengths": LENGTHS,
            "batch_size": 24,
            **kwargs,
        }
    )


def _dataset(config: DatasetConfig, seed: int = 0, **kwargs):
    return train_dataset(config, config.example_maker(BYTES, BYTES, seed), **kwargs)


def _take(iterator, count):
    return [next(iterator) for _ in range(count)]


def _assert_equal(one, two):
    assert len(one) == len(two)
    for left, right in zip(one, two, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            assert left[name].dtype == right[name].dtype
            np.testing.assert_array_equal(left[name], right[name])


@pytest.fixture
def batches(mixture):
    # Windows of 1,024 examples give about 15 batches: 36 reach into the third window.
    return _take(iter(_dataset(_config())), 36)


@pytest.mark.parametrize("pack", [True, False])
def test_names_shapes_and_types(mixture, pack):
    batch = next(iter(_dataset(_config(pack=pack))))
    expected = {
        "encoder_input_tokens", "decoder_target_tokens", "decoder_input_tokens",
        "decoder_loss_weights", "decoder_task_ids",
    }  # fmt: skip
    if pack:
        expected |= {
            f"{s}_{n}" for s in ("encoder", "decoder") for n in ("segment_ids", "positions")
        }
    assert batch.keys() == expected
    for name, array in batch.items():
        assert array.shape == (24, 256 if name.startswith("encoder") else 64)
        assert array.dtype == (np.float32 if "weights" in name else np.int32)


@pytest.mark.parametrize("at", [0, 1, 14, 15, 16, 17, 30])
def test_resuming_gives_the_very_next_batch(batches, at):
    iterator = iter(_dataset(_config()))
    _take(iterator, at)
    state = json.loads(json.dumps(iterator.get_state()))  # as a checkpoint keeps it
    assert len(json.dumps(state)) < 500
    resumed = iter(_dataset(_config()))
    resumed.set_state(state)
    _assert_equal(_take(resumed, 6), batches[at : at + 6])


def test_a_state_can_be_set_on_an_iterator_in_use(batches):
    iterator = iter(_dataset(_config()))
    _take(iterator, 3)
    state = iterator.get_state()
    _take(iterator, 9)
    iterator.set_state(state)
    _assert_equal(_take(iterator, 2), batches[3:5])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_share_one_global_batch(batches, count):
    parts = [
        _take(iter(_dataset(_config(), process_index=i, process_count=count)), 4)
        for i in range(count)
    ]
    joined = [
        {name: np.concatenate([part[step][name] for part in parts]) for name in parts[0][step]}
        for step in range(4)
    ]
    _assert_equal(joined, batches[:4])


def test_a_state_moves_between_numbers_of_processes(batches):
    iterator = iter(_dataset(_config(), process_index=0, process_count=2))
    _take(iterator, 11)
    resumed = iter(_dataset(_config(), process_index=3, process_count=4))
    resumed.set_state(iterator.get_state())
    part = next(resumed)
    _assert_equal([part], [{name: rows[18:] for name, rows in batches[11].items()}])


def test_a_batch_must_divide_over_the_processes(mixture):
    with pytest.raises(UserError, match="BATCH_SIZE 24 must be a multiple of the 5 processes"):
        _dataset(_config(), process_count=5)


def test_seeds_give_other_batches_and_the_config_s_own_seed_wins(batches):
    other = next(iter(_dataset(_config(), seed=1)))
    assert not np.array_equal(other["encoder_input_tokens"], batches[0]["encoder_input_tokens"])
    own = _take(iter(_dataset(_config(seed=0), seed=99)), 2)
    _assert_equal(own, batches[:2])


def _segments(batch):
    """(inputs, targets, task) of every example of a packed batch, padding aside."""
    for row in range(len(batch["encoder_input_tokens"])):
        one = {name: array[row] for name, array in batch.items()}
        for segment in range(1, one["encoder_segment_ids"].max() + 1):
            here_in = one["encoder_segment_ids"] == segment
            here_out = one["decoder_segment_ids"] == segment
            yield (
                tuple(one["encoder_input_tokens"][here_in].tolist()),
                tuple(one["decoder_target_tokens"][here_out].tolist()),
                int(one["decoder_task_ids"][here_out][0]),
            )


def test_batches_hold_exactly_the_scheduled_examples(batches, mixture):
    config = _config()
    maker = config.example_maker(BYTES, BYTES, 0)
    schedule = make_schedule(config, maker)
    read = [segment for batch in batches for segment in _segments(batch)]
    planned = []
    for number in range(2):  # batches reach beyond these two windows
        examples = [maker.tokenized(draw) for draw in schedule.window_draws(number)]
        planned += [(tuple(e.inputs.tolist()), tuple(e.targets.tolist()), e.task) for e in examples]
    assert 2 * WINDOW - 10 < len(planned) < len(read)
    assert not Counter(planned) - Counter(read)
    shares = np.bincount([task for *_, task in read]) / len(read)
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.02)


def test_every_example_ends_with_eos(batches):
    for inputs, targets, _ in _segments(batches[0]):
        assert inputs[-1] == targets[-1] == 1
        assert 1 not in inputs[:-1] and 0 not in inputs


def test_without_shuffling_rows_come_in_order(mixture):
    config = _config(shuffle=False, pack=False, mixture_or_task_name="toy_repeat")
    first = next(iter(_dataset(config)))["encoder_input_tokens"]
    maker = config.example_maker(BYTES, BYTES, 0)
    for position in range(24):
        draw = make_schedule(config, maker).draw("toy_repeat", position)
        assert draw.index == position % 11
        ids = maker.tokenized(draw).inputs
        assert first[position, : len(ids)].tolist() == ids.tolist()


def test_evaluation_batches_are_fixed(mixture):
    config = _config(split="validation", batch_size=4)
    maker = config.example_maker(BYTES, BYTES, 7)
    once, again = (list(eval_batches(config, maker, 3)) for _ in range(2))
    _assert_equal(once, again)
    assert all(batch["encoder_input_tokens"].shape == (4, 256) for batch in once)


def test_a_finite_evaluation_set_is_read_once_and_padded(mixture):
    config = _config(split="validation", batch_size=8, pack=False)
    maker = config.example_maker(BYTES, BYTES, 0)
    read = list(eval_batches(config, maker, 100))
    assert len(read) == 4  # 3 tasks of 9 rows in batches of 8
    tasks = np.concatenate([batch["decoder_task_ids"][:, 0] for batch in read])
    # Tasks take turns; missing rows are padding without weight.
    assert tasks.tolist() == [0, 1, 2] * 9 + [-1] * 5
    assert not read[-1]["decoder_loss_weights"][3:].any()


def test_packed_evaluation_rows_hold_no_example_twice(mixture):
    config = _config(split="validation", batch_size=2)
    maker = config.example_maker(BYTES, BYTES, 0)
    found = Counter(s for batch in eval_batches(config, maker, 100) for s in _segments(batch))
    assert sum(found.values()) == 27 and set(found.values()) == {1}


def test_an_empty_split_is_refused(mixture, monkeypatch):
    source = mixture.tasks()[1].source
    monkeypatch.setitem(source.sizes, "train", 0)
    with pytest.raises(UserError, match="task toy_colour has no rows in split 'train'"):
        _dataset(_config())


def test_an_unknown_split_is_refused_before_anything_is_read(mixture):
    with pytest.raises(SourceError, match=r"no split 'validaton'.*did you mean 'validation'"):
        _config(split="validaton").example_maker(BYTES, BYTES, 0)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"use_cached": True}, "SeqIO's offline caches are not read"),
        ({"task_feature_lengths": {"inputs": 8}}, "must be like"),
        ({"task_feature_lengths": {"inputs": 8, "targets": 1}}, "must be at least 2"),
        ({"mixture_or_task_name": "toyz"}, "'toyz'; did you mean 'toys'"),
    ],
)
def test_wrong_settings_are_refused(mixture, kwargs, message):
    with pytest.raises(UserError, match=message):
        _dataset(_config(**kwargs))


def test_few_shot_settings_come_through(mixture):
    config = _config(few_shot=FewShotPolicy(2, 2))
    maker = config.example_maker(BYTES, BYTES, 0)
    assert maker.few_shot == FewShotPolicy(2, 2, max_tokens=256)


@pytest.mark.slow
def test_workers_change_nothing_and_resume():
    import flan_jax.mixtures.micro  # noqa: F401  workers can import it; they cannot import a test
    from flan_jax.mixing import MixtureDefinition
    from flan_jax.tasks import all_tasks

    names = [task.name for task in all_tasks() if task.group == "micro" and not task.held_out][:5]
    config = _config(mixture_or_task_name=names[0], batch_size=16)
    maker = config.example_maker(BYTES, BYTES, 0)
    maker = dataclasses.replace(maker, mixture=MixtureDefinition("m", dict.fromkeys(names, 1.0)))
    alone = _take(iter(train_dataset(config, maker)), 40)
    parallel = dataclasses.replace(config, num_workers=2)
    fresh = dataclasses.replace(maker)  # one that has not looked up its tasks
    iterator = iter(train_dataset(parallel, fresh))
    try:
        _assert_equal(_take(iterator, 15), alone[:15])
        state = iterator.get_state()
        _assert_equal(_take(iterator, 3), alone[15:18])
    finally:
        iterator.close()
    resumed = iter(train_dataset(parallel, fresh))
    try:
        resumed.set_state(state)
        _assert_equal(_take(resumed, 25), alone[15:40])
    finally:
        resumed.close()


def test_rows_may_be_longer_than_their_examples(mixture):
    short = {"inputs": 60, "targets": 12}
    config = DatasetConfig("toys", short, batch_size=4, row_lengths={"inputs": 200, "targets": 50})
    maker = config.example_maker(BYTES, BYTES, 0)
    batch = next(iter(train_dataset(config, maker)))
    assert batch["encoder_input_tokens"].shape == (4, 200)
    assert batch["decoder_target_tokens"].shape == (4, 50)
    for name, limit in (("encoder", 60), ("decoder", 12)):
        segments = batch[f"{name}_segment_ids"]
        for row in segments:
            assert np.bincount(row)[1:].max() <= limit  # examples are cut as before
    assert maker.few_shot.max_tokens == 60


@pytest.mark.parametrize(
    "rows, message",
    [
        ({"inputs": 59, "targets": 12}, "must be at least TASK_FEATURE_LENGTHS"),
        ({"inputs": 60}, "ROW_LENGTHS must be None or like TASK_FEATURE_LENGTHS"),
    ],
)
def test_rows_that_cannot_hold_an_example_are_refused(rows, message):
    with pytest.raises(UserError, match=message):
        DatasetConfig("toys", {"inputs": 60, "targets": 12}, row_lengths=rows)
