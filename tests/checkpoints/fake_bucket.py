"""A server that answers like Google Cloud Storage's JSON API, from a local folder."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse


def _handler(root: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlparse(self.path)
            key = unquote(url.path.partition("/o")[2].lstrip("/"))
            if not key:
                self._answer(200, json.dumps({"items": self._items(parse_qs(url.query))}).encode())
                return
            file = root / key
            if not file.is_file():
                self._answer(404, b"{}")
                return
            data, wanted = file.read_bytes(), self.headers.get("Range")
            if wanted is None:
                self._answer(200, data)
                return
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first)
            part = data[start : int(last) + 1 if last else None]
            self._answer(206, part, f"bytes {start}-{start + len(part) - 1}/{len(data)}")

        def _items(self, query: dict[str, list[str]]) -> list[dict[str, str]]:
            start = query.get("startOffset", [""])[0]
            end = query.get("endOffset", ["\uffff"])[0]
            keys = (f.relative_to(root).as_posix() for f in root.rglob("*") if f.is_file())
            return [{"name": k, "generation": "1"} for k in sorted(keys) if start <= k < end]

        def _answer(self, status: int, body: bytes, content_range: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("x-goog-generation", "1")
            if content_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

    return Handler


@contextmanager
def bucket_server(root: Path) -> Iterator[str]:
    """The address of a server whose every bucket holds the files below `root`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
