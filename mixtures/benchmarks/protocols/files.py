"""Reading a benchmark's files: what is wrong with one is told with its name and row.

Contents are kept as long as a file does not change, because a subtask may be a part of its file.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flan_jax.sources import folder
from flan_jax.sources.base import SourceError
from flan_jax.sources.jsonl import read_jsonl
from flan_jax.sources.tsv import read_tsv

T = TypeVar("T")
_WRONG = (KeyError, IndexError, TypeError, ValueError, AttributeError)


def each(
    path: Path,
    rows: Sequence[Any],
    make: Callable[[int, Any], T],
    places: Sequence[int] | None = None,
) -> list[T]:
    """`make(index, row)` of every row, numbered from 0.

    Args:
      path: the file, for messages.
      rows: all its rows, or some.
      make: what to make of a row.
      places: where in the file `rows` are, counted from 0; None for all of them from its start.

    Raises:
      SourceError: `make` failed; names file and row.
    """
    made = []
    for index, row in enumerate(rows):
        try:
            made.append(make(index, row))
        except _WRONG as error:
            place = places[index] if places is not None else index
            raise SourceError(
                f"{path}: row {place} (from 0) is malformed: {type(error).__name__}: {error}; "
                f"found {str(row)[:120]!r}"
            ) from error
    return made


def by_file(read: Callable[..., Any]) -> Callable[..., Any]:
    """Makes `read(path, …)` a function of a file below the data folder and keeps what it returns.

    It is called again only if the file changed. Callers share the result: they must not change it.
    """
    kept = functools.lru_cache(maxsize=256)(
        lambda path, _changed, _size, *arguments: read(path, *arguments)
    )

    @functools.wraps(read)
    def reader(file: str, *arguments: Any) -> Any:
        path = folder.require(file)
        status = path.stat()
        return kept(path, status.st_mtime_ns, status.st_size, *arguments)

    return reader


@by_file
def json_file(path: Path) -> Any:
    """The value in a JSON file. Raises SourceError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"{path} is not JSON: {error}") from error


@by_file
def json_lines(path: Path) -> Sequence[Any]:
    """The objects of a file of JSON lines. Raises SourceError."""
    return read_jsonl(path)


@by_file
def tsv_rows(path: Path, columns: tuple[str, ...], escaped: tuple[str, ...] = ()) -> Sequence[Any]:
    r"""Rows of a file without header, as dicts; `\n` is a line break in `escaped`."""
    return read_tsv(path, columns, escaped)


@by_file
def csv_rows(path: Path, columns: tuple[str, ...]) -> Sequence[dict[str, str]]:
    """Rows of a CSV file with a header that holds `columns`; all values are text."""
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            rows = list(reader)
        except csv.Error as error:
            raise SourceError(f"{path}: line {reader.line_num}: {error}") from error
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise SourceError(
            f"{path}: the first line should name the columns {', '.join(columns)}; "
            f"missing: {', '.join(missing)}"
        )
    return rows


@by_file
def text_file(path: Path) -> str:
    """The text of a file, its line ends as they are."""
    with path.open(encoding="utf-8", newline="") as lines:
        return lines.read()
