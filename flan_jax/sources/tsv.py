"""Tab-separated files without quoting, as Flan and MGSM use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flan_jax.sources.base import Row, SourceError
from flan_jax.sources.files import FileSource, HashSplits, Rows, read_lines

__all__ = ["HashSplits", "TsvSource", "read_tsv"]


@dataclass(frozen=True)
class TsvSource(FileSource):
    r"""Rows of tab-separated files: every tab ends a field, every ``\n`` a row, quotes are text.

    Attributes:
      files, carve: see `FileSource`.
      columns: names of the columns, in order; if empty, the first line of the file names them.
      escaped: columns in which the two characters ``\n`` stand for a line break.
    """

    columns: tuple[str, ...] = ()
    escaped: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`tsv`."""
        return "tsv"

    def _reader(self) -> tuple[Callable[..., Rows], tuple[Any, ...]]:
        return read_tsv, (tuple(self.columns), tuple(self.escaped))


def read_tsv(path: Path, columns: tuple[str, ...] = (), escaped: tuple[str, ...] = ()) -> Rows:
    """All rows of a tab-separated file.

    Raises:
      SourceError: a line has another number of fields than there are columns, or the header is
        unusable; names file and line.
    """
    lines = read_lines(path)
    first = 1
    if not columns:
        columns, lines, first = _header(path, lines), lines[1:], 2
    for name in escaped:
        if name not in columns:
            raise SourceError(f"{path}: no column {name!r} among {', '.join(columns)}")
    return tuple(_row(path, n, line, columns, escaped) for n, line in enumerate(lines, first))


def _header(path: Path, lines: list[str]) -> tuple[str, ...]:
    names = tuple(lines[0].split("\t")) if lines else ()
    if not all(names) or len(set(names)) != len(names) or not names:
        raise SourceError(
            f"{path}: the first line should name the columns, each once; found {list(names)}. "
            "If the file has no such line, give the source `columns`"
        )
    return names


def _row(
    path: Path, number: int, line: str, columns: tuple[str, ...], escaped: tuple[str, ...]
) -> Row:
    values = line.split("\t")
    if len(values) != len(columns):
        raise SourceError(
            f"{path}: line {number} has {len(values)} fields, expected {len(columns)} "
            f"({', '.join(columns)}): {line[:80]!r}"
        )
    row = dict(zip(columns, values, strict=True))
    for name in escaped:
        row[name] = row[name].replace("\\n", "\n")
    return row
