"""Parts that workers leave at an address: whole or not at all, and found again; without Beam."""

from __future__ import annotations

import errno
import itertools
import json
import shutil
import uuid

import cloudpickle
import fsspec
import pytest

from flan_jax.cli import main as cli
from flan_jax.store import StoreError, beam, build_store, exchange
from flan_jax.store.errors import StoreWriteError
from flan_jax.store.exchange import Exchange
from flan_jax.store.parts import PartPlan, plan_part
from flan_jax.store.workers import PartResult, build_part
from flan_jax.tasks import get_task
from tests.store.helpers import MODULE_NAME, contents


@pytest.fixture(params=["folder", "memory"])
def address(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "exchange" / "build")
    return f"memory://{uuid.uuid4().hex}/build"


@pytest.fixture
def place(address):
    found = Exchange(address, wait=0.01)
    found.check()
    return found


@pytest.fixture
def built(mixture, tmp_path):
    """The plan of task `one`, and the folder where its part lies."""
    folder = tmp_path / "worker"
    plan = plan_part(get_task("one"), ("train", "validation"), None)
    assert build_part(get_task("one"), plan, folder) == PartResult("one")
    return plan, folder


def files(place: Exchange) -> dict[str, bytes]:
    found = place._fs.find(place._root)
    return {path.rsplit("/", 1)[-1]: place._fs.cat_file(path) for path in found}


def write(place: Exchange, name: str, data: bytes) -> None:
    place._fs.pipe_file(f"{place._root}/{name}", data)


def taken(place: Exchange, plan: PartPlan, folder) -> PartResult | None:
    folder.mkdir(exist_ok=True)
    ((found, result),) = place.take([plan], folder)
    assert found is plan
    return result


def test_a_part_goes_there_and_back(place, built, tmp_path):
    plan, folder = built
    assert files(place) == {} and not place.exists(plan)
    assert taken(place, plan, tmp_path / "driver") is None
    place.put(plan, PartResult("one"), folder)
    assert place.exists(plan)
    data = (folder / plan.file).read_bytes()
    assert files(place).keys() == {plan.file, f"{plan.file}.json"}
    assert files(place)[plan.file] == data
    assert taken(place, plan, tmp_path / "driver") == PartResult("one")
    assert contents(tmp_path / "driver") == {plan.file: data}
    assert place.exists(plan)


def test_the_identity_is_in_the_names(place, built, tmp_path):
    plan, folder = built
    place.put(plan, PartResult("one"), folder)
    other = PartPlan(plan.task, plan.splits, 7, "0123456789abcdef")
    assert not place.exists(other)
    assert taken(place, other, tmp_path / "driver") is None


def test_why_there_is_no_part_is_told(place, built, tmp_path):
    plan, _ = built
    for result in (PartResult("one", "it is missing"), PartResult("one", "full", fatal=True)):
        place.put(plan, result, tmp_path / "nothing")
        assert not place.exists(plan)
        assert taken(place, plan, tmp_path / "driver") == result
    assert contents(tmp_path / "driver") == {}


def _no_result(data, note):
    return data, None


def _half_a_result(data, note):
    return data, note[: len(note) // 2]


def _a_result_of_another_kind(data, note):
    return data, b"[1, 2]"


def _half_a_part(data, note):
    return data[: len(data) // 2], note


def _no_part(data, note):
    return None, note


def _another_byte(data, note):
    return data[:-30] + bytes([data[-30] ^ 1]) + data[-29:], note


@pytest.mark.parametrize(
    "damage",
    [
        _no_result,
        _half_a_result,
        _a_result_of_another_kind,
        _half_a_part,
        _no_part,
        _another_byte,
    ],
)
def test_what_is_not_whole_is_not_taken(place, built, tmp_path, damage):
    plan, folder = built
    place.put(plan, PartResult("one"), folder)
    there = files(place)
    data, note = damage(there[plan.file], there[f"{plan.file}.json"])
    for name, content in ((plan.file, data), (f"{plan.file}.json", note)):
        place._delete(name)
        if content is not None:
            write(place, name, content)
    assert place.exists(plan) == (damage is _another_byte)  # lengths alone do not tell
    assert taken(place, plan, tmp_path / "driver") is None
    assert contents(tmp_path / "driver") == {}


def test_only_what_is_meant_is_deleted(place, built):
    plan, folder = built
    place.put(plan, PartResult("one"), folder)
    others = {"notes.txt": b"mine", f"{plan.file}.old": b"mine", "two.0123456789abcdef.part": b"x"}
    for name, data in others.items():
        write(place, name, data)
    absent = PartPlan("two", plan.splits, None, "f" * 16)
    place.clear([plan, absent])
    assert files(place) == others
    place.clear([plan, absent])


class _Flaky:
    """Calls that fail at first."""

    def __init__(self, call, errors):
        self._call, self.errors, self.calls = call, list(errors), 0

    def __call__(self, *arguments, **named):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self._call(*arguments, **named)


_METHODS = ("pipe_file", "put_file", "cat_file", "get_file", "info", "ls", "rm_file")


def _flaky(place, monkeypatch, names, errors):
    calls = {name: _Flaky(getattr(place._fs, name), errors) for name in names}
    for name, call in calls.items():
        monkeypatch.setattr(place._fs, name, call)
    return calls


def test_errors_that_may_pass_are_overcome(place, built, tmp_path, monkeypatch):
    plan, folder = built
    errors = (TimeoutError("slow"), OSError("reset"), RuntimeError("503"))
    calls = _flaky(place, monkeypatch, _METHODS, errors)
    place.put(plan, PartResult("one"), folder)
    assert place.exists(plan)
    assert taken(place, plan, tmp_path / "driver") == PartResult("one")
    place.clear([plan])
    monkeypatch.undo()
    assert all(not call.errors for call in calls.values())
    assert files(place) == {}


def test_an_end_to_all_attempts(place, built, tmp_path, monkeypatch):
    plan, folder = built
    calls = _flaky(place, monkeypatch, ["put_file"], [TimeoutError("slow")] * 9)
    with pytest.raises(StoreError, match=rf"cannot write .*{plan.identity}.part: TimeoutError: s"):
        place.put(plan, PartResult("one"), folder)
    assert calls["put_file"].calls == 5
    assert files(place) == {}  # no result without a part


def test_what_will_not_pass_is_not_tried_again(place, built, tmp_path, monkeypatch):
    plan, folder = built
    calls = _flaky(place, monkeypatch, ["put_file"], [PermissionError("no")])
    with pytest.raises(StoreError, match=r"cannot write .*PermissionError: no"):
        place.put(plan, PartResult("one"), folder)
    assert calls["put_file"].calls == 1


def test_a_full_disk(place, built, tmp_path, monkeypatch):
    plan, folder = built
    place.put(plan, PartResult("one"), folder)
    full = OSError(errno.ENOSPC, "No space left on device", "/stores/s/x.tmp")
    calls = _flaky(place, monkeypatch, ["get_file"], [full])
    with pytest.raises(StoreWriteError, match=r"^/stores/s/x.tmp: the disk is full: make room"):
        taken(place, plan, tmp_path / "driver")
    assert calls["get_file"].calls == 1
    assert contents(tmp_path / "driver") == {}


def test_the_check_leaves_nothing(place, tmp_path):
    assert files(place) == {}
    assert "memory" in place.address or (tmp_path / "exchange" / "build").is_dir()


def test_a_place_that_takes_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write to .*/file/x: NotADirectoryError"):
        Exchange(tmp_path / "file" / "x").check()
    place = Exchange("memory://bucket/x", wait=0.01)
    _flaky(place, monkeypatch, ["rm_file"], [PermissionError("Forbidden")])
    with pytest.raises(StoreError, match="cannot delete in memory://bucket/x: PermissionError: F"):
        place.check()


def test_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Exchange("a/b").address == str(tmp_path / "a" / "b")
    assert Exchange(f"file://{tmp_path}/a").address == str(tmp_path / "a")
    assert Exchange("memory://a/b/").address == "memory://a/b"
    for address in ("", "gs://", "://x"):
        with pytest.raises(StoreError, match="names no bucket or folder"):
            Exchange(address)
    with pytest.raises(StoreError, match=r"nonsense://x: Protocol not known: nonsense"):
        Exchange("nonsense://x")

    def missing(address):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(StoreError, match=r"^gs://b/x needs .*: pip install 'flan_jax\[remote\]'$"):
        Exchange("gs://b/x")
    with pytest.raises(StoreError, match=r"^abfs://b/x needs .*: Please install gcsfs"):
        Exchange("abfs://b/x")


@pytest.fixture
def in_beams_place(monkeypatch):
    """What is given to Beam is done here; a list of the tasks, in the order they are done."""
    done = []
    monkeypatch.setenv("TFDS_DATA_DIR", "")  # set by what workers do; to be as before afterwards

    def submit(options, elements, work, *rest):
        done.extend(work(element, *rest) for element in elements)

    monkeypatch.setattr(beam, "_submit", submit)
    return done


def build(mixture, folder, place, **named):
    def runner(plans, folder):
        return beam._by_exchange(plans, folder, None, (MODULE_NAME,), place)

    return build_store(mixture, folder, runner=runner, written=place.clear, **named)


def test_a_build_over_an_exchange(mixture, place, tmp_path, in_beams_place):
    write(place, "notes.txt", b"mine")
    report = build(mixture, tmp_path / "s", place)
    assert report.counts() == {"built": 3, "resumed": 0, "unchanged": 0, "failed": 0}
    assert in_beams_place == ["one", "three", "two"]
    build_store(mixture, tmp_path / "here")
    assert contents(tmp_path / "s") == contents(tmp_path / "here")
    assert files(place) == {"notes.txt": b"mine"}
    assert build(mixture, tmp_path / "s", place).counts()["unchanged"] == 3
    assert len(in_beams_place) == 3


def test_a_build_goes_on_with_what_is_there(mixture, place, tmp_path, in_beams_place):
    plans = {
        name: plan_part(get_task(name), ("train", "validation"), None) for name in mixture.rates
    }
    for name, plan in plans.items():
        build_part(get_task(name), plan, tmp_path / "worker")
        place.put(plan, PartResult(name), tmp_path / "worker")
    data = files(place)[plans["two"].file]
    write(place, plans["two"].file, data[:40] + b"?" + data[41:])
    place._delete(f"{plans['three'].file}.json")
    report = build(mixture, tmp_path / "s", place)
    assert report.counts() == {"built": 2, "resumed": 1, "unchanged": 0, "failed": 0}
    assert in_beams_place == ["three", "two"]
    build_store(mixture, tmp_path / "here")
    assert contents(tmp_path / "s") == contents(tmp_path / "here")
    assert files(place) == {}


def test_a_pipeline_that_fails_is_gone_on_with(
    mixture, place, tmp_path, in_beams_place, monkeypatch
):
    whole = beam._submit

    def fail(options, elements, work, *rest):
        whole(options, elements[:2], work, *rest)
        raise StoreError("the Beam pipeline failed: a worker was lost")

    monkeypatch.setattr(beam, "_submit", fail)
    with pytest.raises(StoreError, match="a worker was lost"):
        build(mixture, tmp_path / "s", place)
    assert len(files(place)) == 4
    monkeypatch.setattr(beam, "_submit", whole)
    report = build(mixture, tmp_path / "s", place)
    assert report.counts() == {"built": 1, "resumed": 2, "unchanged": 0, "failed": 0}
    assert in_beams_place == ["one", "three", "two"]
    assert files(place) == {}


def test_parts_stay_until_the_store_is_written(content, place, tmp_path, in_beams_place):
    from flan_jax.mixing import define_mixture

    content()
    mixture = define_mixture("m", ["one", "absent", "two"])
    report = build(mixture, tmp_path / "s", place)
    assert report.counts() == {"built": 2, "resumed": 0, "unchanged": 0, "failed": 1}
    assert "absent.jsonl is not in the data folder" in report.failed[0].detail
    assert len(files(place)) == 5
    shutil.rmtree(tmp_path / "s")  # the machine of the driver is lost
    (tmp_path / "data" / "absent.jsonl").write_text('{"q": "?", "a": "!", "about": ""}\n')
    (tmp_path / "data" / "absent.validation.jsonl").write_text("")
    in_beams_place.clear()
    report = build(mixture, tmp_path / "s", place)
    assert report.counts() == {"built": 1, "resumed": 2, "unchanged": 0, "failed": 0}
    assert in_beams_place == ["absent"]
    # The result of the failure goes with the plan it was of: the data had another state then.
    assert [name.split(".")[0] for name in files(place)] == ["absent"]


def test_a_task_may_stay_missing(content, place, tmp_path, in_beams_place):
    from flan_jax.mixing import define_mixture

    content()
    mixture = define_mixture("m", ["one", "absent"])
    report = build(mixture, tmp_path / "s", place, allow_missing=True)
    assert report.manifest is not None and len(report.failed) == 1
    assert files(place) == {}


def test_a_worker_that_leaves_nothing_is_told(mixture, place, tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "_submit", lambda options, elements, work, *rest: None)
    report = build(mixture, tmp_path / "s", place)
    assert len(report.failed) == 3
    assert f"no worker left a whole part in {place.address}" in report.failed[0].detail


def test_a_part_is_not_sent_twice(built, place, monkeypatch):
    plan, folder = built
    place.put(plan, PartResult("one"), folder)
    monkeypatch.setattr(beam, "build_part", None)
    element = json.dumps({**vars(plan), "rows_hash": "0"})
    assert beam.build_and_send(element, place.address, (), {}) == "one"


def test_a_worker_whose_disk_is_full(mixture, place, tmp_path, in_beams_place, monkeypatch):
    full = PartResult("one", "/tmp/x: the disk is full", fatal=True)
    monkeypatch.setattr(beam, "build_part", lambda task, plan, folder: full)
    with pytest.raises(StoreError, match=r"^on a worker: /tmp/x: the disk is full$"):
        build(mixture, tmp_path / "s", place)


def test_a_worker_with_another_definition(built, place, tmp_path):
    plan, _ = built
    element = json.dumps({**vars(plan), "rows_hash": "0"})
    assert beam.build_and_send(element, place.address, (MODULE_NAME,), {}) == "one"
    result = taken(place, plan, tmp_path / "driver")
    assert result is not None and "workers have another definition of it" in result.error


@pytest.mark.parametrize("work", [beam.build_element, beam.build_and_send])
def test_workers_import_what_they_do(work):
    pickled = cloudpickle.dumps(work)
    assert b"flan_jax.store.beam" in pickled and len(pickled) < 100


def test_an_exchange_is_for_beam(capsys):
    assert cli.main(["data", "build", "micro", "--out", "s", "--exchange", "e"]) == 2
    assert "--exchange is where workers of Beam leave parts" in capsys.readouterr().err


def test_parts_that_cannot_be_deleted_do_no_harm(built, capsys, monkeypatch):
    from flan_jax.cli import data_build

    plan, folder = built
    place = Exchange("memory://forbidden")
    place.put(plan, PartResult("one"), folder)
    _flaky(place, monkeypatch, ["rm_file"], [PermissionError("no")] * 2)
    data_build._clear(place, [plan])
    said = capsys.readouterr().err
    assert "the store is written, but parts are left over: cannot delete in memory://f" in said
    data_build._clear(None, [plan])


def test_waits_between_attempts_grow(monkeypatch):
    import tenacity.nap

    waits = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", waits.append)
    place = Exchange("memory://x")
    monkeypatch.setattr(place._fs, "pipe_file", _Flaky(None, [TimeoutError()] * 9))
    with pytest.raises(StoreError, match="TimeoutError"):
        place.check()
    assert len(waits) == exchange.ATTEMPTS - 1
    assert all(a < b for a, b in itertools.pairwise(waits)) and sum(waits) < 12
