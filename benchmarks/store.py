"""Single rows read at random from a store, from ArrayRecord and from Parquet, and checksums.

Run: python benchmarks/store.py [--quick] [--json FILE]

The same generated rows are written in each format; then rows are read at random, one by one, as the
training reader does. Formats take turns and medians are printed: on a shared machine only ratios
mean something. Rows per second are of CPU time where the files are on this machine. The last lines
read the store over HTTP from a server on this machine that answers after a given delay, as object
stores do, for several block sizes: of wall time, since waiting is what it costs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python import array_record_module as array_record

from flan_jax.draws import Draws
from flan_jax.mixing import MixtureDefinition
from flan_jax.sources.parquet import ParquetSource
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.store import Store, build_store, open_store
from flan_jax.store.access import RemoteFolder
from flan_jax.store.reader import load_manifest
from flan_jax.tasks import TaskDefinition, register_task

_NORMAL = random.Random(0)
# About 150 tokens of 4 characters in the median, with a heavy tail.
_LENGTHS = [min(8000, int(600 * _NORMAL.lognormvariate(0, 0.8))) for _ in range(4096)]
_TEXT = "".join(_NORMAL.choice("abcdefghijklmno pqrstuvwxyz ") for _ in range(1 << 16))
DELAY = 0.02  # seconds until the server answers: that of an object store in the same region


def _generate(draws: Draws) -> dict[str, Any]:
    length = _LENGTHS[draws.below(len(_LENGTHS))]
    start = draws.below(len(_TEXT) - length)
    options = [_TEXT[at : at + 12] for at in (draws.below(60_000) for _ in range(4))]
    return {"question": _TEXT[start : start + length], "options": options, "answer": options[0]}


def _template() -> Path:
    path = Path(tempfile.mkstemp(suffix=".yaml")[1])
    path.write_text('templates: [{inputs: "{{ question }}", targets: "{{ answer }}"}]')
    return path


def write(folder: Path, count: int) -> dict[str, Callable[[int], Any]]:
    """Writes `count` rows in each format; gives a function for each that reads a row."""
    source = ProceduralSource("benchmark", _generate, {"train": count})
    register_task(TaskDefinition("store_benchmark", "b", "b", source, _template(), "none"))
    mixture = MixtureDefinition("store_benchmark", {"store_benchmark": 1.0})
    build_store(mixture, folder / "store", splits=["train"])
    rows = [source.row("train", index) for index in range(count)]
    readers: dict[str, Callable[[int], Any]] = {}
    stored = open_store(folder / "store").source("store_benchmark")
    readers["store"] = lambda index: stored.row("train", index)
    for name, options in (("ArrayRecord", "group_size:1,uncompressed"), ("ArrayRecord, zstd", "")):
        path = str(folder / f"{name}.array_record")
        writer = array_record.ArrayRecordWriter(path, options or "group_size:1")
        for row in rows:
            writer.write(msgpack.packb(row))
        writer.close()
        reader = array_record.ArrayRecordReader(path)
        readers[name] = lambda index, r=reader: msgpack.unpackb(r.read([index])[0])
    for size in (100, 1000):
        path = folder / f"{size}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=size)
        parquet = ParquetSource({"train": str(path)})
        readers[f"Parquet, groups of {size}"] = lambda index, p=parquet: p.row("train", index)
    for index in (0, count // 2, count - 1):
        assert all(read(index) == rows[index] for read in readers.values())
    return readers


def rows_per_second(read: Callable[[int], Any], indices: list[int]) -> float:
    """Of CPU time, all threads'."""
    start = time.process_time()
    for index in indices:
        read(index)
    return len(indices) / (time.process_time() - start)


def checksums() -> dict[str, float]:
    """GiB per CPU-second."""
    data = os.urandom(1 << 26)
    found = {}
    makers: dict[str, Callable[[bytes], Any]] = {
        "crc32": zlib.crc32,
        "blake2b": lambda data: hashlib.blake2b(data).digest(),
        "sha256": lambda data: hashlib.sha256(data).digest(),
    }
    for name, make in makers.items():
        times = []
        for _ in range(5):
            start = time.process_time()
            make(data)
            times.append(time.process_time() - start)
        found[name] = len(data) / 2**30 / statistics.median(times)
    return found


class _Slow(BaseHTTPRequestHandler):
    """Serves byte ranges of a folder, each after DELAY."""

    protocol_version = "HTTP/1.1"
    # Headers and body in one packet: else the kernel's delays, not the server's, are measured.
    disable_nagle_algorithm = True
    wbufsize = -1
    root: Path

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        time.sleep(DELAY)
        path = self.root / self.path.lstrip("/")
        size = path.stat().st_size
        start, end = 0, size - 1
        asked = self.headers["Range"]
        if asked:
            start, end = map(int, asked.removeprefix("bytes=").split("-"))
        self.send_response(206 if asked else 200)
        self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("Content-Length", str(end - start + 1))
        self.end_headers()
        if self.command == "GET":
            with path.open("rb") as file:
                file.seek(start)
                self.wfile.write(file.read(end - start + 1))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512  # connections are opened many at a time


def remote(folder: Path, count: int, reads: int) -> dict[str, dict[str, float]]:
    """Rows per second by block size: singly at random, 256 at a time at random, and in order."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    handler = type("Handler", (_Slow,), {"root": folder})
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/store"
    draws = random.Random(1)
    found = {}
    for kib in (16, 64, 128, 512, 2048):
        speeds = {}
        for how in ("single", "batch", "order"):
            rest = RemoteFolder(address, block_bytes=kib * 1024)
            source = Store(rest, load_manifest(rest)).source("store_benchmark")
            source.row("train", 0)
            first = draws.randrange(count - 20 * reads)
            indices = (
                list(range(first, first + 20 * reads))
                if how == "order"
                else draws.sample(range(count), reads)
            )
            start = time.monotonic()
            if how == "batch":
                source.rows("train", indices)
            else:
                for index in indices:
                    source.row("train", index)
            speeds[how] = len(indices) / (time.monotonic() - start)
        found[f"{kib} KiB"] = speeds
    server.shutdown()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--quick", action="store_true", help="20,000 rows, fewer repeats")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    args = parser.parse_args()
    count = 20_000 if args.quick else args.rows
    repeats, reads = (3, 1_000) if args.quick else (5, 5_000)
    draws = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        readers = write(folder, count)
        runs: dict[str, list[float]] = {reader: [] for reader in readers}
        for _ in range(repeats):
            indices = [draws.randrange(count) for _ in range(reads)]
            for reader, read in readers.items():
                few = indices[:100] if reader.startswith("Parquet") else indices
                runs[reader].append(rows_per_second(read, few))
        figures: dict[str, Any] = {
            "rows": count,
            "rows_per_cpu_second": {name: statistics.median(run) for name, run in runs.items()},
            "checksum_gib_per_cpu_second": checksums(),
            "http_rows_per_second": remote(folder, count, 50 if args.quick else 256),
        }
    print(json.dumps(figures, indent=2))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
