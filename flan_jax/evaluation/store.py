"""What a model wrote, on disk: stored as it comes, found again after an interruption.

A `PredictionStore` is one JSON-lines file for a checkpoint and a protocol. Lines are only ever
appended, a batch at a time and followed by fsync, so that a crash costs at most the batch in hand;
what it tore is cut off when the file is next opened.

Outputs are stored as they are, before stop strings, votes and scorers: how they are judged may
change without anything being generated again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flan_jax.errors import UserError
from flan_jax.evaluation.requests import Request
from flan_jax.files import write_atomically

try:
    import fcntl
except ImportError:  # Not on Windows; there, two writers of one file are not told apart.
    fcntl = None

FORMAT = 2
EOS, LENGTH, RANKED = "eos", "length", "ranked"


class StoreError(UserError):
    """A store's file is damaged, belongs to something else, or is in use."""


@dataclass(frozen=True)
class Generation:
    """One output of a model.

    Attributes:
      output: the text up to the end-of-sequence id; empty where options were ranked.
      ended: `eos`; `length`, if the decoded length ended it; or `ranked`.
      logprob: of its tokens under the model, in nats; None if nobody asked.
      scores: where options were ranked, the log-probability of each, in nats.
      tokens: how many tokens each of these options has.
    """

    output: str
    ended: str = EOS
    logprob: float | None = None
    scores: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()


def file_safe(name: str) -> str:
    """`name` with everything that is awkward in file names replaced by `-`."""
    return re.sub(r"[^\w.=+-]+", "-", name).strip("-.") or "unnamed"


class PredictionStore:
    """Outputs of one checkpoint under one protocol.

    An output is found by item, prompt digest, decoding and path (which of several samples it is):
    one made for other words, or decoded in another way, is never taken for this one.
    """

    def __init__(self, folder: Path | str, checkpoint: str, protocol: str, decoding: str):
        """Opens or begins the store `<folder>/<checkpoint>/<protocol>.jsonl`.

        Args:
          folder: where stores are kept.
          checkpoint: identifies the parameters, such as `<run>-<step>` or a hash.
          protocol: the protocol's `store_name`.
          decoding: the protocol's `decoding()`.

        Raises:
          StoreError: the file is damaged before its last line, or belongs to something else.
        """
        self.checkpoint = checkpoint
        self.protocol = protocol
        self.decoding = decoding
        self.path = Path(folder) / file_safe(checkpoint) / f"{file_safe(protocol)}.jsonl"
        self._found: dict[tuple[str, str, str, int], Generation] = {}
        self._file: Any = None
        self._good_bytes = 0
        if self.path.exists():
            self._load()

    def _load(self) -> None:
        data = self.path.read_bytes()
        whole, newline, torn = data.rpartition(b"\n")
        lines = whole.split(b"\n") if newline else []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if number == 1:
                    self._check_header(row)
                else:
                    key = (row["item"], row["prompt"], row["decoding"], row["path"])
                    self._found[key] = _generation(row)
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(
                    f"{self.path}, line {number}: not a stored output ({error}); "
                    "delete the file to generate its outputs anew"
                ) from error
        self._good_bytes = len(data) - len(torn)

    def _check_header(self, row: Mapping[str, Any]) -> None:
        expected = {"format": FORMAT, "checkpoint": self.checkpoint, "protocol": self.protocol}
        if row.get("format") != FORMAT:
            raise StoreError(
                f"{self.path} has format {row.get('format')}, expected {FORMAT}: it was written by "
                "another version of flan_jax; use another folder"
            )
        if dict(row) != expected:
            raise StoreError(
                f"{self.path} belongs to {row}, expected {expected}; use another folder"
            )

    def __len__(self) -> int:
        return len(self._found)

    def get(self, request: Request, path: int = 0) -> Generation | None:
        """The stored output for `request`, or None."""
        return self._found.get((request.id, request.digest, self.decoding, path))

    def append(self, outputs: Iterable[tuple[Request, int, Generation]]) -> None:
        """Writes a batch of (request, path, output); when this returns, it is on disk.

        Raises:
          StoreError: another process is writing this file.
        """
        if self._file is None:
            self._open()
        rows = []
        for request, path, generation in outputs:
            key = (request.id, request.digest, self.decoding, path)
            self._found[key] = generation
            rows.append(json.dumps(_row(key, generation), ensure_ascii=False) + "\n")
        self._write("".join(rows))

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab")  # noqa: SIM115 (kept open; see close)
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.close()
                raise StoreError(
                    f"{self.path} is being written by another process; wait for it, or use "
                    "another folder"
                ) from None
            except OSError:
                pass  # Some network file systems have no locks.
        if self._file.tell() > self._good_bytes:
            self._file.truncate(self._good_bytes)
        if self._good_bytes == 0:
            header = {"format": FORMAT, "checkpoint": self.checkpoint, "protocol": self.protocol}
            self._write(json.dumps(header) + "\n")
            _sync_folder(self.path.parent)

    def _write(self, text: str) -> None:
        self._good_bytes += self._file.write(text.encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Lets go of the file; the next `append` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> PredictionStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _row(key: tuple[str, str, str, int], generation: Generation) -> dict[str, Any]:
    """A line of the file."""
    row: dict[str, Any] = dict(zip(("item", "prompt", "decoding", "path"), key, strict=True))
    row |= {"output": generation.output, "ended": generation.ended}
    row |= {} if generation.logprob is None else {"logprob": generation.logprob}
    if generation.scores:
        row |= {"scores": list(generation.scores), "tokens": list(generation.tokens)}
    return row


def _generation(row: Mapping[str, Any]) -> Generation:
    """Undoes `_row`. Raises KeyError."""
    scores, tokens = tuple(row.get("scores", ())), tuple(row.get("tokens", ()))
    return Generation(row["output"], row["ended"], row.get("logprob"), scores, tokens)


def _sync_folder(folder: Path) -> None:
    """Makes a new name in `folder` survive a power cut, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def write_task_predictions(
    folder: Path, task: str, step: int, rows: Iterable[Mapping[str, Any]]
) -> Path:
    """Writes `<folder>/<task>-<step>.jsonl`, named as T5X does; returns the path."""
    path = folder / f"{file_safe(task)}-{step:06d}.jsonl"
    write_atomically(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return path


def write_task_metrics(
    folder: Path, task: str, step: int, metrics: Mapping[str, float | int | None]
) -> Path:
    """Adds the row of `step` to `<folder>/<task>-metrics.jsonl`; returns the path.

    A row of the same step is replaced, so that a step evaluated twice counts once.
    """
    path = folder / f"{file_safe(task)}-metrics.jsonl"
    rows: dict[int, str] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                rows[json.loads(line)["step"]] = line
    rows[step] = json.dumps({"step": step, **metrics})
    write_atomically(path, "".join(rows[key] + "\n" for key in sorted(rows)))
    return path
