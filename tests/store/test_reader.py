"""Reading: on this machine, from elsewhere, in other processes; and what is rendered from it."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from flan_jax.mixing import define_mixture, get_mixture
from flan_jax.prompts.render import render
from flan_jax.sources.base import Source
from flan_jax.store import Store, StoreError, StoreSource, build_store, open_store
from flan_jax.store.access import RemoteFolder
from flan_jax.store.reader import load_manifest
from flan_jax.tasks import get_task, register_task
from tests.store.helpers import shard_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def built(mixture, tmp_path) -> Path:
    build_store(mixture, tmp_path / "s", shard_bytes=700)
    return tmp_path / "s"


def all_rows(store):
    return {
        (name, split): [store.source(name).row(split, index) for index in range(size)]
        for name in store.tasks()
        for split in store.source(name).splits()
        for size in [store.source(name).num_examples(split)]
    }


def test_a_task_of_a_store_is_the_task(built):
    store = open_store(built)
    for name in store.tasks():
        task = get_task(name)
        applied = store.apply(task)
        assert isinstance(applied.source, Source) and applied.source.kind == "store"
        assert applied.source.splits() == task.source.splits()
        assert applied.source.downloads() == ()
        applied.source.check_present()
        for index in range(8):
            for variant in ("zs_noopt", "fs_noopt"):
                options = {"seed": 3, "epoch": index % 3, "variant": variant}
                wanted = render(task, "train", index, **options)
                assert render(applied, "train", index, **options) == wanted


def test_rows_past_the_end_and_splits_that_are_not_there(built):
    source = open_store(built).source("one")
    assert source.num_examples("train") == 30
    for index in (-1, 30):
        with pytest.raises(IndexError, match=f"one: row {index} of train, which has 30"):
            source.row("train", index)
    with pytest.raises(Exception, match="has no split 'trian', only train, validation; did you"):
        source.num_examples("trian")


def test_an_empty_split(content, tmp_path):
    mixture = content()
    (tmp_path / "data" / "two.validation.jsonl").write_text("")
    build_store(mixture, tmp_path / "s")
    source = open_store(tmp_path / "s").source("two")
    assert source.num_examples("validation") == 0
    with pytest.raises(IndexError):
        source.row("validation", 0)


def test_many_threads_read_one_store(built):
    store = open_store(built)
    wanted = all_rows(open_store(built))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: all_rows(store), range(16)):
            assert found == wanted


def _row(source: StoreSource) -> dict:
    return source.row("train", 5)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_sources_go_to_other_processes(built, method):
    sources = [open_store(built).source(name) for name in ("one", "two")]
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(_row, sources) == [source.row("train", 5) for source in sources]


def test_a_task_whose_functions_cannot_be_sent_can_be_sent_from_a_store(content, tmp_path):
    content()
    task = dataclasses.replace(get_task("one"), name="local", to_fields=lambda r: {"answer": "!"})
    register_task(task)
    build_store(define_mixture("m", ["local"]), tmp_path / "s")
    sent = pickle.dumps(open_store(tmp_path / "s").apply(task).source)
    assert len(sent) < 1000
    assert pickle.loads(sent).row("train", 3) == {"answer": "!"}


def test_a_store_that_was_replaced_meanwhile_is_not_mixed_with_the_old(content, built, tmp_path):
    sent = pickle.dumps(open_store(built).source("one"))
    assert pickle.loads(sent).row("train", 1)["answer"] == "answer 1"
    build_store(define_mixture("solo", ["one"]), built)
    with pytest.raises(StoreError, match="was built anew while it was in use"):
        pickle.loads(sent)


# ------------------------------------------------------------------------------ from elsewhere


@pytest.fixture
def in_memory(built):
    """The store as an object store of fsspec has it."""
    files = fsspec.filesystem("memory")
    for path in built.iterdir():
        files.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    yield "memory://bucket"
    files.rm("/bucket", recursive=True)


class _Ranges(BaseHTTPRequestHandler):
    """Serves a folder, byte ranges included; notes what is asked."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.server.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, asked = path.read_bytes(), self.headers["Range"]
        self.server.asked.append((path.name, asked))
        total = len(data)
        if asked and self.command == "GET" and self.server.ranges:
            start, end = asked.removeprefix("bytes=").split("-")
            data = data[int(start) : int(end) + 1]
            self.send_response(206)
            last = int(start) + len(data) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{total}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def http(built, monkeypatch):
    """A server of the store: its address below is the store's."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Ranges)
    server.daemon_threads = True
    server.root, server.asked, server.ranges = built.parent, [], True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_address[1]}/{built.name}"
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("verify", ["once", "always", "never"])
def test_an_object_store_gives_the_same_rows(built, in_memory, verify):
    assert all_rows(open_store(in_memory, verify=verify)) == all_rows(open_store(built))


def test_a_file_address_is_this_machine(built):
    store = open_store(f"file://{built}")
    assert store.path == str(built)
    assert all_rows(store) == all_rows(open_store(built))


def test_small_blocks_and_a_small_cache_through_fsspec(built):
    folder = RemoteFolder(f"file://{built}", block_bytes=7, cache_bytes=64)
    store = Store(folder, load_manifest(folder))
    assert all_rows(store) == all_rows(open_store(built))
    assert folder._kept_bytes == sum(map(len, folder._kept.values())) <= 64


def test_a_web_server_is_asked_for_ranges_and_each_block_once(built, http):
    store = open_store(http.address)
    http.asked.clear()
    assert all_rows(store) == all_rows(open_store(built))
    ranges = [entry for entry in http.asked if entry[1]]
    assert ranges and len(ranges) == len(set(ranges))
    assert all_rows(store) and len(http.asked) == len(ranges)


def test_several_rows_in_requests_at_the_same_time(built, http):
    folder = RemoteFolder(http.address, block_bytes=64)
    store = Store(folder, load_manifest(folder))
    indices = [3, 29, 0, 17, 3]
    source, local = store.source("one"), open_store(built).source("one")
    assert source.rows("train", indices) == [local.row("train", index) for index in indices]
    before = len(http.asked)
    source.rows("train", indices)
    assert len(http.asked) == before


def test_a_server_without_ranges_is_told(http):
    store = open_store(http.address)
    http.ranges = False
    folder = RemoteFolder(http.address, block_bytes=16)
    store = Store(folder, store.manifest)
    with pytest.raises(StoreError, match=r"index-\w+.u64"):
        store.source("one").row("train", 20)


def test_damage_elsewhere(built, in_memory):
    files = fsspec.filesystem("memory")
    name = shard_of(open_store(built), "one").name
    data = files.cat_file(f"/bucket/{name}")
    files.pipe_file(f"/bucket/{name}", data[:-1] + bytes([data[-1] ^ 1]))
    open_store(in_memory)
    with pytest.raises(StoreError, match=f"the shard {name} has the checksum"):
        open_store(in_memory, verify="always")
    files.pipe_file(f"/bucket/{name}", data[:-1])
    with pytest.raises(StoreError, match=f"the shard {name} was cut short"):
        open_store(in_memory)
    files.rm(f"/bucket/{name}")
    with pytest.raises(StoreError, match=f"the shard {name} is missing"):
        open_store(in_memory, verify="never")
    with pytest.raises(StoreError, match=r"memory://nothing is no store"):
        open_store("memory://nothing")
    with pytest.raises(StoreError, match="cannot be read"):
        open_store("nosuchscheme://x")


def test_an_object_store_goes_to_another_process(in_memory, built, http):
    source = open_store(http.address).source("one")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_row, [source]) == [open_store(built).source("one").row("train", 5)]


# -------------------------------------------------------------------------------- real content


def assert_same(task, applied, split, indices):
    for index in indices:
        row = task.source.row(split, index)
        fields = row if task.to_fields is None else task.to_fields(row)
        assert dict(applied.source.row(split, index)) == dict(fields)
        assert applied.fields(split, index) == task.fields(split, index)
        for variant in task.variants():
            options = {"seed": 1, "epoch": 2, "variant": variant}
            assert render(applied, split, index, **options) == render(task, split, index, **options)


def test_micro_tasks(own_registries, tmp_path):
    mixture = get_mixture("micro")
    names = list(mixture.rates)[:4]
    build_store(define_mixture("some_micro", names), tmp_path / "s")
    store = open_store(tmp_path / "s")
    for name in names:
        task = get_task(name)
        applied = store.apply(task)
        assert applied.source.num_examples("train") is None
        assert_same(task, applied, "validation", [0, 1, 199])
        assert_same(task, applied, "train", [0, 10**6])


def test_real_rows(own_registries, test_data, monkeypatch, tmp_path):
    monkeypatch.setenv("FLAN_JAX_DATA", str(test_data))
    there = test_data / "natural_instructions" / "tasks"
    wanted = ["cot_creak", "cot_gsm8k", "stream_aqua", "gsm8k"]
    wanted += [path.stem.replace("-", "_") for path in sorted(there.glob("*.json"))]
    mixture = define_mixture("real", [n for n in wanted if get_mixture(n)])
    report = build_store(mixture, tmp_path / "s")
    assert not report.failed
    store = open_store(tmp_path / "s", verify="always")
    for name in mixture.rates:
        task = get_task(name)
        applied = store.apply(task)
        for split in applied.source.splits():
            size = applied.source.num_examples(split)
            assert size == task.source.num_examples(split) > 0
            assert_same(task, applied, split, {0, size // 3, size // 2, size - 1})
    niv2 = [name for name in mixture.rates if get_task(name).group == "niv2"]
    assert niv2
    versions = store.manifest.tasks[niv2[0]].versions
    assert len(versions) == 1 and "sha256:" in versions[0]


def test_opening_and_reading_needs_none_of_the_heavy_libraries(built, tmp_path):
    code = (
        "import sys, json; from flan_jax.store import open_store\n"
        f"store = open_store({str(built)!r}); row = store.source('one').row('train', 4)\n"
        "heavy = ('jax', 'jaxlib', 'tensorflow', 'tensorflow_datasets', 'seqio', 'pyarrow', "
        "'grain', 'fsspec', 'requests', 'apache_beam')\n"
        "print(json.dumps([row['answer'], [n for n in heavy if n in sys.modules]]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["answer 4", []]
