"""What is wrong with a store is found when it is opened, and the file is named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flan_jax.store import StoreError, build_store, open_store
from flan_jax.store.manifest import VERSION
from flan_jax.tasks import get_task
from tests.store.helpers import MODULE_NAME, flip, shard_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def built(mixture, tmp_path) -> Path:
    """A store of several shards."""
    build_store(mixture, tmp_path / "s", shard_bytes=700)
    return tmp_path / "s"


@pytest.mark.parametrize("verify", ["once", "always"])
@pytest.mark.parametrize("task", ["one", "two", "three"])
def test_a_flipped_bit_in_any_shard(built, task, verify):
    shard = shard_of(open_store(built), task)
    for position in (0, shard.stat().st_size // 2, shard.stat().st_size - 1):
        flip(shard, position)
        with pytest.raises(StoreError) as error:
            open_store(built, verify=verify)
        text = str(error.value)
        assert f"the shard {shard.name} has the checksum" in text
        assert f"`flan-jax data build trio --out {built}`" in text
        assert text.count("has the checksum") == 1
        flip(shard, position)
        open_store(built, verify=verify)


def test_always_reads_even_what_looks_untouched(built):
    shard = shard_of(open_store(built), "one")
    before = shard.stat()
    flip(shard, 40)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    open_store(built, verify="once")
    with pytest.raises(StoreError, match=shard.name):
        open_store(built, verify="always")


def test_once_is_once(built, monkeypatch):
    from flan_jax.store import verify

    read = []
    count = verify._crc32
    monkeypatch.setattr(verify, "_crc32", lambda f, file: read.append(file.file) or count(f, file))
    open_store(built)  # the build itself has noted that they are sound
    assert read == []
    verify.forget(str(built))
    names = {file.file for file in open_store(built).manifest.files()}
    assert set(read) == names and len(read) == len(names)
    open_store(built)
    assert len(read) == len(names)
    shard = shard_of(open_store(built), "two")
    os.utime(shard)
    open_store(built)
    assert read[len(names) :] == [shard.name]


def test_without_a_place_for_notes_all_is_read_each_time(built, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    flip(shard_of(open_store(built), "one"), 3)
    for _ in range(2):
        with pytest.raises(StoreError, match="has the checksum"):
            open_store(built)


@pytest.mark.parametrize("verify", ["once", "always", "never"])
@pytest.mark.parametrize("change", [-1, -100, +1])
def test_a_shard_of_another_length(built, verify, change):
    shard = shard_of(open_store(built), "two")
    size = shard.stat().st_size
    os.truncate(shard, size + change)
    word = "is too long" if change > 0 else "was cut short"
    expected = f"the shard {shard.name} {word}: it has {size + change:,} bytes, expected {size:,}"
    with pytest.raises(StoreError, match=re.escape(expected)):
        open_store(built, verify=verify)


@pytest.mark.parametrize("verify", ["once", "always", "never"])
def test_missing_files_are_all_named(built, verify):
    store = open_store(built)
    names = [shard_of(store, name).name for name in ("one", "two")]
    for name in names:
        (built / name).unlink()
    with pytest.raises(StoreError) as error:
        open_store(built, verify=verify)
    for name in names:
        assert f"the shard {name} is missing" in str(error.value)


def test_a_damaged_index(built):
    index = built / open_store(built).manifest.index.file
    flip(index, 17)
    with pytest.raises(StoreError, match=f"the index {index.name} has the checksum"):
        open_store(built)
    flip(index, 17)
    os.truncate(index, index.stat().st_size - 8)
    with pytest.raises(StoreError, match=f"the index {index.name} was cut short"):
        open_store(built, verify="never")


def test_what_was_not_verified_is_told_when_a_row_is_read(built):
    store = open_store(built)
    index = built / store.manifest.index.file
    place = store.manifest.tasks["one"].splits["train"].first
    flip(index, 8 * (place + 4) + 6)  # an offset beyond all bounds
    store = open_store(built, verify="never")
    name = shard_of(store, "one").name
    source = store.source("one")
    assert source.row("train", 2)["answer"] == "answer 2"
    with pytest.raises(StoreError, match=rf"{name} is damaged at row 3 of one, split 'train'"):
        source.row("train", 3)
    flip(index, 8 * (place + 4) + 6)
    shard = shard_of(store, "one")
    data = bytearray(shard.read_bytes())
    start = int(store.offsets(store.manifest.tasks["one"].splits["train"])[6])
    data[start] = 0xC1  # no MessagePack begins so
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=rf"{name} is damaged at row 5 of one"):
        open_store(built, verify="never").source("one").row("train", 5)


def _edit_manifest(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_another_version_of_the_format(built):
    _edit_manifest(built, version=VERSION + 1)
    with pytest.raises(StoreError, match=rf"version {VERSION + 1} of the format; this"):
        open_store(built)


def test_a_damaged_manifest(built):
    _edit_manifest(built, mixture="other")
    with pytest.raises(StoreError, match=r"manifest.json is damaged: its checksum does not fit"):
        open_store(built)
    for text in (b"", b"{", b"[]", b'{"format": "other"}', b"\xff"):
        (built / "manifest.json").write_bytes(text)
        with pytest.raises(StoreError, match=r"manifest.json is damaged or no store's"):
            open_store(built)


def test_a_definition_that_has_changed_since(content, built, tmp_path):
    tasks = [get_task(name) for name in ("one", "two", "three")]
    store = open_store(built, tasks=tasks)
    module = tmp_path / "code" / f"{MODULE_NAME}.py"
    module.write_text(module.read_text().replace('row["q"],', 'row["q"] + "!",'))
    content()
    shard = shard_of(store, "two").name
    with pytest.raises(StoreError) as error:
        open_store(built, tasks=[get_task("two")])
    text = str(error.value)
    assert "definition of the task two" in text and shard in text and str(built) in text
    assert f"`flan-jax data build trio --out {built}`" in text
    with pytest.raises(StoreError, match=r"task one .* has changed"):
        store.apply(get_task("one"))


def test_slips(built):
    with pytest.raises(StoreError, match="expected one of once, always, never"):
        open_store(built, verify="yes")
    with pytest.raises(StoreError, match=r"'tow'; did you mean 'two'"):
        open_store(built).source("tow")
    with pytest.raises(StoreError, match=r"nowhere is no store: there is no manifest.json"):
        open_store(built / "nowhere")


_LIMITED = """\
import resource, sys
from flan_jax.mixing import define_mixture
from flan_jax.store import StoreError, build_store
import store_test_tasks
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    build_store(define_mixture("trio", ["one", "two", "three"]), sys.argv[1])
except StoreError as error:
    print(error)
else:
    print("written")
"""


def test_no_room_for_the_store(built, content, tmp_path):
    """The system's limit on the length of files stands for a disk that is full."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path / 'code'}"}
    found = []
    sizes = (100, 3_000, 4_500, 1 << 20)  # stops a part, a shard, the next file, nothing
    for size in sizes:
        command = [sys.executable, "-c", _LIMITED, str(tmp_path / "limited"), str(size)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    assert found[-1] == "written\n"
    assert "the file is too long for the file system, or for this user's limit" in found[0]
    assert "too long" in found[1]
    assert open_store(tmp_path / "limited", verify="always").tasks() == ("one", "three", "two")
    leftovers = {path.name for path in (tmp_path / "limited").iterdir()}
    assert len(leftovers) == 4 and not any(".tmp" in name for name in leftovers)


def test_a_full_disk_is_told_as_such(mixture, tmp_path, monkeypatch):
    import errno

    from flan_jax.store import pack

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pack, "_copy", full)
    with pytest.raises(StoreError, match=r"rows-0.*: the disk is full: make room and run the"):
        build_store(mixture, tmp_path / "full")
    assert not (tmp_path / "full" / "manifest.json").exists()
    monkeypatch.undo()
