"""Parquet files, read a group of rows at a time."""

from __future__ import annotations

import bisect
import functools
import itertools
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flan_jax.sources import folder
from flan_jax.sources.base import Row, SourceError, SourceMissingError, check_split
from flan_jax.sources.downloads import AnyDownload
from flan_jax.sources.files import FileSource, HashSplits
from flan_jax.sources.plain import plain
from flan_jax.suggestions import did_you_mean

__all__ = ["HashSplits", "ParquetRows", "ParquetSource"]

# Decoded groups of rows that are kept, per split, as columns rather than as Python objects.
_KEPT_BYTES = 256 * 2**20
_WILD = re.compile(r"[*?\[]")
_SHARD = re.compile(r".*-of-(?P<count>\d+)\.\w+")

Files = str | Path | tuple[str | Path, ...]


@dataclass(frozen=True)
class ParquetSource(FileSource):
    """Rows of Parquet files, in plain Python: text, numbers, lists, dicts, None.

    A file of any length can be read: a row costs the decoding of its group of rows, unless that is
    still at hand. (Write files with groups of some thousands of rows.)

    Attributes:
      files: for each split a file, several files, or a pattern such as ``xsum/train-*.parquet``
        whose matches are read in the order of their names.
      carve: see `FileSource`.
      columns: the columns to read; all if empty.
      texts: columns that every row must hold as text.
    """

    files: Mapping[str, Files] = field(hash=False)  # pyright: ignore[reportIncompatibleVariableOverride]
    columns: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`parquet`."""
        return "parquet"

    def describe(self) -> str:
        """The names of the files, as given; the first of several."""
        names = (str(_several(files)[0]) for files in self.files.values())
        return ", ".join(dict.fromkeys(names))

    def paths(self) -> tuple[Path, ...]:
        """The full paths of the files; a pattern that nothing matches stands for itself."""
        return tuple(path for files in self.files.values() for path in _located(files))

    def check_present(self) -> None:
        """Raises SourceMissingError unless every file is there, and every part of a file."""
        for files in self.files.values():
            _require(files)

    def downloads(self) -> tuple[AnyDownload, ...]:
        """Those of the files whose origin is known; none of a pattern's."""
        files = dict.fromkeys(file for files in self.files.values() for file in _several(files))
        return tuple(
            fetch for file in files if not _is_pattern(file) for fetch in folder.download(file)
        )

    def _reader(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # Unlike other kinds, it is given all the files of a split.
        return _open_once, (tuple(self.columns), self._needed())

    def _needed(self) -> tuple[str, ...]:
        carved = () if self.carve is None else (self.carve.field,)
        return tuple(dict.fromkeys((*self.texts, *carved)))

    def _rows(self, split: str) -> Any:
        check_split(self, split)
        carved = self.carve is not None and (split not in self.files or split == "train")
        files = _require(self.files["train" if carved else split])
        read, options = self._reader()
        rows = read(files, *options)
        if not carved:
            return rows
        assert self.carve is not None
        return _Selected(rows, _divide_once(rows, self.carve)[split])


class ParquetRows(Sequence[Row]):
    """The rows of some Parquet files, one after the other.

    Raises:
      SourceError: at once if a file is not Parquet or lacks a column, or at a row whose text is
        damaged; names file, row and field.
    """

    def __init__(
        self, files: tuple[Path, ...], columns: tuple[str, ...] = (), texts: tuple[str, ...] = ()
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._texts = texts
        self._columns = list(dict.fromkeys((*columns, *texts))) if columns else None
        self._readers = []
        self._groups: list[tuple[int, int]] = []  # (file, group in the file)
        starts = [0]
        self._file_starts = []
        for number, file in enumerate(files):
            try:
                reader = pq.ParquetFile(file, memory_map=True)
            except (pa.ArrowException, OSError) as error:
                raise SourceError(f"{file} cannot be read as Parquet: {error}") from None
            _check_columns(file, reader.schema_arrow.names, (*columns, *texts))
            self._readers.append((file, reader))
            self._file_starts.append(starts[-1])
            for group in range(reader.metadata.num_row_groups):
                self._groups.append((number, group))
                starts.append(starts[-1] + reader.metadata.row_group(group).num_rows)
        self._starts = starts
        self._decoded: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()  # a reader serves one thread at a time

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect.bisect_right(self._starts, index) - 1
        with self._lock:
            table = self._group(number)
        file = self._groups[number][0]
        where = f"{self._readers[file][0]}: row {index - self._file_starts[file]}"
        row = {}
        for name, column in zip(table.column_names, table.columns, strict=True):
            try:
                value = column[index - self._starts[number]].as_py()
            except UnicodeDecodeError as error:
                raise SourceError(
                    f"{where}: field {name!r} is not UTF-8 ({error.reason})"
                ) from None
            row[name] = plain(value, where, name)
        for name in self._texts:
            if not isinstance(row[name], str):
                raise SourceError(f"{where}: field {name!r} must be text, found {row[name]!r}")
        return row

    def column(self, name: str) -> list[Any]:
        """All values of a column."""
        with self._lock:
            tables = (
                reader.read_row_group(group, columns=[name], use_threads=False)
                for _, reader in self._readers
                for group in range(reader.metadata.num_row_groups)
            )
            return list(itertools.chain.from_iterable(table[name].to_pylist() for table in tables))

    def _group(self, number: int) -> Any:
        """A group of rows, decoded."""
        import pyarrow as pa

        if number in self._decoded:
            self._decoded.move_to_end(number)
            return self._decoded[number]
        file, group = self._groups[number]
        path, reader = self._readers[file]
        try:
            # Without threads: Arrow's do not survive a fork.
            table = reader.read_row_group(group, columns=self._columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            first = self._starts[number] - self._file_starts[file]
            raise SourceError(f"{path} is damaged in the rows from {first} on: {error}") from None
        self._decoded[number] = table
        while len(self._decoded) > 1 and self._decoded_bytes() > _KEPT_BYTES:
            self._decoded.popitem(last=False)
        return table

    def _decoded_bytes(self) -> int:
        return sum(table.nbytes for table in self._decoded.values())


class _Selected(Sequence[Row]):
    """Some of the rows of a file."""

    def __init__(self, rows: ParquetRows, indices: Sequence[int]) -> None:
        self._all = rows
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return self._all[self._indices[index]]


@functools.cache
def _open_once(
    files: tuple[Path, ...], columns: tuple[str, ...], texts: tuple[str, ...]
) -> ParquetRows:
    return ParquetRows(files, columns, texts)


@functools.cache
def _divide_once(rows: ParquetRows, carve: HashSplits) -> dict[str, tuple[int, ...]]:
    texts = rows.column(carve.field)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            rows[index]  # raises, naming the file, the row and the field
    numbered = [{carve.field: text, "index": index} for index, text in enumerate(texts)]
    parts = carve.divide(numbered)
    return {name: tuple(row["index"] for row in part) for name, part in parts.items()}


def _check_columns(file: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in found:
            raise SourceError(
                f"{file} has no column {name!r}, only {', '.join(found)}{did_you_mean(name, found)}"
            )


def _several(files: Files) -> tuple[str | Path, ...]:
    return files if isinstance(files, tuple) else (files,)


def _is_pattern(file: str | Path) -> bool:
    return _WILD.search(Path(file).name) is not None


def _located(files: Files) -> tuple[Path, ...]:
    """The full paths of `files`, patterns being replaced with what they match, if anything."""
    found: list[Path] = []
    for file in _several(files):
        path = folder.locate(file)
        matches = sorted(path.parent.glob(path.name)) if _is_pattern(file) else []
        found.extend(matches or [path])
    return tuple(found)


def _require(files: Files) -> tuple[Path, ...]:
    """`_located`, for files that must all be there.

    Raises:
      SourceMissingError: one is not, or one of the parts that the names speak of.
    """
    for file in _several(files):
        if not _is_pattern(file):
            folder.require(file)
            continue
        matches = _located(file)
        if not matches[0].is_file():
            raise SourceMissingError(f"no file matches {folder.locate(file)}")
        counts = {m["count"] for m in map(_SHARD.fullmatch, map(str, matches)) if m is not None}
        if len(counts) == 1 and len(matches) != int(*counts):
            raise SourceMissingError(
                f"{folder.locate(file)}: found {len(matches)} of {int(*counts)} files; get the rest"
            )
    return _located(files)
