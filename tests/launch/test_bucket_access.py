"""Permissions on buckets, asked of a real HTTP server that answers as Cloud Storage does."""

from __future__ import annotations

import dataclasses
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from flan_jax.launch import JobSpec, LaunchError, Place, RetryPolicy
from flan_jax.launch.bucket_access import READ, WRITE, BucketUse, check_buckets
from tests.launch.fake_programs import FakePrograms

READER, WRITER, MACHINES = "reader@example.com", "writer@example.com", "m@p.iam.gserviceaccount.com"
SPEC = JobSpec(
    "xl", "train", gin_files=("models/t5/xl.gin",), retry=RetryPolicy(attempts=3, wait=0.0)
)
REFUSED = "ERROR: (gcloud.auth.print-access-token) PERMISSION_DENIED: iam.getAccessToken denied\n"


class Storage(http.server.ThreadingHTTPServer):
    """Buckets, and who may do what in them by token; the first `failures` answers are 503."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str]] = []
        self.failures, self.status = 0, 200
        self.granted = {
            "ours": {READER: READ, WRITER: WRITE, MACHINES: WRITE},
            "public": {READER: READ, WRITER: READ, MACHINES: READ},
            "theirs": {},
        }

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Storage  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        *_, bucket, iam, method = url.path.split("/")
        token = self.headers["Authorization"].removeprefix("Bearer ")
        self.server.asked.append((bucket, token))
        if (iam, method) != ("iam", "testPermissions"):
            # The bucket's metadata, which roles/storage.objectUser may not read.
            self._answer(403, {"error": {"message": "no storage.buckets.get access"}})
        elif self.server.failures:
            self.server.failures -= 1
            self._answer(503, {"error": {"message": "backend error"}})
        elif self.server.status != 200:
            self._answer(self.server.status, {"error": {"message": "the API is disabled"}})
        elif bucket not in self.server.granted:
            self._answer(404, {"error": {"message": "The specified bucket does not exist."}})
        else:
            wanted = urllib.parse.parse_qs(url.query)["permissions"]
            may = self.server.granted[bucket].get(token, ())
            found = [name for name in wanted if name in may]
            self._answer(200, {"permissions": found} if found else {})

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    server = Storage()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def gcloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    """A login whose token is the account's name."""
    (tmp_path / "bin").mkdir()
    fakes = FakePrograms(tmp_path / "bin", ("gcloud",))
    monkeypatch.setenv("PATH", fakes.path)
    login(fakes, READER)
    return fakes


def login(gcloud: FakePrograms, account: str, machines: dict[str, object] | None = None) -> None:
    machines = machines or {"out": f"{MACHINES}\n"}
    gcloud.script(
        ("--impersonate-service-account", [machines]),
        ("auth print-access-token", [{"out": f"{account}\n"}]),
        ("config get account", [{"out": f"{account}\n"}]),
    )


def test_who_may_read_may_read_public_buckets_and_ours(storage: Storage, gcloud: FakePrograms):
    uses = [BucketUse("ours", False), BucketUse("public", False)]
    assert check_buckets(SPEC, uses) == []
    assert storage.asked == [("ours", READER), ("public", READER)]


def test_who_may_write_needs_nothing_of_the_bucket_itself(storage: Storage, gcloud: FakePrograms):
    login(gcloud, WRITER)
    assert check_buckets(SPEC, [BucketUse("ours", True)]) == []


def test_who_may_only_read_is_told_what_is_missing_to_write(storage, gcloud: FakePrograms):
    with pytest.raises(LaunchError) as caught:
        check_buckets(SPEC, [BucketUse("ours", True)])
    message = str(caught.value)
    assert f"{READER} lacks storage.objects.create, storage.objects.delete on it" in message
    assert (
        "gcloud storage buckets add-iam-policy-binding gs://ours"
        f" --member=user:{READER} --role=roles/storage.objectUser"
    ) in message


def test_who_may_nothing_is_told_all(storage: Storage, gcloud: FakePrograms):
    with pytest.raises(
        LaunchError, match=r"lacks storage\.objects\.list, storage\.objects\.get on"
    ):
        check_buckets(SPEC, [BucketUse("theirs", False)])


def test_a_bucket_that_does_not_exist_is_named(storage: Storage, gcloud: FakePrograms):
    with pytest.raises(LaunchError, match="there is no bucket gs://nowhere"):
        check_buckets(SPEC, [BucketUse("nowhere", False)])


def test_the_machines_account_is_the_one_that_counts(storage: Storage, gcloud: FakePrograms):
    spec = dataclasses.replace(SPEC, place=Place(service_account=MACHINES))
    assert check_buckets(spec, [BucketUse("ours", True)]) == []
    assert storage.asked == [("ours", MACHINES)]
    with pytest.raises(LaunchError, match=f"--member=serviceAccount:{MACHINES} "):
        check_buckets(spec, [BucketUse("public", True)])


def test_who_cannot_act_as_the_machines_is_asked_for_himself(storage, gcloud: FakePrograms):
    login(gcloud, WRITER, {"status": 1, "err": f"WARNING: x\n{REFUSED}"})
    spec = dataclasses.replace(SPEC, place=Place(service_account=MACHINES))
    (note,) = check_buckets(spec, [BucketUse("ours", True)])
    assert f"you cannot act as {MACHINES}" in note and "PERMISSION_DENIED" in note
    assert storage.asked == [("ours", WRITER)]


def test_passing_errors_are_asked_again(storage: Storage, gcloud: FakePrograms):
    storage.failures = 2
    assert check_buckets(SPEC, [BucketUse("ours", False)]) == []
    assert len(storage.asked) == 3


def test_what_cannot_be_asked_is_said_and_stops_nothing(
    storage: Storage, gcloud: FakePrograms, monkeypatch: pytest.MonkeyPatch
):
    use = [BucketUse("ours", False)]
    storage.status = 403
    assert check_buckets(SPEC, use) == [
        "permissions on gs://ours were not checked: Cloud Storage answered 403: the API is disabled"
    ]
    storage.status, storage.failures = 200, 99
    (note,) = check_buckets(SPEC, use)
    assert "answered 503: backend error" in note
    gcloud.script(("print-access-token", [{"status": 1, "err": "ERROR: You are not logged in\n"}]))
    assert check_buckets(SPEC, use) == [
        "permissions on buckets were not checked: You are not logged in"
    ]
    monkeypatch.setenv("PATH", "/nowhere")
    (note,) = check_buckets(SPEC, use)
    assert "gcloud is not on the PATH" in note


def test_no_answer_is_said(gcloud: FakePrograms, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:9")
    (note,) = check_buckets(SPEC, [BucketUse("ours", False)])
    assert "gs://ours were not checked: no answer of Cloud Storage" in note
