"""Building: what is stored, done again only where something changed, and never half."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path

import pytest

from flan_jax import tasks
from flan_jax.fingerprint import mixture_hash, task_hash
from flan_jax.mixing import define_mixture
from flan_jax.sources.jsonl import JsonlSource
from flan_jax.store import StoreError, build_store, open_store
from flan_jax.store import build as build_module
from flan_jax.store.parts import write_part
from flan_jax.tasks import TaskDefinition, get_task, register_task
from tests.store.helpers import MODULE_NAME, contents, flip, shard_of, write_rows


def statuses(report) -> dict[str, str]:
    return {outcome.name: outcome.status for outcome in report.outcomes}


def rows_of(task, split):
    count = task.source.num_examples(split)
    rows = [task.source.row(split, index) for index in range(count)]
    return rows if task.to_fields is None else [task.to_fields(row) for row in rows]


def assert_holds(store, names=("one", "two", "three")):
    assert set(store.tasks()) == set(names)
    for name in names:
        task = get_task(name)
        for split in ("train", "validation"):
            source = store.source(name)
            assert [source.row(split, i) for i in range(source.num_examples(split))] == rows_of(
                task, split
            )


def test_a_store_holds_the_fields_of_all_rows(mixture, tmp_path):
    report = build_store(mixture, tmp_path / "s")
    assert report.counts() == {"built": 3, "resumed": 0, "unchanged": 0, "failed": 0}
    assert [o.rows for o in report.outcomes] == [33, 13, 23]
    store = open_store(tmp_path / "s")
    assert_holds(store)
    assert isinstance(store.source("one").row("train", 0)["answers"], tuple)
    names = sorted(path.name.partition("-")[0] for path in (tmp_path / "s").iterdir())
    assert names == ["built_from.json", "index", "manifest.json", "rows"]


def test_the_manifest_tells_where_all_comes_from(mixture, tmp_path):
    build_store(mixture, tmp_path / "s")
    text = (tmp_path / "s" / "manifest.json").read_text()
    manifest = open_store(tmp_path / "s").manifest
    one = manifest.tasks["one"]
    assert (one.licence, one.kind, one.group) == ("MIT", "jsonl", "g")
    assert one.source == "one.jsonl, one.validation.jsonl"
    assert one.task_hash == task_hash(get_task("one"))
    assert manifest.mixture == "trio" and manifest.mixture_hash == mixture_hash(mixture)
    assert one.splits["train"].rows == 30 and one.splits["validation"].rows == 3
    assert str(tmp_path) not in text


def test_equal_inputs_give_equal_bytes_however_built(content, tmp_path):
    build_store(content(), tmp_path / "a")
    build_store(content(), tmp_path / "b", jobs=2, modules=[MODULE_NAME])
    found = contents(tmp_path / "a")
    assert found == contents(tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*-*")}
    report = build_store(content(), tmp_path / "a")
    assert statuses(report) == dict.fromkeys(["one", "two", "three"], "unchanged")
    assert contents(tmp_path / "a") == found
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*-*")}


def test_only_what_changed_is_read_again(content, tmp_path):
    build_store(content(), tmp_path / "s", shard_bytes=700)
    old = open_store(tmp_path / "s")
    write_rows(tmp_path / "data", "two", 21, word="was")
    (tmp_path / "data" / "one.jsonl").rename(tmp_path / "away")
    (tmp_path / "away").rename(tmp_path / "data" / "one.jsonl")
    report = build_store(content(), tmp_path / "s", shard_bytes=700)
    assert statuses(report) == {"one": "unchanged", "three": "unchanged", "two": "built"}
    store = open_store(tmp_path / "s")
    assert_holds(store)
    kept = {s.file for s in old.manifest.shards} & {s.file for s in store.manifest.shards}
    assert len(kept) >= 2
    assert set(contents(tmp_path / "s")) == {
        "manifest.json", "built_from.json", *(f.file for f in store.manifest.files())
    }  # fmt: skip
    assert old.source("two").row("train", 19)["question"] == "two 19 is?"  # still open
    build_store(content(), tmp_path / "fresh", shard_bytes=700)
    assert contents(tmp_path / "fresh") == contents(tmp_path / "s")


def test_a_file_of_the_same_length_but_newer_is_read_again(content, tmp_path):
    build_store(content(), tmp_path / "s")
    write_rows(tmp_path / "data", "three", 10, word="as")
    assert statuses(build_store(content(), tmp_path / "s"))["three"] == "built"
    assert_holds(open_store(tmp_path / "s"))


def test_changed_functions_and_settings_are_built_anew_and_templates_are_not(content, tmp_path):
    build_store(content(), tmp_path / "s")
    module = tmp_path / "code" / f"{MODULE_NAME}.py"
    other = tmp_path / "code" / "u.yaml"
    other.write_text('templates: [{inputs: "Say: {{ question }}", targets: "{{ answer }}"}]')
    before = open_store(tmp_path / "s").manifest.tasks["one"].task_hash
    mixture = content()
    tasks._TASKS["one"] = dataclasses.replace(get_task("one"), template_file=other)
    report = build_store(mixture, tmp_path / "s")
    assert set(statuses(report).values()) == {"unchanged"}
    assert open_store(tmp_path / "s").manifest.tasks["one"].task_hash != before
    module.write_text(module.read_text().replace('row["q"],', 'row["q"].title(),'))
    report = build_store(content(), tmp_path / "s")
    assert set(statuses(report).values()) == {"built"}
    assert open_store(tmp_path / "s").source("one").row("train", 7)["question"] == "One 7 Is?"


def test_tasks_come_and_go_with_the_mixture(content, tmp_path):
    build_store(define_mixture("duo", ["one", "two"]) if content() else None, tmp_path / "s")
    report = build_store(define_mixture("duo", ["two", "three"]), tmp_path / "s")
    assert statuses(report) == {"two": "unchanged", "three": "built"}
    assert_holds(open_store(tmp_path / "s"), ["two", "three"])


def test_other_splits_are_another_store(content, tmp_path):
    build_store(content(), tmp_path / "s")
    report = build_store(content(), tmp_path / "s", splits=["validation"])
    assert set(statuses(report).values()) == {"built"}
    source = open_store(tmp_path / "s").source("one")
    assert source.splits() == ("validation",)
    with pytest.raises(Exception, match="has no split 'train', only validation"):
        source.row("train", 0)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_task_that_fails_stops_no_other(content, tmp_path, jobs):
    content()
    mixture = define_mixture("m", ["one", "absent", "two"])
    (tmp_path / "data" / "two.jsonl").write_text('{"q": "x"}\n')
    options = {"jobs": jobs, "modules": [MODULE_NAME]}
    report = build_store(mixture, tmp_path / "s", **options)
    assert statuses(report) == {"one": "built", "absent": "failed", "two": "failed"}
    assert report.manifest is None and not (tmp_path / "s" / "manifest.json").exists()
    found = {outcome.name: outcome.detail for outcome in report.failed}
    assert "absent.jsonl is not in the data folder" in found["absent"]
    assert "two: row 0 of train: KeyError: 'a'" in found["two"]
    with pytest.raises(StoreError, match=r"is no store: there is no manifest.json"):
        open_store(tmp_path / "s")

    report = build_store(mixture, tmp_path / "s", allow_missing=True, **options)
    assert statuses(report) == {"one": "resumed", "absent": "failed", "two": "failed"}
    store = open_store(tmp_path / "s")
    assert store.tasks() == ("one",)
    assert list(store.manifest.failed) == ["absent", "two"]
    with pytest.raises(StoreError, match="does not hold the task 'two': two: row 0 of train"):
        store.source("two")


def test_a_failure_leaves_the_old_store_alone(content, tmp_path):
    build_store(content(), tmp_path / "s")
    before = contents(tmp_path / "s")
    (tmp_path / "data" / "two.jsonl").write_text("no JSON\n")
    assert build_store(content(), tmp_path / "s").manifest is None
    after = contents(tmp_path / "s")
    assert {name: after[name] for name in before} == before
    assert open_store(tmp_path / "s").source("two").num_examples("train") == 20


def test_all_failing_is_no_store_even_if_missing_is_allowed(content, tmp_path):
    content()
    mixture = define_mixture("m", ["absent"])
    assert build_store(mixture, tmp_path / "s", allow_missing=True).manifest is None


def test_rows_that_reading_would_refuse_fail_at_the_build(content, tmp_path):
    content()
    (tmp_path / "data" / "one.jsonl").write_text('{"q": "x", "a": 5, "about": ""}\n')
    (failed,) = build_store(define_mixture("m", ["one"]), tmp_path / "s").failed
    assert "one: row 0 of train has no text in field `answer`, found 5" in failed.detail


def test_values_that_cannot_be_stored_are_named(content, tmp_path):
    content()
    source = JsonlSource({"train": "one.jsonl"})
    register_task(
        TaskDefinition(
            "odd", "g", "c", source, tmp_path / "code" / "t.yaml", "MIT",
            to_fields=lambda row: {"answer": "a", "things": [{1}]},
        )
    )  # fmt: skip
    (failed,) = build_store(define_mixture("m", ["odd"]), tmp_path / "s").failed
    assert "odd: row 0 of train: TypeError: field 'things' holds a value of type" in failed.detail


def test_splits_without_end_stay_with_their_generator_unless_rows_are_asked_for(content, tmp_path):
    content()
    mixture = define_mixture("m", ["endless", "one"])
    build_store(mixture, tmp_path / "s")
    store, task = open_store(tmp_path / "s"), get_task("endless")
    applied = store.apply(task)
    assert applied.source.num_examples("train") is None
    assert applied.source.splits() == ("train", "validation")
    for split, index in (("train", 12345), ("validation", 5)):
        assert applied.fields(split, index) == task.fields(split, index)
    with pytest.raises(StoreError, match=r"split 'train' has no end and is not in the store"):
        store.source("endless").row("train", 0)
    build_store(mixture, tmp_path / "s", endless_rows=7)
    source = open_store(tmp_path / "s").source("endless")
    assert source.num_examples("train") == 7
    assert [source.row("train", i) for i in range(7)] == [task.fields("train", i) for i in range(7)]


def test_parts_that_are_there_are_not_built_again(content, tmp_path):
    content()

    def stop_at_the_last(plans, folder):
        for plan in plans:
            if plan.task == "two":
                raise KeyboardInterrupt
            yield from build_module.build_here([plan], folder)

    with pytest.raises(KeyboardInterrupt):
        build_store(define_mixture("m", ["one", "two", "three"]), tmp_path / "s",
                    runner=stop_at_the_last)  # fmt: skip
    report = build_store(define_mixture("m", ["one", "two", "three"]), tmp_path / "s")
    assert sorted(statuses(report).values()) == ["built", "resumed", "resumed"]
    build_store(define_mixture("m", ["one", "two", "three"]), tmp_path / "fresh")
    assert contents(tmp_path / "s") == contents(tmp_path / "fresh")


def test_a_damaged_part_is_told_and_built_anew(content, tmp_path):
    mixture = content()
    folder = tmp_path / "s" / ".build" / "parts"

    def spoil(plans, folder):
        yield from build_module.build_here(plans, folder)
        flip(next(folder.glob("two.*")), 100)

    with pytest.raises(StoreError, match=r"two\..*the rows of two, split train, are damaged"):
        build_store(mixture, tmp_path / "s", runner=spoil)
    path = next(folder.glob("one.*"))
    path.write_bytes(path.read_bytes()[:-9])
    assert statuses(build_store(mixture, tmp_path / "s")) == {
        "one": "built", "two": "built", "three": "resumed"
    }  # fmt: skip
    assert_holds(open_store(tmp_path / "s", verify="always"))


def test_a_damaged_store_is_mended_from_what_is_sound(content, tmp_path):
    build_store(content(), tmp_path / "s", shard_bytes=700)
    before = contents(tmp_path / "s")
    flip(shard_of(open_store(tmp_path / "s"), "three"), 50)
    with pytest.raises(StoreError, match=r"the shard rows-0.* has the checksum"):
        open_store(tmp_path / "s")
    report = build_store(content(), tmp_path / "s", shard_bytes=700)
    assert statuses(report)["three"] == "built"
    assert "unchanged" in statuses(report).values()
    assert contents(tmp_path / "s") == before
    (tmp_path / "s" / open_store(tmp_path / "s").manifest.index.file).unlink()
    build_store(content(), tmp_path / "s", shard_bytes=700)
    assert contents(tmp_path / "s") == before


def test_two_builds_at_once(content, tmp_path):
    mixture = content()
    held, done = threading.Event(), threading.Event()

    def slow(plans, folder):
        held.set()
        done.wait(20)
        yield from build_module.build_here(plans, folder)

    thread = threading.Thread(target=build_store, args=(mixture, tmp_path / "s"),
                              kwargs={"runner": slow})  # fmt: skip
    thread.start()
    try:
        assert held.wait(20)
        with pytest.raises(StoreError, match="another build is writing the store"):
            build_store(mixture, tmp_path / "s")
    finally:
        done.set()
        thread.join()
    assert_holds(open_store(tmp_path / "s"))


def test_the_death_of_a_process_costs_one_task(content, tmp_path):
    module = tmp_path / "code" / f"{MODULE_NAME}.py"
    killer = (
        "\nimport os, signal\n"
        "def die(row):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "task('deadly', JsonlSource({'train': 'one.jsonl'}), to_fields=die)\n"
    )
    module.write_text(module.read_text() + killer)
    content()
    mixture = define_mixture("m", ["deadly", "one", "two", "three"])
    report = build_store(mixture, tmp_path / "s", jobs=2, modules=[MODULE_NAME], allow_missing=True)
    (failed,) = report.failed
    assert failed.name == "deadly" and "was ended by SIGKILL" in failed.detail
    assert_holds(open_store(tmp_path / "s"))


def test_processes_that_do_not_know_a_task_say_so(content, tmp_path):
    report = build_store(content(), tmp_path / "s", jobs=2)
    assert len(report.failed) == 3
    assert "no task is called 'one'" in report.failed[0].detail
    assert "the module that defines it" in report.failed[0].detail


def test_a_folder_that_cannot_be_written_to(content, tmp_path):
    mixture = content()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        build_store(mixture, tmp_path / "file" / "s")
    with pytest.raises(StoreError, match=r"gs://b/s: a store is built on a disk and copied"):
        build_store(mixture, "gs://b/s")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(StoreError, match="no permission: choose another folder"):
            build_store(mixture, tmp_path / "locked" / "s")


def test_a_filter_s_left_out_rows_are_counted(content, tmp_path):
    from flan_jax.sources.filtered import FilteredSource

    content()
    task = get_task("one")
    source = FilteredSource(task.source, lambda row: "1" in row["q"])
    register_task(dataclasses.replace(task, name="some", source=source))
    build_store(define_mixture("m", ["some"]), tmp_path / "s")
    train = open_store(tmp_path / "s").manifest.tasks["some"].splits["train"]
    assert (train.rows, train.left_out) == (12, 18)


def test_a_part_is_written_once(content, tmp_path):
    content()
    plan = build_module.plan_part(get_task("one"), ["train"], None)
    part = write_part(get_task("one"), plan, tmp_path)
    before = part.path.stat().st_mtime_ns
    assert write_part(get_task("one"), plan, tmp_path).path.stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.glob("*.part*")] == [plan.file]


def test_shards_have_about_the_size_asked_for(content, tmp_path):
    build_store(content(), tmp_path / "s", shard_bytes=1)
    manifest = open_store(tmp_path / "s").manifest
    assert len(manifest.shards) == 6  # a split is never divided
    assert_holds(open_store(tmp_path / "s"))
    assert json.loads((Path(tmp_path) / "s" / "manifest.json").read_text())["version"] == 1
