"""A real HTTP server on this machine that misbehaves on demand, and counts what it serves."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_CHUNK = 1 << 14


@dataclass
class Status:
    """Answers with a status instead of the file."""

    code: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Break:
    """Sends `after` bytes of the body and then `how`: truncate, reset or stall."""

    how: str
    after: int


@dataclass
class Corrupt:
    """Sends the file with its first byte changed."""


@dataclass
class Become:
    """Sends `after` bytes, resets, and has another content from then on."""

    content: bytes
    etag: str
    after: int


Fault = Status | Break | Corrupt | Become


@dataclass
class Resource:
    """A file, and how each request for it goes wrong, in turn; then it goes well."""

    content: bytes
    etag: str | None = '"one"'
    ranges: bool = True
    chunked: bool = False
    pause: float = 0.0  # seconds between chunks
    faults: list[Fault] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """What was asked, answered and served."""

    path: str
    range: str | None
    if_range: str | None
    encoding: str | None
    time: float
    status: int = 0
    served: int = 0


class Server:
    """Serves `files` by path; `requests` are those so far."""

    def __init__(self) -> None:
        self.files: dict[str, Resource] = {}
        self.requests: list[Request] = []
        self.active = 0
        self.most_active = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, path: str, content: bytes, **options) -> str:
        """Serves `content` at `path`; its address."""
        self.files[path] = Resource(content, **options)
        return self.address + path

    def served(self, path: str) -> int:
        """Bytes of the file sent so far."""
        return sum(request.served for request in self.requests if request.path == path)

    def asked(self, path: str) -> list[Request]:
        """Requests for the file."""
        return [request for request in self.requests if request.path == path]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                asked = [self.headers[n] for n in ("Range", "If-Range", "Accept-Encoding")]
                request = Request(self.path, *asked, time.monotonic())
                with server.lock:
                    server.requests.append(request)
                    server.active += 1
                    server.most_active = max(server.most_active, server.active)
                try:
                    _answer(self, server, request)
                finally:
                    with server.lock:
                        server.active -= 1

        return Handler

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.closing.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def _answer(handler: BaseHTTPRequestHandler, server: Server, request: Request) -> None:
    file = server.files.get(handler.path)
    if file is None:
        _send_status(handler, request, Status(404))
        return
    with server.lock:
        fault = file.faults.pop(0) if file.faults else None
    if isinstance(fault, Status):
        _send_status(handler, request, fault)
        return
    content, etag = file.content, file.etag
    if isinstance(fault, Become):
        file.content, file.etag = fault.content, fault.etag
        fault = Break("reset", fault.after)
    if isinstance(fault, Corrupt):
        content = bytes([content[0] ^ 1]) + content[1:]
    start = 0
    if file.ranges and request.range and request.if_range in (None, etag):
        start = int(request.range.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            _send_status(
                handler, request, Status(416, {"Content-Range": f"bytes */{len(content)}"})
            )
            return
    request.status = 206 if start else 200
    handler.send_response(request.status)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    if etag:
        handler.send_header("ETag", etag)
    for name, value in file.headers.items():
        handler.send_header(name, value)
    if file.chunked:
        handler.send_header("Transfer-Encoding", "chunked")
    else:
        handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    _send_body(handler, server, request, file, content[start:], fault)


def _send_status(handler: BaseHTTPRequestHandler, request: Request, status: Status) -> None:
    request.status = status.code
    handler.send_response(status.code)
    handler.send_header("Content-Length", "0")
    for name, value in status.headers.items():
        handler.send_header(name, value)
    handler.end_headers()


def _send_body(
    handler: BaseHTTPRequestHandler,
    server: Server,
    request: Request,
    file: Resource,
    body: bytes,
    fault: Fault | None,
) -> None:
    end = min(len(body), fault.after) if isinstance(fault, Break) else len(body)
    for first in range(0, end, _CHUNK):
        chunk = body[first : min(first + _CHUNK, end)]
        if file.chunked:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        else:
            handler.wfile.write(chunk)
        request.served += len(chunk)
        if file.pause:
            time.sleep(file.pause)
    if not isinstance(fault, Break):
        if file.chunked:
            handler.wfile.write(b"0\r\n\r\n")
        return
    handler.wfile.flush()
    handler.close_connection = True
    if fault.how == "stall":
        server.closing.wait(20)
    elif fault.how == "reset":
        time.sleep(0.05)  # a reset overtakes what is still on its way
        no_lingering = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
        # The handler's own files keep the descriptor alive, and with it the connection.
        handler.rfile.close()
        handler.connection.close()
