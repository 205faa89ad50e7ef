"""Files out of archives: zip, tar and gzip, whole, damaged and malicious."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from flan_jax.sources.downloads import Download
from flan_jax.sources.fetch import FetchError, Patience, fetch
from flan_jax.sources.fetch.archives import unpack, unpack_gzip
from tests.sources.http_server import Break, Server

QUICK = Patience(attempts=3, first_wait=0.01, stall_timeout=0.5)
MEMBERS = {f"top/dir{i % 3}/{i}.txt": random.Random(i).randbytes(3000 + i) for i in range(9)}


def zipped(members: dict[str, bytes] = MEMBERS) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes] = MEMBERS, mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


KINDS = {
    "zip": zipped,
    "tar": lambda: tarred(mode="w"),
    "tar.gz": tarred,
    "tar.xz": lambda: tarred(mode="w:xz"),
    "tar.gz with ./": lambda: tarred({f"./{name}": c for name, c in MEMBERS.items()}),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server().running() as running:
        yield running


def members_of(url: str, sha256: str | None = None) -> list[Download]:
    return [Download(url, f"out/{i}", sha256, member=name) for i, name in enumerate(MEMBERS)]


def nothing() -> None:
    """Does not stop."""


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_comes_once_for_all_its_members(server, tmp_path, kind):
    content = KINDS[kind]()
    url = server.add("/archive", content, faults=[Break("truncate", len(content) // 2)])
    wanted = members_of(url, hashlib.sha256(content).hexdigest())
    report = fetch(wanted, tmp_path, patience=QUICK)
    assert report.complete and len(report.of("fetched")) == len(MEMBERS)
    for number, expected in enumerate(MEMBERS.values()):
        assert (tmp_path / f"out/{number}").read_bytes() == expected
    assert len(server.requests) == 2
    again = fetch(wanted, tmp_path, patience=QUICK, verify=True)
    assert len(again.of("there")) == len(MEMBERS)
    assert len(server.requests) == 2
    assert not any((tmp_path / ".fetch/parts").iterdir())


def test_only_what_is_missing_is_taken_out_again(server, tmp_path):
    url = server.add("/archive.zip", zipped())
    wanted = members_of(url)
    assert fetch(wanted, tmp_path, patience=QUICK).complete
    (tmp_path / "out/3").unlink()
    untouched = (tmp_path / "out/4").stat().st_mtime_ns
    report = fetch(wanted, tmp_path, patience=QUICK)
    assert [o.name for o in report.of("fetched")] == ["out/3"]
    assert (tmp_path / "out/3").read_bytes() == list(MEMBERS.values())[3]
    assert (tmp_path / "out/4").stat().st_mtime_ns == untouched


def test_a_kept_archive_serves_more_members_later(server, tmp_path):
    url = server.add("/archive.zip", zipped())
    first, second, *_ = members_of(url)
    assert fetch([first], tmp_path, patience=QUICK, keep_archives=True).complete
    assert fetch([second], tmp_path, patience=QUICK).complete
    assert len(server.requests) == 1
    assert not any((tmp_path / ".fetch/parts").iterdir())


def test_the_archive_itself_and_one_member_twice(server, tmp_path):
    content = zipped()
    url = server.add("/archive.zip", content)
    (name, expected), *_ = MEMBERS.items()
    downloads = [
        Download(url, "a", member=name),
        Download(url, "whole.zip"),
        Download(url, "b", member=name),
    ]
    assert fetch(downloads, tmp_path, patience=QUICK).complete
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == expected
    assert (tmp_path / "whole.zip").read_bytes() == content
    assert len(server.requests) == 1


def test_gzip_is_unpacked(server, tmp_path):
    text = b"many lines\n" * 5000
    url = server.add("/rows.tsv.gz", gzip.compress(text))
    assert fetch([Download(url, "rows.tsv", member="")], tmp_path, patience=QUICK).complete
    assert (tmp_path / "rows.tsv").read_bytes() == text


def test_a_missing_member_fails_alone_with_a_hint(server, tmp_path):
    url = server.add("/archive.tgz", tarred())
    downloads = [
        Download(url, "x", member="top/dir0/00.txt"),
        Download(server.add("/other", b"fine"), "other"),
    ]
    x, other = fetch(downloads, tmp_path, patience=QUICK).outcomes
    assert (x.status, other.status) == ("failed", "fetched")
    assert "no member 'top/dir0/00.txt'" in x.detail
    assert "did you mean 'top/dir0/0.txt'" in x.detail
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("content", "member"),
    [
        (b"<html>Please log in</html>", "top/dir0/0.txt"),
        (zipped()[:-30], "top/dir2/8.txt"),
        (tarred()[:-600], "top/dir2/8.txt"),
        (gzip.compress(b"x" * 9999)[:-9], ""),
        (b"not gzip", ""),
    ],
    ids=["html", "zip", "tar", "gzip", "no-gzip"],
)
def test_what_is_no_archive_is_fetched_twice_and_reported(server, tmp_path, content, member):
    url = server.add("/archive", content)
    (outcome,) = fetch([Download(url, "x", member=member)], tmp_path, patience=QUICK).outcomes
    assert outcome.status == "failed"
    assert f"found {len(content)} bytes that cannot be read as one" in outcome.detail
    assert url in outcome.detail
    assert len(server.requests) == 2
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_damaged_member_of_a_zip_file(tmp_path):
    name = "top/dir0/0.txt"
    content = bytearray(zipped())
    content[100] ^= 255
    archive = tmp_path / "archive"
    archive.write_bytes(content)
    with pytest.raises(FetchError, match="cannot be read as one"):
        unpack(archive, {name: tmp_path / "x"}, nothing)


@pytest.mark.parametrize("name", ["../../up.txt", "/tmp/flan_jax_up.txt", "..\\up.txt"])
@pytest.mark.parametrize("make", [zipped, tarred])
def test_names_in_archives_lead_nowhere(server, tmp_path, name, make):
    """A member is found by its name, and written to the path of the definition alone."""
    folder = tmp_path / "deep/data"
    url = server.add("/archive", make({name: b"evil", "good.txt": b"good"}))
    downloads = [Download(url, "evil", member=name), Download(url, "good", member="good.txt")]
    assert fetch(downloads, folder, patience=QUICK).complete
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert {f for f in files if ".fetch" not in f} == {"deep/data/evil", "deep/data/good"}
    assert not Path("/tmp/flan_jax_up.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused_in_tar(tmp_path, kind):
    archive = tmp_path / "archive.tar"
    with tarfile.open(archive, "w") as opened:
        info = tarfile.TarInfo("x")
        info.type, info.linkname = kind, "/etc/passwd"
        opened.addfile(info)
    with pytest.raises(FetchError, match="x in the archive is not a regular file"):
        unpack(archive, {"x": tmp_path / "out"}, nothing)
    assert not (tmp_path / "out").exists()


def test_links_and_folders_are_refused_in_zip(tmp_path):
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        info = zipfile.ZipInfo("x")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(info, "/etc/passwd")
        opened.writestr("folder/", "")
    for name in ("x", "folder/"):
        with pytest.raises(FetchError, match="is not a regular file"):
            unpack(archive, {name: tmp_path / "out"}, nothing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_told_clearly(tmp_path):
    archive = tmp_path / "archive.gz"
    archive.write_bytes(gzip.compress(b"x" * 100))
    with pytest.raises(FetchError, match="/dev/full: the disk is full: make room"):
        unpack_gzip(archive, Path("/dev/full"), nothing)
