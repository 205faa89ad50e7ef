"""Training from a store of rows; the order of examples survives stops and changes of hosts."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flan_jax.data.counts import Repeats, take_counts, truncation_metrics
from flan_jax.data.examples import ExampleMaker
from flan_jax.data.packing import TokenizedExample
from flan_jax.data.reader import DatasetConfig, make_schedule, train_dataset
from flan_jax.data.schedule import Schedule
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.draws import Draws
from flan_jax.realised import MixtureMissingError
from flan_jax.sources.base import SourceError
from flan_jax.store import StoreError, StoreSource, build_store

BYTES = ByteVocabulary()
LENGTHS = {"inputs": 256, "targets": 64}
MICRO = sorted((Path(__file__).parents[2] / "mixtures/micro/vocabulary").glob("*.model"))


def _config(**kwargs) -> DatasetConfig:
    return DatasetConfig(
        **{
            "mixture_or_task_name": "toys",
            "task_feature_lengths": LENGTHS,
            "batch_size": 24,
            **kwargs,
        }
    )


def _maker(**kwargs) -> ExampleMaker:
    return _config(**kwargs).example_maker(BYTES, BYTES, 0)


@pytest.fixture
def store(mixture, tmp_path) -> str:
    build_store(mixture, tmp_path / "store")
    return str(tmp_path / "store")


def test_batches_from_a_store_are_those_of_the_data(store):
    config = _config(store=store)
    maker = _maker(store=store)
    assert all(isinstance(task.source, StoreSource) for task in maker.tasks)
    here, there = (iter(train_dataset(config, m)) for m in (_maker(), maker))
    for _ in range(20):
        one, two = next(here), next(there)
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


def test_rows_come_from_the_store_alone(store, mixture, monkeypatch):
    config = _config(store=store, mixture_or_task_name="toy_repeat")

    def gone(*_):
        raise AssertionError("the data were read")

    for name in ("row", "num_examples"):
        monkeypatch.setattr(type(mixture.tasks()[2].source), name, gone)
    maker = config.example_maker(BYTES, BYTES, 0)
    assert make_schedule(config, maker).sizes == {"toy_repeat": 11}
    next(iter(train_dataset(config, maker)))


def test_a_task_that_is_not_in_the_store_is_missing(mixture, tmp_path, monkeypatch):
    colour = mixture.tasks()[1]

    def broken(split, index):
        raise SourceError("bad data")

    with monkeypatch.context() as patch:
        patch.setitem(colour.source.__dict__, "row", broken)
        report = build_store(mixture, tmp_path / "s", allow_missing=True)
    assert [o.name for o in report.failed] == ["toy_colour"]
    with pytest.raises(MixtureMissingError) as caught:
        _maker(store=str(tmp_path / "s"))
    text = str(caught.value)
    assert f"toy_colour: not in the store {tmp_path / 's'} (bad data)" in text
    assert f"flan-jax data build toys --out {tmp_path / 's'}" in text and "ALLOW_MISSING" in text
    found = _maker(store=str(tmp_path / "s"), allow_missing=True)
    assert "toy_colour" in found.missing and "toy_colour" not in found.task_names
    assert sum(found.mixture.proportions().values()) == pytest.approx(1)


def test_a_changed_definition_and_a_folder_that_is_no_store_are_refused(
    store, mixture, tmp_path, monkeypatch
):
    from flan_jax import tasks

    changed = dataclasses.replace(mixture.tasks()[2], to_fields=dict)
    monkeypatch.setitem(tasks._TASKS, "toy_repeat", changed)
    with pytest.raises(StoreError, match="the definition of the task toy_repeat"):
        _maker(store=store, allow_missing=True)
    with pytest.raises(StoreError, match="is no store"):
        _maker(store=str(tmp_path))


def test_a_split_that_the_store_lacks_is_refused(mixture, tmp_path):
    build_store(mixture, tmp_path / "s", splits=("train",))
    with pytest.raises(SourceError, match="no split 'validation', only train"):
        _maker(store=str(tmp_path / "s"), split="validation")


# ---------------------------------------------------------------------- the sequence of examples


@dataclasses.dataclass(frozen=True)
class _Ids(ExampleMaker):
    """Examples whose inputs are what they are: task, row and epoch."""

    def tokenized(self, draw):
        ids = np.array([draw.task + 2, draw.index + 2, draw.epoch + 2], np.int32)
        filler = np.full((draw.index * 37 + draw.task * 11) % 90, 2, np.int32)
        return TokenizedExample(np.concatenate([ids, filler]), ids[:1], draw.task)


def _ids_maker() -> _Ids:
    made = _maker()
    return _Ids(**{field.name: getattr(made, field.name) for field in dataclasses.fields(made)})


def _global_ids(parts) -> list[tuple[int, ...]]:
    """(task, row, epoch) of the examples of a global batch, given its processes' parts."""
    found = []
    for part in parts:
        for tokens, positions, segments in zip(
            part["encoder_input_tokens"],
            part["encoder_positions"],
            part["encoder_segment_ids"],
            strict=True,
        ):
            starts = np.flatnonzero((positions == 0) & (segments > 0))
            found += [tuple((tokens[start : start + 3] - 2).tolist()) for start in starts]
    return found


def _open(maker, count, state=None):
    datasets = [
        train_dataset(_config(), maker, process_index=i, process_count=count) for i in range(count)
    ]
    iterators = [iter(dataset) for dataset in datasets]
    for iterator in iterators if state else ():
        iterator.set_state(json.loads(state))
    return iterators


@pytest.mark.exhaustive
@pytest.mark.slow
def test_stopped_at_50_random_steps_the_sequence_of_examples_is_undisturbed(mixture):
    maker, draws = _ids_maker(), Draws(0, "stops")
    (alone,) = _open(maker, 1)
    undisturbed, states = [], []
    for _ in range(120):
        state = json.dumps(alone.get_state())
        assert len(state) < 1000
        states.append(state)
        undisturbed.append(_global_ids([next(alone)]))
    assert len(set(states)) == 120
    for _ in range(50):
        at, count = draws.below(116), draws.choice([1, 2, 4])
        before = draws.choice([1, 2, 4])
        # The state as any one of the processes before the stop kept it.
        (one, *_rest) = _open(maker, before, states[max(0, at - 2)])
        for _ in range(min(2, at)):
            next(one)
        processes = _open(maker, count, json.dumps(one.get_state()))
        for step in range(at, at + 3):
            parts = [next(process) for process in processes]
            assert _global_ids(parts) == undisturbed[step]


def test_every_row_is_read_once_an_epoch_and_none_is_left_out(mixture):
    (iterator,) = _open(_ids_maker(), 1)
    seen = [ids for _ in range(60) for ids in _global_ids([next(iterator)])]
    assert len(set(seen)) == len(seen)
    for task, size in ((1, 57), (2, 11)):
        epochs = {}
        for number, row, epoch in seen:
            if number == task:
                epochs.setdefault(epoch, set()).add(row)
        # Batches cut windows anywhere: the epochs that are begun last may lack rows.
        whole = [rows for epoch, rows in sorted(epochs.items()) if epoch < max(epochs) - 35]
        assert whole and all(rows == set(range(size)) for rows in whole)


_PROGRAM = """
import json, os, signal, sys
import flan_jax.mixtures
from flan_jax.data.reader import DatasetConfig, train_dataset
from flan_jax.data.vocabulary import SentencePieceVocabulary
store, model, state_file, steps, workers = sys.argv[1:6]
vocabulary = SentencePieceVocabulary(model, 100)
config = DatasetConfig(
    "micro", {"inputs": 128, "targets": 32}, batch_size=8, store=store, num_workers=int(workers)
)
iterator = iter(train_dataset(config, config.example_maker(vocabulary, vocabulary, 3)))
if os.path.exists(state_file):
    iterator.set_state(json.load(open(state_file)))
for _ in range(int(steps)):
    batch = next(iterator)
    print(batch["encoder_input_tokens"].tolist(), flush=True)
json.dump(iterator.get_state(), open(state_file, "w"))
heavy = ("tensorflow", "tensorflow_datasets", "pyarrow", "seqio", "datasets")
print([name for name in heavy if name in sys.modules], flush=True)
if sys.argv[6:]:
    os.kill(os.getpid(), signal.SIGKILL)
iterator.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.exhaustive), "2"])
def test_a_killed_process_is_gone_on_from_and_loads_nothing_heavy(tmp_path, workers):
    import flan_jax.mixtures  # noqa: F401
    from flan_jax.mixing import get_mixture

    build_store(get_mixture("micro"), tmp_path / "s", endless_rows=50)

    def run(state: str, steps: int, *more: str):
        arguments = [str(tmp_path / "s"), str(MICRO[0]), str(tmp_path / state), str(steps), workers]
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, *arguments, *more],
            capture_output=True,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            timeout=120,
        )
        assert done.returncode == (-signal.SIGKILL if more else 0), done.stderr[-2000:]
        *batches, loaded = done.stdout.splitlines()
        assert loaded == "[]"
        return batches

    alone = run("alone", 9)
    assert run("state", 4, "kill") + run("state", 5) == alone
    assert (tmp_path / "state").stat().st_size < 1000


# ------------------------------------------------------------------------------------- counting


def test_truncation_and_repeats_are_counted(mixture):
    config = _config(task_feature_lengths={"inputs": 24, "targets": 12})
    maker = config.example_maker(BYTES, BYTES, 0)
    schedule = make_schedule(config, maker)
    counts = np.zeros((3, 3), np.int64)
    for _, batch in zip(range(100), iter(train_dataset(config, maker, counted=True)), strict=False):
        own = take_counts(batch)
        counts += own["truncation"]
        assert not {"decoder_cuts", "windows", "truncation", "window"} & batch.keys()
    read = [
        maker.tokenized(draw)
        for n in range(int(own["window"]) + 1)
        for draw in schedule.window_draws(n)
    ]
    share = np.bincount([e.task for e in read if e.cut & 2], minlength=3) / len(read)
    np.testing.assert_allclose(counts[:, 2] / counts[:, 0].sum(), share, atol=0.03)
    found = truncation_metrics(counts, maker.task_names)
    assert found["examples"] == counts[:, 0].sum()
    assert found["targets_truncated"] == counts[:, 2].sum() > 0
    assert found["truncated"]["toy_repeat"]["targets"] == counts[2, 2]


def test_counts_are_those_of_the_global_batch_on_every_process(mixture):
    made = [
        take_counts(next(iter(train_dataset(
            _config(), _maker(), process_index=i, process_count=n, counted=True
        ))))
        for n, i in ((1, 0), (4, 0), (4, 3))
    ]  # fmt: skip
    for other in made[1:]:
        for name, value in made[0].items():
            np.testing.assert_array_equal(value, other[name])


def test_repeats_are_the_schedule_s_own():
    shares, sizes = {"a": 0.5, "b": 0.3, "c": 0.2}, {"a": None, "b": 57, "c": 5000}
    schedule = Schedule(shares, sizes, 0)
    repeats = Repeats(schedule)
    draws = [draw for n in range(3) for draw in schedule.window_draws(n)]
    for task, size in ((1, 57), (2, 5000)):
        count = sum(draw.task == task for draw in draws)
        assert abs(repeats.epochs(2)[task] * size - count) <= 1
    assert max(draw.epoch for draw in draws) == int(repeats.epochs(2)[1])
    found = repeats.metrics(2)
    assert found["tasks_repeating"] == 1 and found["most_epochs_task"] == "b"
    assert found["most_epochs"] == pytest.approx(3 * 1024 * 0.3 / 57)
