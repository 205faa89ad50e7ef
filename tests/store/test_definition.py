"""What decides a task's rows, as a hash."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flan_jax.sources.files import HashSplits
from flan_jax.sources.filtered import FilteredSource
from flan_jax.sources.jsonl import JsonlSource
from flan_jax.sources.tfds import TfdsSource
from flan_jax.store.definition import left_out, rows_hash, source_state, versions
from flan_jax.tasks import TaskDefinition, all_tasks, get_task

ROOT = Path(__file__).resolve().parents[2]


def _keep(row):
    return bool(row)


def _fields(row, key="a"):
    return row[key]


def _task(source=None, **changes) -> TaskDefinition:
    source = source or JsonlSource({"train": "a.jsonl"}, HashSplits("q"))
    attributes = {"name": "t", "group": "g", "cluster": "c", "template_file": Path("t.yaml")}
    return TaskDefinition(**{**attributes, "source": source, "licence": "MIT", **changes})


def test_every_task_has_a_hash_of_its_own_the_same_in_every_process():
    code = (
        "import hashlib, flan_jax.mixtures\n"
        "from flan_jax.tasks import all_tasks\n"
        "from flan_jax.store.definition import rows_hash\n"
        "print(' '.join(rows_hash(task) for task in all_tasks()))"
    )
    found = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split())
    assert found[0] == found[1]
    assert len(found[0]) == len(set(found[0])) >= 1836


@pytest.mark.parametrize(
    "changed",
    [
        _task(name="u"),
        _task(JsonlSource({"train": "b.jsonl"}, HashSplits("q"))),
        _task(JsonlSource({"train": "a.jsonl"}, HashSplits("a"))),
        _task(JsonlSource({"train": "a.jsonl"}, HashSplits("q", validation=0.1))),
        _task(JsonlSource({"train": "a.jsonl"}, HashSplits("q"), texts=("q",))),
        _task(to_fields=_fields),
        _task(to_fields=functools.partial(_fields, key="b")),
        _task(FilteredSource(JsonlSource({"train": "a.jsonl"}, HashSplits("q")), _keep)),
        _task(TfdsSource("a/b:1.0.0", {"train": "train"})),
        _task(TfdsSource("a/b:1.0.0", {"train": "train[:9]"})),
        _task(TfdsSource("a/b:1.0.0", {"train": "train"}, keep=_keep)),
    ],
)
def test_what_changes_rows_changes_the_hash(changed):
    others = [_task(), _task(TfdsSource("a/b:1.0.0", {"test": "train"}))]
    others += [_task(to_fields=functools.partial(_fields, key="c"))]
    assert rows_hash(changed) not in [rows_hash(other) for other in others]
    assert rows_hash(changed) == rows_hash(dataclasses.replace(changed))


def test_what_is_drawn_when_reading_does_not():
    same = _task(template_file=Path("u.yaml"), has_options=True, styles=("cot",), cap=3)
    assert rows_hash(same) == rows_hash(_task())
    assert rows_hash(_task(draw_fields=lambda fields, draws: fields)) == rows_hash(_task())


def test_files_of_every_kind_of_source_are_looked_at(monkeypatch, tmp_path):
    import flan_jax.mixtures  # noqa: F401
    from tests.mixtures.stand_ins import write_data

    write_data(tmp_path)
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    kinds = {}
    for task in all_tasks():
        kinds.setdefault(task.source.kind, task)
    for kind in ("natural_instructions", "p3", "tsv", "jsonl", "taskmaster", "drrepair"):
        state = source_state(kinds[kind].source)
        assert state and all(Path(name).is_file() and size for name, size, _ in state), kind
    task = get_task(kinds["p3"].name)
    files = list(Path(tmp_path, task.source.folder).iterdir())
    before = source_state(task.source)
    os.utime(files[0])
    assert source_state(task.source) != before


def test_prepared_tfds_data_are_looked_at(monkeypatch, tmp_path):
    source = TfdsSource("a/b:1.0.0", {"train": "train"})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    folder = tmp_path / "a" / "b" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "a-train.array_record-00000-of-00001").write_text("x")
    state = source_state(source)
    assert [Path(name).name for name, *_ in state] == [
        "a-train.array_record-00000-of-00001", "dataset_info.json"
    ]  # fmt: skip
    (folder / "flan_jax_kept_rows").mkdir()
    (folder / "flan_jax_kept_rows" / "k.json").write_text("{}")
    assert source_state(source) == state


def test_sources_without_files_are_told_by_their_rows():
    class Own:
        kind = "own"

        def __init__(self, count):
            self.count = count
            self._cache = object()

        def splits(self):
            return ("train",)

        def num_examples(self, split):
            return self.count

    assert source_state(Own(4)) == [["train", 4]]
    assert rows_hash(_task(Own(4))) == rows_hash(_task(Own(4))) != rows_hash(_task(Own(5)))
    assert versions(Own(1)) == [] and left_out(Own(1), "train") is None
