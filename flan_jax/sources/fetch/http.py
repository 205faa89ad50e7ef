"""One attempt to bring a file over HTTP, going on where an earlier one ended."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import io
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import requests
import urllib3

from flan_jax import __version__
from flan_jax.sources.fetch.errors import (
    FetchError,
    MismatchError,
    TransientError,
    local_errors,
)
from flan_jax.sources.fetch.parts import Part, PartNote, write_all

CHUNK = 1 << 16
# RFC 9110: a client's request that timed out, came too early or too often, besides all of 5xx.
_TRANSIENT = (408, 425, 429)
_ADVICE = {
    401: "the server wants a login; put it in ~/.netrc",
    403: "the server refuses: access may have to be asked for",
    404: "there is no such file any more",
    410: "the file was withdrawn",
}
_RANGE = re.compile(r"bytes (?P<start>\d+)-\d+/(?P<total>\d+|\*)")


class Listener(Protocol):
    """What an attempt reports to, and by which it is stopped."""

    def began(self, total: int | None, done: int) -> None:
        """The transfer goes on from `done` of `total` bytes."""
        ...

    def advanced(self, count: int) -> None:
        """`count` more bytes are on disk. Raises StoppedError to stop."""
        ...


@dataclass(frozen=True)
class Expected:
    """What is known of the content beforehand.

    Attributes:
      size: its length.
      checksum: whether its checksum is known, so that a wrongly joined part would be noticed.
    """

    size: int | None = None
    checksum: bool = False


class HttpClient:
    """Connections of one process, a session for each thread."""

    def __init__(self, connect_timeout: float, stall_timeout: float):
        self._timeouts = (connect_timeout, stall_timeout)
        self._local = threading.local()

    def receive(self, url: str, part: Part, expected: Expected, listener: Listener) -> None:
        """Brings `url` into `part`, from where the part ends if the content is the same.

        Raises:
          TransientError: it failed in a way that may pass; what came is kept in the part.
          MismatchError: the announced length is not the expected one.
          FetchError: it failed for good.
        """
        offset, note = _resumable(url, part, expected)
        if note is not None and note.total == offset:
            return
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if note is not None and note.validator:
            headers["If-Range"] = note.validator
        with _network_errors(url), self._get(url, headers) as response:
            if response.status_code == 416 and offset:
                _settle_unsatisfiable(response, part, offset)
                return
            _check_status(response)
            if response.status_code == 206 and offset:
                _check_range(response, note, part, offset)
            else:
                offset, note = 0, _fresh_note(url, response)
                with local_errors():
                    part.begin(note)
            assert note is not None
            _receive_body(response, part, note, offset, expected, listener)

    def _get(self, url: str, headers: dict[str, str]) -> requests.Response:
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            # Ranges and checksums are those of the file as it is, not of a compressed transfer.
            session.headers["Accept-Encoding"] = "identity"
            session.headers["User-Agent"] = f"flan_jax/{__version__}"
        return session.get(url, headers=headers, stream=True, timeout=self._timeouts)


def _resumable(url: str, part: Part, expected: Expected) -> tuple[int, PartNote | None]:
    """Where to go on and with which note; (0, None) if the part cannot be gone on with."""
    note, offset = part.note(), part.size()
    if note is None or note.url != url or not offset:
        return 0, None
    if not note.validator and not expected.checksum and note.total != offset:
        return 0, None
    if note.total is not None and offset > note.total:
        return 0, None
    return offset, note


def _fresh_note(url: str, response: requests.Response) -> PartNote:
    length = response.headers.get("Content-Length", "")
    if _encoded(url, response):
        return PartNote(url, None, None)
    etag = response.headers.get("ETag")
    # Only a strong ETag may stand in If-Range (RFC 9110, 13.1.5).
    validator = etag if etag and not etag.startswith("W/") else None
    validator = validator or response.headers.get("Last-Modified")
    return PartNote(url, validator, int(length) if length.isdigit() else None)


def _encoded(url: str, response: requests.Response) -> bool:
    """Whether the body was compressed for the transfer, although nobody asked for it.

    A gzip file is often labelled as if it were; that one is wanted as it comes.
    """
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    return encoding != "identity" and not urlsplit(url).path.endswith((".gz", ".tgz"))


def _receive_body(
    response: requests.Response,
    part: Part,
    note: PartNote,
    offset: int,
    expected: Expected,
    listener: Listener,
) -> None:
    total = note.total
    if total is not None and expected.size is not None and total != expected.size:
        raise MismatchError(f"expected {expected.size} bytes, the server announces {total}")
    check_space(part.file.parent, total, offset)
    listener.began(total, offset)
    with local_errors():
        file = io.FileIO(part.file, "a")
    with file:
        body = response.raw.stream(CHUNK, decode_content=_encoded(note.url, response))
        for chunk in body:
            write_all(file, chunk)
            listener.advanced(len(chunk))
    found = part.size()
    if total is None:
        with local_errors():
            part.amend(PartNote(note.url, note.validator, found))
    elif found < total:
        raise TransientError(f"the connection ended after {found} of {total} bytes")


def check_space(folder: Path, total: int | None, done: int) -> None:
    """Raises FetchError if what is left of `total` bytes does not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if total is not None and total - done > free:
        raise FetchError(
            f"the disk is too full: {total - done:,} bytes are to come, {free:,} are free in "
            f"{folder}; make room and run the command again"
        )


def _check_range(
    response: requests.Response, note: PartNote | None, part: Part, offset: int
) -> None:
    """Makes sure that a partial answer goes on where the part ends, in the same content."""
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    etag = response.headers.get("ETag")
    ours = note.validator if note is not None else None
    same = match is not None and int(match["start"]) == offset
    if same and match is not None and match["total"] != "*" and note is not None:
        same = note.total in (None, int(match["total"]))
    if same and etag and ours and ours.startswith('"'):
        same = etag == ours
    if not same:
        with local_errors():
            part.discard()
        raise TransientError("the server went on with another content or place; starting anew")


def _settle_unsatisfiable(response: requests.Response, part: Part, offset: int) -> None:
    """Handles status 416: the part is either all there is, or of a content that is gone."""
    note = part.note()
    with local_errors():
        if note is not None and response.headers.get("Content-Range") == f"bytes */{offset}":
            part.amend(PartNote(note.url, note.validator, offset))
            return
        part.discard()
    raise TransientError("the file at the server has become shorter; starting anew")


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    told = f"the server answers {status} {response.reason or ''}".rstrip()
    if status in _TRANSIENT or status >= 500:
        raise TransientError(told, retry_after=_retry_after(response))
    advice = f": {_ADVICE[status]}" if status in _ADVICE else ""
    raise FetchError(f"{told}{advice} ({response.url})")


def _retry_after(response: requests.Response) -> float | None:
    """Seconds to wait by the header Retry-After, which is a number or a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return max(0.0, (when - datetime.datetime.now(datetime.UTC)).total_seconds())


@contextlib.contextmanager
def _network_errors(url: str) -> Iterator[None]:
    """Turns the errors of requests and urllib3 into ours."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _translated(error, urlsplit(url).netloc) from error


def _translated(error: Exception, host: str) -> FetchError:
    permanent = (
        requests.exceptions.TooManyRedirects,
        requests.exceptions.InvalidURL,
        requests.exceptions.MissingSchema,
        requests.exceptions.InvalidSchema,
    )
    if isinstance(error, permanent):
        return FetchError(f"{type(error).__name__}: {error}")
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return FetchError(f"the certificate of {host} is not trusted: {error}")
    reason = _innermost(error)
    if isinstance(error, requests.ConnectTimeout):
        return TransientError(f"{host} does not answer (no connection in time)", unreachable=True)
    if _is_timeout(error):
        return TransientError(f"{host} stalled: no bytes within the time limit")
    if isinstance(error, requests.ConnectionError):
        if any(isinstance(one, socket.gaierror) for one in _causes(error)):
            told = f"the address of {host} cannot be found: is there a network, or a proxy to name "
            return TransientError(told + "in HTTPS_PROXY?", unreachable=True)
        refused = any(
            isinstance(one, urllib3.exceptions.NewConnectionError) for one in _causes(error)
        )
        return TransientError(f"no connection to {host}: {reason}", unreachable=refused)
    return TransientError(f"the connection to {host} broke: {reason}")


def _is_timeout(error: Exception) -> bool:
    inner = error.args[0] if error.args else None
    kinds = (requests.Timeout, urllib3.exceptions.ReadTimeoutError)
    return isinstance(error, kinds) or isinstance(inner, kinds)


def _innermost(error: Exception) -> str:
    """The cause that says most: the last in the chain of errors wrapped in one another."""
    *_, last = _causes(error)
    return f"{type(last).__name__}: {last}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
