"""A web server that answers as the Hugging Face hub does, for the few requests of a download."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_INFO = re.compile(r"/api/models/([^/]+/[^/]+)/(?:revision|tree)/([^/?]+)")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class FakeHub:
    """Repositories by id: their folder and the commits that revisions stand for.

    Attributes:
      url: for HF_ENDPOINT.
      downloads: names of files whose contents were sent.
    """

    def __init__(self, repositories: dict[str, tuple[Path, dict[str, str]]]):
        self.repositories = repositories
        self.downloads: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def serving(self) -> Iterator[FakeHub]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        info, file = _INFO.match(request.path), _FILE.match(request.path)
        found = info or file
        if found is None or found[1] not in self.repositories:
            return self._refuse(request, "RepoNotFound")
        folder, commits = self.repositories[found[1]]
        commit = commits.get(found[2], found[2] if found[2] in commits.values() else None)
        if commit is None:
            return self._refuse(request, "RevisionNotFound")
        if info:
            return self._send(request, self._describe(request, found[1], commit), {}, body)
        path = folder / found[3]
        if not path.is_file():
            return self._refuse(request, "EntryNotFound")
        data = path.read_bytes()
        if body:
            self.downloads.append(path.name)
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}
        return self._send(request, data, headers, body)

    def _describe(self, request: BaseHTTPRequestHandler, name: str, commit: str) -> bytes:
        files = sorted(self.repositories[name][0].iterdir())
        if "/tree/" in request.path:
            tree = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name}
                for f in files
            ]
            return json.dumps(tree).encode()
        siblings = [{"rfilename": f.name} for f in files]
        return json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode()

    def _send(
        self, request: BaseHTTPRequestHandler, data: bytes, headers: dict[str, str], body: bool
    ) -> None:
        request.send_response(200)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            request.wfile.write(data)

    def _refuse(self, request: BaseHTTPRequestHandler, code: str) -> None:
        request.send_response(404)
        request.send_header("X-Error-Code", code)
        request.send_header("X-Error-Message", code)
        request.send_header("Content-Length", "0")
        request.end_headers()
