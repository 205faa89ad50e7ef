"""Rows as bytes: MessagePack, with what a whole task repeats written once.

The rows of one task and split share a *base*: the long fields of their first row. A row is written
without the fields that are equal to the base's, which for Natural Instructions, whose every row
carries the task's definition and examples, leaves a fraction. Any row is read from its own bytes
and the base alone.

MessagePack has no tuples, and no integers of more than 64 bits: they are extension types 1 and 2.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import msgpack

from flan_jax.sources.base import Row

_TUPLE = 1
_INTEGER = 2
# Fields of fewer bytes are not worth a place in the base.
_SHORTEST_SHARED = 32
# JSON files may hold half a surrogate pair, which is no valid UTF-8 and must still come back.
_TEXT = "surrogatepass"


def _foreign(value: Any) -> Any:
    """What MessagePack itself cannot write exactly. Raises TypeError if nor can we."""
    if isinstance(value, tuple):
        return msgpack.ExtType(_TUPLE, _pack(list(value)))
    if type(value) is int:
        return msgpack.ExtType(_INTEGER, str(value).encode())
    if isinstance(value, str):  # a subclass, such as numpy's
        return str.__str__(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list):
        return list(value)
    raise TypeError(
        f"a value of type {type(value).__module__}.{type(value).__qualname__}: a store holds "
        "text, numbers, True and False, None, lists, tuples and dictionaries"
    )


def _pack(value: Any) -> bytes:
    packed: Any = msgpack.packb(value, default=_foreign, strict_types=True, unicode_errors=_TEXT)
    return packed


def _restored(code: int, data: bytes) -> Any:
    if code == _TUPLE:
        return tuple(_unpack(data))
    if code == _INTEGER:
        return int(data)
    raise ValueError(f"extension type {code}")


_unpack = functools.partial(
    msgpack.unpackb,
    ext_hook=_restored,
    strict_map_key=False,
    unicode_errors=_TEXT,
)


def base_of(first: Row) -> dict[str, Any]:
    """The fields that the other rows of a block are compared with, given its first row.

    Raises TypeError if a value cannot be written; names the field.
    """
    with _naming_field(first):
        return {n: v for n, v in first.items() if len(_pack(v)) >= _SHORTEST_SHARED}


class RowEncoder:
    """Writes the rows of one block.

    Args:
      base: see `base_of`.
    """

    def __init__(self, base: Mapping[str, Any]):
        self._base = dict(base)
        self._bytes = {name: _pack(value) for name, value in base.items()}
        self.base_bytes = _pack(self._base)

    def encode(self, row: Row) -> bytes:
        """One row. Raises TypeError if a value cannot be written; names the field."""
        with _naming_field(row):
            if not self._base.keys() <= row.keys():
                return _pack([dict(row)])  # whole, as it lacks a field of the base
            return _pack({n: v for n, v in row.items() if not self._is_shared(n, v)})

    def _is_shared(self, name: str, value: Any) -> bool:
        if name not in self._base:
            return False
        shared = self._base[name]
        if value is shared:
            return True
        # 1, 1.0 and True are equal, but not the same bytes; texts, nearly all there is, are.
        return value == shared and (type(value) is str or _pack(value) == self._bytes[name])


@contextlib.contextmanager
def _naming_field(row: Row) -> Iterator[None]:
    """Has errors say which field of `row` cannot be written."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise TypeError(f"field {_culprit(row)!r} holds {error}") from None


def _culprit(row: Row) -> str:
    for name, value in row.items():
        try:
            _pack(value)
        except (TypeError, ValueError):
            return name
    return "?"


def decode_base(data: bytes) -> dict[str, Any]:
    """The base of a block. Raises ValueError if the bytes are none."""
    base = _checked(data)
    if type(base) is not dict:
        raise ValueError("not the base of a block of rows")
    return base


def decode(data: bytes, base: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the block with this base. Raises ValueError if the bytes are no row."""
    found = _checked(data)
    if type(found) is dict:
        return {**base, **found}
    if type(found) is list and len(found) == 1 and type(found[0]) is dict:
        return found[0]
    raise ValueError("not a row")


def _checked(data: bytes) -> Any:
    try:
        return _unpack(data)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
