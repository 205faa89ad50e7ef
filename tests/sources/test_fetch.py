"""Fetching, against a real server that misbehaves."""

from __future__ import annotations

import email.utils
import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from flan_jax.sources.downloads import Download, ManualDownload, TfdsDownload
from flan_jax.sources.fetch import FetchError, fetch
from flan_jax.sources.fetch import http as fetch_http
from tests.sources.fetching import BIG, QUICK, SMALL, Notes, fetch_one, leftovers, sha256, visible
from tests.sources.http_server import Become, Break, Corrupt, Server, Status


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server().running() as running:
        yield running


def test_a_file_comes_once_and_is_then_there(server, tmp_path):
    url = server.add("/file", BIG)
    outcome = fetch_one(tmp_path, url, sum=sha256(BIG), size=len(BIG))
    assert (outcome.status, outcome.size) == ("fetched", len(BIG))
    assert (tmp_path / "a/file.bin").read_bytes() == BIG
    assert leftovers(tmp_path) == []
    assert fetch_one(tmp_path, url, sum=sha256(BIG)).status == "there"
    (request,) = server.requests
    assert request.encoding == "identity"


def test_an_empty_file_and_equal_downloads(server, tmp_path):
    one = Download(server.add("/empty", b""), "empty")
    report = fetch([one, one, Download(one.url, "copy")], tmp_path, patience=QUICK)
    assert [(o.name, o.status) for o in report.outcomes] == [
        ("empty", "fetched"),
        ("copy", "fetched"),
    ]
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "empty").read_bytes() == b""
    assert len(server.requests) == 1


@pytest.mark.parametrize("how", ["truncate", "reset", "stall"])
def test_broken_transfers_go_on_where_they_ended(server, tmp_path, how):
    url = server.add("/file", BIG, faults=[Break(how, 200_000), Break(how, 100_000)])
    notes = Notes()
    assert fetch_one(tmp_path, url, sum=sha256(BIG), observer=notes).status == "fetched"
    assert (tmp_path / "a/file.bin").read_bytes() == BIG
    first, second, third = server.asked("/file")
    assert (first.range, second.status, third.status) == (None, 206, 206)
    assert second.if_range == third.if_range == '"one"'
    assert [total for total, _ in notes.begins] == [len(BIG)] * 3
    starts = [done for _, done in notes.begins]
    # What was on its way when the connection broke can be lost, a chunk at most.
    assert 0 == starts[0] < starts[1] < starts[2]
    assert starts[1] >= 200_000 - fetch_http.CHUNK
    assert third.served == len(BIG) - starts[2]
    assert len(notes.notes) == 2


def test_a_stall_is_told_apart(server, tmp_path):
    url = server.add("/file", BIG, faults=[Break("stall", 1000)] * 3)
    outcome = fetch_one(tmp_path, url)
    assert outcome.status == "failed"
    assert "stalled" in outcome.detail and "tried 3 times" in outcome.detail
    assert visible(tmp_path) == set()


def test_a_server_that_ignores_ranges_is_asked_anew(server, tmp_path):
    url = server.add("/file", BIG, ranges=False, faults=[Break("truncate", 300_000)])
    assert fetch_one(tmp_path, url, sum=sha256(BIG)).status == "fetched"
    assert [request.status for request in server.requests] == [200, 200]
    assert server.requests[1].range is not None
    assert (tmp_path / "a/file.bin").read_bytes() == BIG


@pytest.mark.parametrize("checksum", [True, False])
def test_content_that_changes_between_attempts_is_not_mixed(server, tmp_path, checksum):
    other = BIG[::-1]
    url = server.add("/file", BIG, faults=[Become(other, '"two"', 200_000)])
    outcome = fetch_one(tmp_path, url, sum=sha256(other) if checksum else None)
    assert outcome.status == "fetched"
    assert (tmp_path / "a/file.bin").read_bytes() == other
    assert server.requests[1].if_range == '"one"'


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_validator_only_a_known_checksum_allows_to_go_on(server, tmp_path, etag):
    for path, checksum in (("/known", sha256(BIG)), ("/unknown", None)):
        url = server.add(path, BIG, etag=etag, faults=[Break("truncate", 200_000)])
        assert fetch_one(tmp_path, url, path[1:], sum=checksum).status == "fetched"
        assert (tmp_path / path[1:]).read_bytes() == BIG
    assert server.asked("/known")[1].status == 206
    assert server.asked("/unknown")[1].range is None


def test_a_wrongly_joined_file_is_noticed_and_fetched_anew(server, tmp_path):
    other = BIG[::-1]
    url = server.add("/file", BIG, etag=None, faults=[Become(other, None, 200_000)])
    notes = Notes()
    assert fetch_one(tmp_path, url, sum=sha256(other), observer=notes).status == "fetched"
    assert (tmp_path / "a/file.bin").read_bytes() == other
    assert any("expected SHA-256" in note for note in notes.notes)


def test_a_chunked_body_of_unknown_length(server, tmp_path):
    url = server.add("/file", BIG, chunked=True, faults=[Break("truncate", 200_000)])
    assert fetch_one(tmp_path, url).status == "fetched"
    assert (tmp_path / "a/file.bin").read_bytes() == BIG
    assert server.requests[1].status == 206


def test_a_body_compressed_against_our_will_is_unpacked(server, tmp_path):
    import gzip

    labelled = {"Content-Encoding": "gzip"}
    plain = server.add("/file.txt", gzip.compress(BIG), headers=labelled)
    packed = server.add("/file.gz", gzip.compress(BIG), headers=labelled)
    downloads = [Download(plain, "plain"), Download(packed, "packed")]
    assert fetch(downloads, tmp_path, patience=QUICK).complete
    assert (tmp_path / "plain").read_bytes() == BIG
    assert gzip.decompress((tmp_path / "packed").read_bytes()) == BIG


def test_a_wrong_checksum_once_is_forgiven(server, tmp_path):
    url = server.add("/file", BIG, faults=[Corrupt()])
    assert fetch_one(tmp_path, url, sum=sha256(BIG)).status == "fetched"
    assert [request.range for request in server.requests] == [None, None]


def test_a_wrong_checksum_twice_is_an_error_with_both(server, tmp_path):
    url = server.add("/file", BIG)
    wrong = sha256(b"something else")
    outcome = fetch_one(tmp_path, url, sum=wrong.upper())
    assert outcome.status == "failed"
    assert f"expected SHA-256 {wrong}" in outcome.detail and sha256(BIG) in outcome.detail
    assert len(server.requests) == 2
    assert visible(tmp_path) == set() and leftovers(tmp_path) == []


def test_a_wrong_length_is_noticed_before_the_body_comes(server, tmp_path):
    url = server.add("/file", BIG)
    outcome = fetch_one(tmp_path, url, size=7)
    assert outcome.status == "failed" and "expected 7 bytes" in outcome.detail
    assert "400000" in outcome.detail


def test_an_unknown_checksum_is_recorded_and_checked_from_then_on(server, tmp_path):
    url = server.add("/file", BIG)
    target = tmp_path / "a/file.bin"
    fetch_one(tmp_path, url)
    record = json.loads((tmp_path / ".fetch/records/a/file.bin.json").read_text())
    assert record["sha256"] == sha256(BIG) and record["url"] == url
    target.unlink()
    server.files["/file"].content = other = BIG[::-1]
    server.files["/file"].etag = '"two"'
    outcome = fetch_one(tmp_path, url)
    assert outcome.status == "failed" and sha256(BIG) in outcome.detail
    assert sha256(other) in outcome.detail and "--replace" in outcome.detail
    assert fetch_one(tmp_path, url, replace=True).status == "fetched"
    assert target.read_bytes() == other


def test_a_file_that_changed_is_reported_and_left_alone(server, tmp_path):
    url = server.add("/file", BIG)
    target = tmp_path / "a/file.bin"
    fetch_one(tmp_path, url)
    target.write_bytes(b"edited by hand")
    outcome = fetch_one(tmp_path, url)
    assert outcome.status == "failed" and sha256(BIG) in outcome.detail
    assert sha256(b"edited by hand") in outcome.detail
    assert target.read_bytes() == b"edited by hand"
    assert fetch_one(tmp_path, url, replace=True).status == "fetched"
    assert target.read_bytes() == BIG


def test_verify_reads_files_that_look_untouched(server, tmp_path):
    url = server.add("/file", BIG)
    target = tmp_path / "a/file.bin"
    fetch_one(tmp_path, url)
    stat = target.stat()
    target.write_bytes(BIG[::-1])
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fetch_one(tmp_path, url).status == "there"
    assert fetch_one(tmp_path, url, verify=True).status == "failed"


def test_files_put_there_by_hand_are_checked_where_a_checksum_is_known(server, tmp_path):
    url = server.add("/file", BIG)
    for name in ("good", "bad", "unknown"):
        (tmp_path / name).write_bytes(BIG if name == "good" else b"?")
    downloads = [
        Download(url, "good", sha256(BIG)),
        Download(url + "?bad", "bad", sha256(BIG)),
        Download(url + "?unknown", "unknown"),
    ]
    good, bad, unknown = fetch(downloads, tmp_path, patience=QUICK).outcomes
    assert (good.status, bad.status, unknown.status) == ("there", "failed", "there")
    assert "not checked" in unknown.detail
    assert server.requests == []
    # What was checked once need not be read again.
    assert (tmp_path / ".fetch/records/good.json").is_file()


def test_a_definition_that_moved_on_finds_the_old_file_outdated(server, tmp_path):
    url = server.add("/file", BIG)
    fetch_one(tmp_path, url, sum=sha256(BIG))
    server.files["/file"].content = BIG[::-1]
    outcome = fetch_one(tmp_path, url, sum=sha256(BIG[::-1]))
    assert outcome.status == "failed" and "definition now states" in outcome.detail
    assert fetch_one(tmp_path, url, sum=sha256(BIG[::-1]), replace=True).status == "fetched"
    assert (tmp_path / "a/file.bin").read_bytes() == BIG[::-1]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_refusals_fail_at_once(server, tmp_path, code):
    url = server.add("/file", BIG, faults=[Status(code)])
    outcome = fetch_one(tmp_path, url)
    assert outcome.status == "failed" and str(code) in outcome.detail
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_passing_troubles_pass(server, tmp_path, code):
    url = server.add("/file", BIG, faults=[Status(code)] * 2)
    assert fetch_one(tmp_path, url, sum=sha256(BIG)).status == "fetched"
    assert [request.status for request in server.requests] == [code, code, 200]


def test_lasting_troubles_are_given_up(server, tmp_path):
    url = server.add("/file", BIG, faults=[Status(500)] * 9)
    outcome = fetch_one(tmp_path, url)
    assert outcome.status == "failed" and "500" in outcome.detail
    assert len(server.requests) == QUICK.attempts


def test_the_wait_that_a_server_asks_for_is_kept(server, tmp_path):
    url = server.add("/file", SMALL, faults=[Status(429, {"Retry-After": "1"})])
    assert fetch_one(tmp_path, url).status == "fetched"
    first, second = server.requests
    assert 1.0 <= second.time - first.time < 3.0


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_too_long_a_wait_is_reported(server, tmp_path, form):
    wait = "3600" if form == "seconds" else email.utils.formatdate(time.time() + 3600, usegmt=True)
    url = server.add("/file", SMALL, faults=[Status(503, {"Retry-After": wait})])
    outcome = fetch_one(tmp_path, url)
    assert outcome.status == "failed"
    assert "asks to wait 3600 s" in outcome.detail or "asks to wait 3599 s" in outcome.detail
    assert len(server.requests) == 1


def test_redirects_are_followed_and_ranges_with_them(server, tmp_path):
    server.add("/real", BIG, faults=[Break("truncate", 200_000)])
    moved = Status(302, {"Location": "/real"})
    url = server.add("/file", b"", faults=[moved, moved])
    assert fetch_one(tmp_path, url, sum=sha256(BIG)).status == "fetched"
    assert server.asked("/real")[1].status == 206


def test_a_circle_of_redirects_ends(server, tmp_path):
    url = server.add("/file", b"", faults=[Status(302, {"Location": "/file"})] * 99)
    outcome = fetch_one(tmp_path, url)
    assert outcome.status == "failed" and "TooManyRedirects" in outcome.detail


def test_one_dead_source_does_not_stop_the_others(server, tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        downloads = [Download(f"{dead}/{i}", f"dead/{i}") for i in range(3)]
        downloads += [Download(server.address + "/absent", "absent")]
        downloads += [Download(server.add(f"/{i}", SMALL), f"good/{i}") for i in range(3)]
        notes = Notes()
        report = fetch(downloads, tmp_path, jobs=1, patience=QUICK, observer=notes)
    assert [o.status for o in report.outcomes] == ["failed"] * 4 + ["fetched"] * 3
    assert [o.name for o in report.outcomes] == [d.path for d in downloads]
    assert "no connection" in report.outcomes[0].detail
    # The host that nobody answers at is not tried again for each of its files.
    assert len(notes.notes) == QUICK.attempts - 1
    assert "not tried again" in report.outcomes[2].detail
    assert not report.complete and len(report.of("failed")) == 4


def test_an_unknown_host(tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    outcome = fetch_one(tmp_path, "http://flan-jax.invalid/file")  # RFC 2606: never a host
    assert outcome.status == "failed"
    assert "the address of flan-jax.invalid cannot be found" in outcome.detail


def test_files_come_in_parallel_but_no_more_than_asked(server, tmp_path):
    downloads = [Download(server.add(f"/{i}", BIG, pause=0.005), f"{i}") for i in range(6)]
    assert fetch(downloads, tmp_path, jobs=3, patience=QUICK).complete
    assert server.most_active == 3


def test_manual_downloads(server, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/x").write_text("x")
    (tmp_path / "empty").mkdir()
    downloads = [ManualDownload(name, f"Ask for {name}.") for name in ("here", "empty", "none")]
    # What another source can download need not be got by hand.
    downloads += [ManualDownload("both", "Ask."), Download(server.add("/b", SMALL), "both")]
    report = fetch(downloads, tmp_path, patience=QUICK)
    assert {o.name: o.status for o in report.outcomes} == {
        "here": "there",
        "empty": "manual",
        "none": "manual",
        "both": "fetched",
    }
    assert "Ask for none." in report.outcomes[2].detail
    assert str(tmp_path / "none") in report.outcomes[2].detail


@pytest.mark.parametrize(
    "path", ["../up", "a/../../up", "/etc/up", "", ".", ".fetch/records/x", "a\\..\\up"]
)
def test_paths_that_lead_out_are_refused(tmp_path, path):
    with pytest.raises(FetchError, match="must be relative to the data folder"):
        fetch([Download("http://127.0.0.1:9/x", path)], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Download("http://h/other", "x"), "want different files as x"),
        (Download("http://h/x", "x", member="m"), "want different files as x"),
        (Download("http://h/x", "x", "b" * 64), "different checksums"),
        (Download("http://h/x", "y", "b" * 64), "different checksums"),
        (Download("http://h/x", "y", size=2), "different sizes"),
        (Download("http://h/x", "y", "abc"), "not a SHA-256"),
    ],
)
def test_contradictions_are_refused(tmp_path, second, message):
    with pytest.raises(FetchError, match=message):
        fetch([Download("http://h/x", "x", "a" * 64, 1), second], tmp_path)


def test_mirrors_replace_the_longest_prefix(server, tmp_path):
    server.add("/general/a", b"general")
    server.add("/special", b"special")
    mirrors = {
        "https://example.org/": server.address + "/general/",
        "https://example.org/b": server.address + "/special",
    }
    downloads = [Download("https://example.org/a", "a"), Download("https://example.org/b", "b")]
    assert fetch(downloads, tmp_path, mirrors=mirrors, patience=QUICK).complete
    assert (tmp_path / "a").read_bytes() == b"general"
    assert (tmp_path / "b").read_bytes() == b"special"


def test_too_little_room_is_noticed_beforehand(server, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(fetch_http.shutil, "disk_usage", lambda _: usage)
    outcome = fetch_one(tmp_path, server.add("/file", BIG))
    assert outcome.status == "failed"
    assert "400,000 bytes are to come, 1,000 are free" in outcome.detail


def test_a_file_in_the_way_of_a_folder(server, tmp_path):
    (tmp_path / "a").write_text("in the way")
    outcome = fetch_one(tmp_path, server.add("/file", SMALL))
    assert outcome.status == "failed" and "move it away" in outcome.detail
    assert (tmp_path / "a").read_text() == "in the way"


def test_other_storage_comes_by_fsspec(tmp_path):
    origin = tmp_path / "origin.bin"
    origin.write_bytes(BIG)
    outcome = fetch_one(tmp_path / "data", origin.as_uri(), sum=sha256(BIG))
    assert outcome.status == "fetched"
    assert (tmp_path / "data/a/file.bin").read_bytes() == BIG
    outcome = fetch_one(tmp_path / "data", (tmp_path / "none").as_uri(), "none")
    assert outcome.status == "failed" and "does not exist" in outcome.detail
    outcome = fetch_one(tmp_path / "data", "nonsense://x/y", "other")
    assert outcome.status == "failed" and "nonsense" in outcome.detail


def test_builders_are_prepared_one_after_another(tmp_path, monkeypatch):
    from flan_jax.sources import tfds

    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.delenv("TFDS_MANUAL_DIR", raising=False)
    calls, running = [], threading.Lock()

    def prepare(builder: str, data_dir: Path, *, manual_dir: Path) -> None:
        assert running.acquire(blocking=False)
        time.sleep(0.02)
        calls.append((builder, data_dir, manual_dir))
        running.release()
        if builder.startswith("broken"):
            raise RuntimeError("boom")

    monkeypatch.setattr(tfds, "prepare_builder", prepare)
    downloads = [
        TfdsDownload("fine/config:1.0.0"),
        TfdsDownload("broken:1.0.0"),
        TfdsDownload("broken_too:1.0.0", manual="Ask the authors."),
        TfdsDownload("nameless"),
    ]
    report = fetch(downloads, tmp_path, patience=QUICK)
    assert [o.status for o in report.outcomes] == ["fetched", "failed", "manual", "failed"]
    assert "boom" in report.outcomes[1].detail
    assert "Ask the authors." in report.outcomes[2].detail and "boom" in report.outcomes[2].detail
    assert "expected NAME:VERSION" in report.outcomes[3].detail
    assert calls[0] == ("fine/config:1.0.0", tmp_path / "tensorflow_datasets", tmp_path / "manual")
    assert [builder for builder, *_ in calls] == [d.builder for d in downloads[:3]]
