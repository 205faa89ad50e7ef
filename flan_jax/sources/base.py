"""What every source of raw rows offers: named splits of rows that are read by index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from flan_jax.errors import UserError
from flan_jax.sources.downloads import AnyDownload
from flan_jax.suggestions import did_you_mean

Row = Mapping[str, Any]


class SourceError(UserError):
    """A source is missing or holds bad data; the message names the file, row and field."""


class SourceMissingError(SourceError):
    """The source's files are not on this machine; the message says where to put them."""


@runtime_checkable
class Source(Protocol):
    """Rows of one dataset, by split and index.

    Reading is lazy: making a source touches neither disk nor network, so that thousands of tasks
    can be registered at no cost.
    """

    @property
    def kind(self) -> str:
        """The kind of source, for listings: ``procedural``, ``tsv``, ``jsonl`` …"""
        ...

    def describe(self) -> str:
        """Where the rows come from, in a few words."""
        ...

    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        ...

    def num_examples(self, split: str) -> int | None:
        """Rows in `split`; None when it is endless. Raises SourceError if unreadable."""
        ...

    def row(self, split: str, index: int) -> Row:
        """Row `index` (from 0) of `split`.

        Raises:
          SourceError: the data are bad.
          IndexError: there is no such row.
        """
        ...

    def check_present(self) -> None:
        """Looks whether the data are on this machine, without reading them.

        Raises:
          SourceMissingError: they are not; says what is missing and how to get it.
        """
        ...

    def downloads(self) -> tuple[AnyDownload, ...]:
        """What has to be fetched for this source; empty if nothing can or need be."""
        ...


def check_split(source: Source, split: str) -> None:
    """Raises SourceError unless `source` has `split`."""
    if split not in source.splits():
        raise SourceError(
            f"{source.describe()} has no split {split!r}, only {', '.join(source.splits())}"
            + did_you_mean(split, source.splits())
        )
