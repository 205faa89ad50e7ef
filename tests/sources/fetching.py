"""What the tests of fetching share: files, quick patience, and processes that fetch."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

from flan_jax.sources.downloads import Download
from flan_jax.sources.fetch import Observer, Outcome, Patience, fetch

QUICK = Patience(attempts=3, first_wait=0.01, stall_timeout=0.3, connect_timeout=2.0)
BIG = random.Random(0).randbytes(400_000)
SMALL = b"one line\n"
ROOT = Path(__file__).resolve().parents[2]


class Notes(Observer):
    """Keeps what is noted, and where attempts began."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.begins: list[tuple[int | None, int]] = []

    def began(self, name: str, total: int | None, done: int) -> None:
        self.begins.append((total, done))

    def noted(self, name: str, message: str) -> None:
        self.notes.append(f"{name}: {message}")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch_one(
    folder: Path,
    url: str,
    path: str = "a/file.bin",
    *,
    sum: str | None = None,
    size: int | None = None,
    **options,
) -> Outcome:
    """Fetches one file; its outcome."""
    options.setdefault("patience", QUICK)
    report = fetch([Download(url, path, sum, size)], folder, **options)
    (outcome,) = report.outcomes
    assert report.complete == outcome.ok
    return outcome


def leftovers(folder: Path) -> list[str]:
    """Files of the state folder that are not records."""
    files = [p for p in (folder / ".fetch").rglob("*") if p.is_file()]
    return [str(p) for p in files if "records" not in p.parts]


def visible(folder: Path) -> set[str]:
    """Files outside of the state folder."""
    files = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
    return {p.as_posix() for p in files if p.parts[0] != ".fetch"}


def script(url: str, folder: Path) -> str:
    """A process that fetches one file to `x` and prints the outcome."""
    return (
        "from pathlib import Path\n"
        "from flan_jax.sources.downloads import Download\n"
        "from flan_jax.sources.fetch import fetch\n"
        f"report = fetch([Download({url!r}, 'x')], Path({str(folder)!r}))\n"
        "print(report.outcomes[0].status, report.outcomes[0].detail)\n"
    )


def start(url: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script(url, folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_part(folder: Path, size: int) -> Path:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for part in (folder / ".fetch/parts").glob("*.part"):
            if part.stat().st_size >= size:
                return part
        time.sleep(0.01)
    raise AssertionError("the download did not get anywhere")
