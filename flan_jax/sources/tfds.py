"""Datasets of TensorFlow Datasets (TFDS), read by index without TensorFlow.

TFDS prepares a dataset once, in files of ArrayRecords; from them, any row is read in its turn. The
prepared data lie in the folder that the environment variable `TFDS_DATA_DIR` names (TFDS's own
variable), else in `tensorflow_datasets` below the data folder.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flan_jax.sources.base import Row, SourceError, check_split
from flan_jax.sources.downloads import TfdsDownload
from flan_jax.sources.kept_rows import Kept, kept_rows
from flan_jax.sources.plain import plain
from flan_jax.sources.tfds_folders import BuilderName, tfds_folder
from flan_jax.sources.tfds_prepare import explain_unknown, prepare_builder
from flan_jax.suggestions import did_you_mean

__all__ = ["TfdsSource", "prepare_builder", "tfds_folder"]

_BATCH = 1000


@dataclass(frozen=True)
class TfdsSource:
    """Rows of a TFDS builder, as plain Python values under the builder's own names.

    Text comes as `str`, numbers as `int`, `float` or `bool`, class labels as `int`. A
    `Sequence({"a": ...})` is a dict of lists and nested features are nested dicts.

    Attributes:
      builder: name, config if the builder has any, and version: ``super_glue/rte:1.0.2``. Versions
        differ in their rows, so it cannot be left out.
      read: TFDS's split (or part of one, ``train[:-200]``) for each split of this source.
      keep: says of a raw row whether it is used; all are if None. Which rows it keeps is worked
        out once, and written down beside the prepared data.
      manual: how to get the files that TFDS cannot download by itself; "" if it can.
    """

    builder: str
    read: Mapping[str, str] = field(hash=False)
    keep: Callable[[Row], bool] | None = None
    manual: str = ""

    def __post_init__(self) -> None:
        BuilderName.parse(self.builder)

    @property
    def kind(self) -> str:
        """`tfds`."""
        return "tfds"

    def describe(self) -> str:
        """The builder."""
        return f"TFDS {self.builder}"

    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.read)

    def num_examples(self, split: str) -> int:
        """Rows in `split` that are kept.

        Raises:
          SourceMissingError: the dataset is not prepared on this machine.
          SourceError: there is no such split or builder, or its files are damaged.
        """
        opened = self._open(split)
        return len(opened.rows) if opened.kept is None else len(opened.kept)

    def row(self, split: str, index: int) -> Row:
        """Row `index` of `split`, counting kept rows only.

        Raises:
          SourceError: as for `num_examples`, or the row is damaged; names split, row and field.
          IndexError: there is no such row.
        """
        opened = self._open(split)
        size = len(opened.rows) if opened.kept is None else len(opened.kept)
        if not 0 <= index < size:
            raise IndexError(f"{self.builder}: row {index} of {split}, which has {size}")
        return opened.read(index if opened.kept is None else int(opened.kept[index]))

    def check_present(self) -> None:
        """Raises SourceMissingError unless the dataset is prepared in files read by index."""
        BuilderName.parse(self.builder).require(tfds_folder(), self.manual)

    def downloads(self) -> tuple[TfdsDownload, ...]:
        """The builder, for TFDS to prepare."""
        return (TfdsDownload(self.builder, self.manual),)

    def _open(self, split: str) -> _Opened:
        check_split(self, split)
        import tensorflow_datasets as tfds

        # Open files do not survive a fork. The method is in the key because
        # `tfds.testing.mock_data` replaces it: mocked and real rows must not mix.
        method = tfds.core.DatasetBuilder.as_data_source
        state = (os.getpid(), method)
        return _open(self.builder, self.read[split], self.keep, self.manual, tfds_folder(), state)


@dataclass(frozen=True)
class _Opened:
    """One split of a builder, open for reading; `kept` are the rows to use, all if None."""

    builder: str
    split: str
    rows: Any  # a sequence; TFDS's have `__getitems__` too
    kept: Kept | None = None

    def read(self, index: int) -> Row:
        """Row `index`, not counting which are kept, in plain Python."""
        where = f"TFDS {self.builder}, split {self.split!r}, row {index}"
        try:
            raw = self.rows[index]
        except Exception as error:
            # What TFDS raises for a record that lacks a feature or is cut short depends on the
            # feature.
            raise SourceError(
                f"{where} cannot be read: {type(error).__name__}: {error}. The files are damaged, "
                "or of another version of the dataset: remove them and fetch them again with "
                "`flan-jax data fetch TASK`"
            ) from error
        return plain(raw, where)

    def read_all(self) -> Iterator[Row]:
        """All rows in their order; several times as fast as one by one."""
        for start in range(0, len(self.rows), _BATCH):
            indices = range(start, min(start + _BATCH, len(self.rows)))
            try:
                rows = [plain(raw, "") for raw in self.rows.__getitems__(list(indices))]
            except Exception:
                # One by one, to name the row that is bad (and TFDS's mocked rows come only so).
                rows = map(self.read, indices)
            yield from rows


@functools.cache
def _open(
    builder: str,
    split: str,
    keep: Callable[[Row], bool] | None,
    manual: str,
    folder: Path,
    state: tuple[Any, ...],
) -> _Opened:
    name = BuilderName.parse(builder)
    opened = _Opened(builder, split, _data_source(name, split, manual, folder))
    if keep is None:
        return opened
    # Nowhere to write for a mocked dataset, which is not prepared.
    described, total = f"{builder} {split}", len(opened.rows)
    beside = name.prepared(folder)
    kept = kept_rows(beside, described, total, opened.read, keep, opened.read_all)
    return _Opened(builder, split, opened.rows, kept)


def _data_source(name: BuilderName, split: str, manual: str, folder: Path) -> Any:
    """The rows of a split of a prepared (or mocked) builder."""
    import tensorflow_datasets as tfds

    builder: Any  # wrapped by TFDS so that type checkers see no parameters
    prepared = name.prepared(folder)
    try:
        # A prepared folder holds all that reading needs, even if TFDS no longer has, or has never
        # had, the builder's code; except for a folder of a very old TFDS.
        if prepared is not None and (prepared / "features.json").is_file():
            builder = tfds.builder_from_directory(str(prepared))
        else:
            builder = tfds.builder(str(name), data_dir=str(folder))
    except Exception as error:
        raise explain_unknown(name, error) from error
    try:
        return builder.as_data_source(split=split)
    except Exception as error:
        name.require(folder, manual)
        hint = did_you_mean(split.partition("[")[0], builder.info.splits)
        raise SourceError(
            f"TFDS {name} cannot be read at split {split!r}: {str(error).rstrip('.')}{hint}"
        ) from error
