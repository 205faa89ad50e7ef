"""What sources that read files share: lazy loading, and splits carved out by content.

A file is read when its first row or its size is asked for, once per process. Where a dataset has
no official validation split, one is carved out of train by a hash of each row's text, so that

* it stays the same on every machine and when rows are added or reordered,
* equal texts never lie on both sides, not even in two datasets that share them (Flan's
  chain-of-thought rows of GSM8K and GSM8K itself).
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flan_jax.draws import stable_hash
from flan_jax.sources import folder
from flan_jax.sources.base import Row, SourceError, check_split
from flan_jax.sources.downloads import AnyDownload

Rows = tuple[Row, ...]


@dataclass(frozen=True)
class HashSplits:
    """Splits carved out of train by a hash of rows' text.

    A row whose hash lies in the lowest `validation` part of all hashes is a validation row, one
    in the highest `test` part a test row. In a file too small for that, the row with the lowest
    (highest) hash is taken, as long as rows with another text are left for training.

    Attributes:
      field: field whose text is hashed, with case and white space evened out.
      validation: part of the rows that goes to `validation`; none if 0.
      test: part of the rows that goes to `test`; none if 0.
    """

    field: str
    validation: float = 0.05
    test: float = 0.0

    def names(self) -> tuple[str, ...]:
        """The splits carved out."""
        parts = {"validation": self.validation, "test": self.test}
        return tuple(name for name, part in parts.items() if part > 0)

    def divide(self, rows: Sequence[Row]) -> dict[str, Rows]:
        """`rows` by split, each in their order."""
        points = [_point(row[self.field]) for row in rows]
        distinct = sorted(set(points))
        low, high = self.validation, 1.0 - self.test
        if self.validation > 0 and distinct and distinct[0] >= low and len(distinct) > 1:
            low = (distinct[0] + distinct[1]) / 2
        if self.test > 0 and distinct and distinct[-1] < high and len(distinct) > 2:
            high = distinct[-1]
        if not any(low <= point < high for point in distinct):
            low, high = 0.0, 1.0
        split: dict[str, list[Row]] = {"train": [], **{name: [] for name in self.names()}}
        for row, point in zip(rows, points, strict=True):
            place = "validation" if point < low else "test" if point >= high else "train"
            split[place].append(row)
        return {name: tuple(members) for name, members in split.items()}


def _point(text: str) -> float:
    """The place of `text` in [0, 1), the same for texts equal up to case and white space."""
    return stable_hash("split", " ".join(text.casefold().split())) / 2.0**64


@functools.cache
def _load_once(read: Callable[..., Any], path: Path, options: tuple[Any, ...]) -> Any:
    return read(path, *options)


@functools.cache
def _divide_once(
    read: Callable[..., Rows], path: Path, options: tuple[Any, ...], carve: HashSplits
) -> dict[str, Rows]:
    return carve.divide(_load_once(read, path, options))


def load_once(read: Callable[..., Any], file: str | Path, *options: Any) -> Any:
    """`read(path, *options)`, once per process; `file` is located in the data folder."""
    return _load_once(read, folder.require(file), options)


@dataclass(frozen=True)
class FileSource(ABC):
    """Rows of files, one file a split, perhaps with more splits carved out of train.

    Attributes:
      files: the file of each split; relative paths are below the data folder.
      carve: how to carve splits out of train, None for no such splits.
    """

    files: Mapping[str, str | Path] = field(hash=False)
    carve: HashSplits | None = None

    def __post_init__(self) -> None:
        if self.carve is None:
            return
        if "train" not in self.files:
            raise SourceError(f"{self.describe()}: there is no train split to carve from")
        for name in self.carve.names():
            if name in self.files:
                raise SourceError(f"{self.describe()}: split {name!r} has a file and is carved too")

    @property
    @abstractmethod
    def kind(self) -> str:
        """The kind of file."""

    @abstractmethod
    def _reader(self) -> tuple[Callable[..., Rows], tuple[Any, ...]]:
        """The function that reads a file, and its (hashable) options."""

    def describe(self) -> str:
        """The names of the files."""
        return ", ".join(dict.fromkeys(str(file) for file in self.files.values()))

    def paths(self) -> tuple[Path, ...]:
        """The full paths of the files, whether they exist or not."""
        return tuple(folder.locate(file) for file in self.files.values())

    def check_present(self) -> None:
        """Raises SourceMissingError unless every file is there."""
        for file in self.files.values():
            folder.require(file)

    def downloads(self) -> tuple[AnyDownload, ...]:
        """Those of the files whose origin is known (see `flan_jax.sources.folder.DATASETS`)."""
        files = dict.fromkeys(self.files.values())
        return tuple(fetch for file in files for fetch in folder.download(file))

    def splits(self) -> tuple[str, ...]:
        """Names of the splits, those carved out included; train comes first."""
        names = {*self.files, *(self.carve.names() if self.carve else ())}
        order = ("train", "validation", "test")
        return tuple(sorted(names, key=lambda n: (order.index(n) if n in order else 3, n)))

    def num_examples(self, split: str) -> int:
        """Rows in `split`. Raises SourceError if its file is missing or malformed."""
        return len(self._rows(split))

    def row(self, split: str, index: int) -> Row:
        """Row `index` of `split`. Raises SourceError on bad data, IndexError past its end."""
        rows = self._rows(split)
        if not 0 <= index < len(rows):
            raise IndexError(f"{self.describe()}: row {index} of {split}, which has {len(rows)}")
        return rows[index]

    def _rows(self, split: str) -> Rows:
        check_split(self, split)
        read, options = self._reader()
        if self.carve is None or (split in self.files and split != "train"):
            return load_once(read, self.files[split], *options)
        path = folder.require(self.files["train"])
        return _divide_once(read, path, options, self.carve)[split]


def read_lines(path: Path) -> list[str]:
    r"""Lines of a UTF-8 file, ended by ``\n`` (or ``\r\n`` throughout) and nothing else.

    `str.splitlines` also breaks at characters that texts may hold, such as U+2028.

    Raises:
      SourceError: the file is not UTF-8; names the line.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SourceError(f"{path}: line {line} is not UTF-8 ({error.reason})") from None
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    if lines and all(line.endswith("\r") for line in lines):
        lines = [line[:-1] for line in lines]
    return lines
