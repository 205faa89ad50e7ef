"""Datasets of the Hugging Face Hub, from the Parquet files into which the Hub converts them.

Decision: the files are read directly, without the `datasets` library. The Hub serves every public
dataset as Parquet, on a branch of its own, so that

* a dataset's loading script (which `datasets` no longer runs, and which ran others' code) is not
  needed,
* files come by plain HTTP, with the same checksums, resumption and mirrors as all others,
* there is neither a second cache nor a heavy dependency.

What is lost is data that only `datasets` makes out, such as decoded images; text needs none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from flan_jax.sources.base import Row, SourceError
from flan_jax.sources.downloads import Download
from flan_jax.sources.files import HashSplits
from flan_jax.sources.parquet import ParquetSource

FOLDER = "huggingface"
ENDPOINT_VARIABLE = "HF_ENDPOINT"  # the Hub's own name for it
DEFAULT_ENDPOINT = "https://huggingface.co"
CONVERTED = "refs/convert/parquet"


@dataclass(frozen=True)
class HuggingFaceSource:
    """Rows of a dataset of the Hub, in plain Python; class labels are their numbers.

    The files lie in ``huggingface/<dataset>/<config>/<split>/0000.parquet`` … of the data folder.

    Attributes:
      dataset: its name on the Hub, ``EdinburghNLP/xsum``.
      config: its configuration; ``default`` for a dataset that has only one.
      read: the Hub's split for each split of this source.
      revision: the branch or commit with the Parquet files. A commit of that branch pins the data.
      shards: of how many files a split of the Hub consists, where it is more than one.
      carve: splits to carve out of train, see `FileSource`.
      columns: the columns to read; all if empty.
    """

    dataset: str
    config: str = "default"
    read: Mapping[str, str] = field(
        default_factory=lambda: {name: name for name in ("train", "validation", "test")}, hash=False
    )
    revision: str = CONVERTED
    shards: Mapping[str, int] = field(default_factory=dict, hash=False)
    carve: HashSplits | None = None
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split, count in self.shards.items():
            if split not in self.read.values() or count < 1:
                raise SourceError(
                    f"{self.describe()}: shards {split!r}: {count} must be a positive number for "
                    f"one of the splits that are read: {', '.join(self.read.values())}"
                )
        self._parquet()  # its own checks

    @property
    def kind(self) -> str:
        """`huggingface`."""
        return "huggingface"

    def describe(self) -> str:
        """Dataset and configuration."""
        return f"Hugging Face {self.dataset} ({self.config})"

    def paths(self) -> tuple[Path, ...]:
        """The full paths of the files, whether they exist or not."""
        return self._parquet().paths()

    def splits(self) -> tuple[str, ...]:
        """Names of the splits, those carved out included; train comes first."""
        return self._parquet().splits()

    def num_examples(self, split: str) -> int:
        """Rows in `split`. Raises SourceError if a file is missing or damaged."""
        return self._parquet().num_examples(split)

    def row(self, split: str, index: int) -> Row:
        """Row `index` of `split`. Raises SourceError on bad data, IndexError past its end."""
        return self._parquet().row(split, index)

    def check_present(self) -> None:
        """Raises SourceMissingError unless every file is there."""
        self._parquet().check_present()

    def downloads(self) -> tuple[Download, ...]:
        """The files, from the Hub or the mirror that `HF_ENDPOINT` names."""
        endpoint = (os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT).rstrip("/")
        base = f"{endpoint}/datasets/{quote(self.dataset)}/resolve/{quote(self.revision, safe='')}"
        return tuple(
            Download(f"{base}/{quote(self.config)}/{quote(split)}/{name}", path)
            for split in dict.fromkeys(self.read.values())
            for name, path in self._files(split)
        )

    def _files(self, split: str) -> list[tuple[str, str]]:
        """Names of a split's files on the Hub, and where they lie in the data folder."""
        names = (f"{number:04}.parquet" for number in range(self.shards.get(split, 1)))
        return [(name, f"{FOLDER}/{self.dataset}/{self.config}/{split}/{name}") for name in names]

    def _parquet(self) -> ParquetSource:
        files = {
            split: tuple(path for _, path in self._files(hub)) for split, hub in self.read.items()
        }
        return ParquetSource(files, self.carve, columns=self.columns)
