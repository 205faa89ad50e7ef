"""One split of a task in an open store."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from flan_jax.store.access import Bytes
from flan_jax.store.errors import StoreError
from flan_jax.store.manifest import StoredSplit
from flan_jax.store.rows import decode, decode_base

_PAIR = struct.Struct("<QQ")


class Block:
    """The rows of one split of a task.

    Attributes:
      rows: how many there are.
    """

    __slots__ = ("_base", "_first", "_index", "_shard", "_where", "rows")

    def __init__(
        self, where: str, task: str, split: str, stored: StoredSplit, index: Bytes, shard: Bytes
    ):
        self.rows = stored.rows
        self._where = (where, task, split)
        self._first = stored.first
        self._index = index
        self._shard = shard
        self._base: dict[str, Any] | None = None

    def row(self, number: int) -> dict[str, Any]:
        """Row `number`. Raises StoreError if its bytes are damaged; names the shard."""
        data = self._item(number)
        base = self._base
        try:
            if base is None:
                base = self._base = decode_base(self._item(-1))
            return decode(data, base)
        except ValueError as error:
            raise self._damage(number, str(error)) from None

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Brings the bytes of some rows at once, where a request for each would be slow."""
        fetch = getattr(self._shard, "prefetch", None)
        if fetch is None or not numbers:
            return
        spans = [(8 * (self._first + n), 8 * (self._first + n + 2)) for n in numbers]
        self._index.prefetch(spans)  # type: ignore[attr-defined]  # both files are of one kind
        fetch([self._span(n) for n in numbers])

    def _item(self, number: int) -> bytes:
        start, end = self._span(number)
        return self._shard.read(start, end)

    def _span(self, number: int) -> tuple[int, int]:
        position = 8 * (self._first + number)
        try:
            start, end = _PAIR.unpack(self._index.read(position, position + 16))
        except struct.error:
            raise self._damage(number, "the index ends before it") from None
        if not start < end <= self._shard.size:
            raise self._damage(number, f"the index says that it is at {start} to {end}")
        return start, end

    def _damage(self, number: int, what: str) -> StoreError:
        where, task, split = self._where
        item = f"row {number}" if number >= 0 else "the beginning"
        return StoreError(
            f"{where} is damaged at {item} of {task}, split {split!r} ({what}): "
            "open the store with verify='always' to see all damage, and build it again"
        )
