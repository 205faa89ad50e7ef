"""A run's folder in a bucket: what is brought, what is sent and when, and storage that fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from flan_jax.run_folder import RunFolder, RunFolderError

ADDRESS = "memory://bucket/run"
MEMORY = MemoryFileSystem()


class Flaky(MemoryFileSystem):
    """Fails as often as told, once its probe was written and deleted."""

    protocol = "flaky"
    store: dict[str, Any] = {}
    pseudo_dirs: list[str] = [""]
    failures = 0
    denied = False
    written: list[str] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("flaky://"))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if Flaky.denied:
            raise PermissionError("you may not")
        if Flaky.failures and ".flan-jax" not in path:
            Flaky.failures -= 1
            raise ConnectionError("try later")
        Flaky.written.append(path.rpartition("/")[2])
        super().pipe_file(path, value, mode=mode, **kwargs)


@pytest.fixture(autouse=True)
def storage() -> Iterator[None]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    yield
    for each in (MemoryFileSystem, Flaky):
        each.store.clear()
        each.pseudo_dirs[:] = [""]
    Flaky.failures, Flaky.denied = 0, False
    Flaky.written.clear()


def remote() -> dict[str, bytes]:
    """The files at the address."""
    found = MEMORY.find("/bucket/run")
    return {path.removeprefix("/bucket/run/"): MEMORY.cat_file(path) for path in found}


def put(**files: bytes) -> None:
    for name, data in files.items():
        MEMORY.pipe_file(f"/bucket/run/{name}", data)


def test_a_local_folder_is_left_alone(tmp_path: Path):
    with RunFolder(tmp_path / "run") as folder:
        assert folder.local == tmp_path / "run"
        assert folder.shown(folder.local / "x") == str(tmp_path / "run" / "x")
    assert not folder.local.exists()
    (tmp_path / "run").mkdir()
    with RunFolder(str(tmp_path / "run")):
        pass
    assert (tmp_path / "run").exists()


def test_what_is_there_is_brought_and_what_is_new_is_sent():
    put(**{"train/metrics.jsonl": b"1\n", "config.gin": b"a = 1", "checkpoint_2/state/x": b"big"})
    put(**{"train/.partial": b"half"})
    with RunFolder(ADDRESS + "/") as folder:
        there = [path.relative_to(folder.local) for path in folder.local.rglob("*")]
        assert sorted(map(str, there)) == ["config.gin", "train", "train/metrics.jsonl"]
        with (folder.local / "train/metrics.jsonl").open("a") as file:
            file.write("2\n")
        (folder.local / "eval").mkdir()
        (folder.local / "eval/scores.json").write_text("{}")
        assert folder.shown(folder.local / "eval/scores.json") == f"{ADDRESS}/eval/scores.json"
        folder.sync()
        assert remote()["train/metrics.jsonl"] == b"1\n2\n"
        (folder.local / "last").write_text("x")
    assert not folder.local.exists()
    assert remote() == {
        "train/metrics.jsonl": b"1\n2\n",
        "config.gin": b"a = 1",
        "checkpoint_2/state/x": b"big",
        "train/.partial": b"half",
        "eval/scores.json": b"{}",
        "last": b"x",
    }


def test_only_the_first_process_brings_and_all_send():
    put(a=b"1")
    with RunFolder(ADDRESS, process=1) as folder:
        assert not list(folder.local.iterdir())
        (folder.local / "b").write_text("2")
    assert remote() == {"a": b"1", "b": b"2"}


def test_of_a_prefix_only_such_files_are_brought():
    for name in ("a.jsonl", "a.jsonl.partial", "b.jsonl", "deep/a.jsonl", "deep/er/a.jsonl"):
        MEMORY.pipe_file(f"/bucket/run/{name}", b"1")
    wanted = {"a.jsonl": ["a.jsonl", "a.jsonl.partial"], "deep/a": ["deep/a.jsonl"], "c": []}
    for prefix, names in wanted.items():
        with RunFolder(ADDRESS, prefix=prefix) as folder:
            found = [path for path in folder.local.rglob("*") if path.is_file()]
            assert sorted(p.relative_to(folder.local).as_posix() for p in found) == names
    assert len(remote()) == 5


def test_what_is_deleted_here_is_deleted_there_and_nothing_else():
    put(a=b"1", b=b"2")
    with RunFolder(ADDRESS) as folder:
        (folder.local / "a").unlink()
        (folder.local / "c").write_text("3")
        folder.sync()
        put(others=b"4")
        (folder.local / "c").unlink()
        MEMORY.rm_file("/bucket/run/c")  # someone was faster
        folder.sync()
    assert remote() == {"b": b"2", "others": b"4"}


def test_files_with_a_dot_are_unfinished():
    with RunFolder(ADDRESS) as folder:
        (folder.local / ".metrics.jsonl.x7").write_text("half")
        (folder.local / ".hidden").mkdir()
        (folder.local / ".hidden" / "file").write_text("half")
    assert remote() == {}


def test_only_what_changed_is_sent_by_size_or_time():
    with RunFolder("flaky://bucket/run", wait=0) as folder:
        Flaky.written.clear()
        for name in ("a", "b"):
            (folder.local / name).write_text("1")
        folder.sync()
        assert sorted(Flaky.written) == ["a", "b"]
        folder.sync()
        assert len(Flaky.written) == 2
        (folder.local / "a").write_text("2")
        os.utime(folder.local / "a", ns=(1, 1))
        folder.sync()
        assert Flaky.written[2:] == ["a"]


def test_errors_that_pass_are_tried_again():
    with RunFolder("flaky://bucket/run", wait=0, attempts=3) as folder:
        Flaky.failures = 2
        (folder.local / "a").write_text("1")
        folder.sync()
    assert Flaky().cat_file("/bucket/run/a") == b"1"


def test_a_failure_in_the_middle_is_told_and_made_good():
    said: list[str] = []
    with RunFolder("flaky://bucket/run", wait=0, attempts=2) as folder:
        (folder.local / "a").write_text("1")
        Flaky.failures = 2
        folder.try_sync(said.append, every=3600)
        assert not said  # not due
        folder.try_sync(said.append)
        assert len(said) == 1
        assert "cannot write to flaky://bucket/run: ConnectionError: try later" in said[0]
        folder.try_sync(said.append)
        assert Flaky().cat_file("/bucket/run/a") == b"1"
        assert len(said) == 1


def test_a_failure_at_the_end_is_an_error_and_keeps_the_files(capsys: pytest.CaptureFixture[str]):
    folder = RunFolder("flaky://bucket/run", wait=0, attempts=1)
    folder.bring()
    (folder.local / "a").write_text("1")
    Flaky.failures = 1
    with pytest.raises(RunFolderError, match="could not be sent is in") as caught:
        folder.__exit__(None, None, None)
    assert str(folder.local) in str(caught.value)
    assert (folder.local / "a").read_text() == "1"

    def work(folder: RunFolder) -> None:
        with folder:
            (folder.local / "a").write_text("2")
            Flaky.failures = 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # which it does not hide
        work(RunFolder("flaky://bucket/run", wait=0, attempts=1))
    assert "could not be sent is in" in capsys.readouterr().err


def test_what_is_written_before_an_error_is_sent():
    folder = RunFolder(ADDRESS)

    def work() -> None:
        with folder:
            (folder.local / "a").write_text("1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert remote() == {"a": b"1"}
    assert not folder.local.exists()


def test_an_address_that_cannot_be_written_to_is_found_at_the_start():
    Flaky.denied = True
    folder = RunFolder("flaky://bucket/run", setting="EVAL_OUTPUT_DIR")
    with pytest.raises(RunFolderError, match="PermissionError: you may not") as caught:
        folder.__enter__()
    assert not folder.local.exists()
    assert "set EVAL_OUTPUT_DIR to another folder" in str(caught.value)
    assert "credentials" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("gs://", "names no bucket"),
        ("hf://owner/name", "names no bucket or folder to write to"),
        ("nobody://knows/it", "MODEL_DIR nobody://knows/it: "),
    ],
)
def test_addresses_that_are_none(address: str, message: str):
    with pytest.raises(RunFolderError, match=message):
        RunFolder(address)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    def url_to_fs(address: str) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr("fsspec.core.url_to_fs", url_to_fs)
    with pytest.raises(RunFolderError, match=r"pip install 'flan_jax\[gs\]'"):
        RunFolder("gs://bucket/run")
