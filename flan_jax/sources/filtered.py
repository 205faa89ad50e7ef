"""A source with some of its rows left out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flan_jax.sources.base import Row, Source
from flan_jax.sources.downloads import AnyDownload
from flan_jax.sources.folder import data_folder
from flan_jax.sources.kept_rows import Kept, kept_rows


@dataclass(frozen=True)
class FilteredSource:
    """The rows of `source` that `keep` keeps.

    Which those are is worked out once, when a split is first read, and written down beside the
    data.

    Attributes:
      source: where the rows come from.
      keep: says of a raw row whether it is used.
    """

    source: Source
    keep: Callable[[Row], bool]

    @property
    def kind(self) -> str:
        """The kind of `source`."""
        return self.source.kind

    def describe(self) -> str:
        """`source` in a few words."""
        return self.source.describe()

    def paths(self) -> tuple[Path, ...]:
        """The full paths of the files of `source`, if it has files."""
        paths = getattr(self.source, "paths", None)
        return paths() if paths is not None else ()

    def check_present(self) -> None:
        """Raises SourceMissingError unless the data are there."""
        self.source.check_present()

    def downloads(self) -> tuple[AnyDownload, ...]:
        """What has to be fetched for `source`."""
        return self.source.downloads()

    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return self.source.splits()

    def num_examples(self, split: str) -> int:
        """Rows of `split` that are kept. Raises SourceError if the data are missing or damaged."""
        return len(_kept(self, split, data_folder()))

    def row(self, split: str, index: int) -> Row:
        """Row `index` of `split`, counting kept rows only.

        Raises:
          SourceError: the data are missing or bad.
          IndexError: there is no such row.
        """
        kept = _kept(self, split, data_folder())
        if not 0 <= index < len(kept):
            raise IndexError(f"{self.describe()}: row {index} of {split}, which has {len(kept)}")
        return self.source.row(split, int(kept[index]))


@functools.cache
def _kept(source: FilteredSource, split: str, folder: Path) -> Kept:
    total = source.source.num_examples(split)
    assert total is not None, f"{source.describe()} is endless: it cannot be looked through"
    paths = source.paths()
    beside = paths[0].parent if paths else None
    read = functools.partial(source.source.row, split)
    return kept_rows(beside, f"{source.describe()} {split}", total, read, source.keep)
