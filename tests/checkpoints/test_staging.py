"""Folders that are there whole or not at all."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flan_jax.checkpoints.staging import Terminated, stage_folder
from flan_jax.checkpoints.tensors import CheckpointError


def fill(folder: Path, text: str = "new") -> None:
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text(text)


def stage(target: Path, action: Callable[[], object], *, replace: bool = False) -> None:
    """Fills a folder to be, then does something."""
    with stage_folder(target, replace=replace) as partial:
        fill(partial)
        action()


def fail(error: BaseException) -> None:
    raise error


def test_the_folder_appears_at_the_end(tmp_path: Path):
    target = tmp_path / "a" / "b" / "target"
    with stage_folder(target) as partial:
        fill(partial)
        assert not target.exists()
        assert partial.parent == target.parent
    assert (target / "inner" / "file").read_text() == "new"
    assert sorted(os.listdir(target.parent)) == ["target"]


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_a_failure(tmp_path: Path, kind):
    with pytest.raises(kind):
        stage(tmp_path / "a" / "b" / "target", lambda: fail(kind()))
    assert os.listdir(tmp_path) == []  # the folders above it were made for it


def test_a_full_disk_is_said(tmp_path: Path):
    message = "target cannot be written: .*No space left"
    with pytest.raises(CheckpointError, match=message), stage_folder(tmp_path / "target"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_sigterm_cleans_up_and_handlers_are_restored(tmp_path: Path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as raised:
        stage(tmp_path / "target", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert raised.value.number == signal.SIGTERM
    assert os.listdir(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_replacing(tmp_path: Path):
    fill(tmp_path / "target", "old")
    with pytest.raises(RuntimeError):
        stage(tmp_path / "target", lambda: fail(RuntimeError()), replace=True)
    assert (tmp_path / "target" / "inner" / "file").read_text() == "old"
    with stage_folder(tmp_path / "target", replace=True) as partial:
        fill(partial)
    assert (tmp_path / "target" / "inner" / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["target"]


def test_a_place_that_was_taken_meanwhile(tmp_path: Path):
    with pytest.raises(CheckpointError, match="made by someone else meanwhile"):
        stage(tmp_path / "target", lambda: fill(tmp_path / "target", "theirs"))
    assert (tmp_path / "target" / "inner" / "file").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["target"]


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_killed_processes_left_is_removed(tmp_path: Path):
    host = socket.gethostname()
    dead = tmp_path / f".target.partial-{host}-{dead_process()}"
    alive = tmp_path / f".target.partial-{host}-{os.getppid()}"
    elsewhere = tmp_path / ".target.partial-another.host-1"
    of_another = tmp_path / f".targets.partial-{host}-{dead_process()}"
    for folder in (dead, alive, elsewhere, of_another):
        fill(folder)
    with stage_folder(tmp_path / "target") as partial:
        fill(partial)
    assert not dead.exists()
    assert alive.exists() and elsewhere.exists() and of_another.exists()


def test_killed_between_the_renames_the_old_one_comes_back(tmp_path: Path):
    fill(tmp_path / f".target.replaced-{socket.gethostname()}-{dead_process()}", "old")
    with pytest.raises(RuntimeError), stage_folder(tmp_path / "target", replace=True):
        raise RuntimeError
    assert (tmp_path / "target" / "inner" / "file").read_text() == "old"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="permission denied"), stage_folder(tmp_path / "x"):
        raise AssertionError


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_a_failed_rename_gives_the_old_one_back(tmp_path: Path, monkeypatch, kind):
    fill(tmp_path / "target", "old")
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if "partial" in Path(source).name:
            raise kind("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(CheckpointError if kind is OSError else kind):
        stage(tmp_path / "target", lambda: None, replace=True)
    assert os.listdir(tmp_path) == ["target"]
    assert (tmp_path / "target/inner/file").read_text() == "old"
