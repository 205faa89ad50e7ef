"""Files of JSON lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flan_jax.sources.base import Row, SourceError
from flan_jax.sources.files import FileSource, HashSplits, Rows, read_lines
from flan_jax.suggestions import did_you_mean

__all__ = ["HashSplits", "JsonlSource", "read_jsonl"]


@dataclass(frozen=True)
class JsonlSource(FileSource):
    """Rows of files with a JSON object on every line; blank lines are passed over.

    Attributes:
      files, carve: see `FileSource`.
      texts: fields that every row must hold as text.
    """

    texts: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`jsonl`."""
        return "jsonl"

    def _reader(self) -> tuple[Callable[..., Rows], tuple[Any, ...]]:
        needed = tuple(self.texts)
        if self.carve is not None and self.carve.field not in needed:
            needed = (*needed, self.carve.field)
        return read_jsonl, (needed,)


def read_jsonl(path: Path, texts: tuple[str, ...] = ()) -> Rows:
    """All rows of a file of JSON lines.

    Raises:
      SourceError: a line is not a JSON object or lacks one of `texts`; names file, line and field.
    """
    lines = enumerate(read_lines(path), 1)
    return tuple(_row(path, number, line, texts) for number, line in lines if line.strip())


def _row(path: Path, number: int, line: str, texts: tuple[str, ...]) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}: line {number} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise SourceError(f"{path}: line {number} holds no object, found {line[:80]!r}")
    for name in texts:
        if name not in row:
            raise SourceError(
                f"{path}: line {number} has no field {name!r}, only {', '.join(row)}"
                + did_you_mean(name, row)
            )
        if not isinstance(row[name], str):
            raise SourceError(
                f"{path}: line {number}: field {name!r} must be text, found {row[name]!r}"
            )
    return row
