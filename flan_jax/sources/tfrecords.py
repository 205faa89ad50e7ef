"""TFRecord files of `tf.train.Example` messages, read without TensorFlow, and turned into Parquet.

SeqIO caches tasks in such files. Both formats are simple and fixed: a TFRecord file is a sequence
of [length, checksum of the length, bytes, checksum of the bytes] (tensorflow/core/lib/io), and an
Example maps names to lists of byte strings, floats or integers (tensorflow/core/example). A
TFRecord file cannot be read by index, so it is turned into Parquet once.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from flan_jax.sources.base import SourceError

# Rows in a row group: few enough to read one row quickly.
_GROUP = 1000
# The checksum is CRC-32C (polynomial 0x1EDC6F41, reflected), rotated and shifted by a constant.
_POLYNOMIAL, _MASK_DELTA = 0x82F63B78, 0xA282EAD8


def _table() -> tuple[int, ...]:
    values = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
        values.append(byte)
    return tuple(values)


_CRC_TABLE = _table()


def masked_crc32c(content: bytes) -> int:
    """TFRecord's checksum of `content`."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file.

    The checksum of every length is checked, which finds files cut short and files of another kind;
    that of the contents is not, for it would take longer than all the rest.

    Raises:
      SourceError: the file is cut short or is not a TFRecord file; names the record.
    """
    with path.open("rb") as file:
        number = 0
        while header := file.read(12):
            if len(header) == 12:
                length, checksum = struct.unpack("<QI", header)
                if masked_crc32c(header[:8]) != checksum:
                    raise SourceError(
                        f"{path}: record {number} has a wrong checksum: the file is damaged, or no "
                        "TFRecord file; fetch it again"
                    )
                content = file.read(length + 4)
                if len(content) == length + 4:
                    yield content[:-4]
                    number += 1
                    continue
            raise SourceError(f"{path} ends in the middle of record {number}: fetch it again")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, content) of the length-delimited fields of a protocol buffer; others are skipped."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 2:
            length, place = _varint(message, place)
            if place + length > end:
                raise ValueError("a field runs past its message")
            yield key >> 3, message[place : place + length]
            place += length
        elif kind == 0:
            _, place = _varint(message, place)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(message):
            raise ValueError("a number is cut short")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def texts_of(record: bytes, names: Iterable[str]) -> dict[str, list[str]]:
    """The texts of some features of a serialised `tf.train.Example`; missing ones are left out.

    Raises:
      ValueError: `record` is no Example, or a text is not UTF-8.
    """
    wanted = {name.encode(): name for name in names}
    found: dict[str, list[str]] = {}
    for number, features in _fields(memoryview(record)):
        if number != 1:
            continue
        for _, entry in _fields(features):
            parts = dict(_fields(entry))
            name = wanted.get(bytes(parts.get(1, b"")))
            if name is None:
                continue
            for kind, values in _fields(parts.get(2, memoryview(b""))):
                if kind == 1:
                    found[name] = [bytes(value).decode("utf-8") for _, value in _fields(values)]
    return found


def to_parquet(
    source: Path, target: Path, single: tuple[str, ...], several: tuple[str, ...] = ()
) -> int:
    """Writes text features of the Examples in `source` to the Parquet file `target`.

    The file appears under its name when it is whole, so that it may be written by several
    processes at a time and interrupted at any moment.

    Args:
      source: a TFRecord file.
      target: the file to write.
      single: features of exactly one text, which all Examples must have.
      several: features of any number of texts; empty where they are missing.

    Returns:
      the number of rows.

    Raises:
      SourceError: a record is malformed, or `target` cannot be written.
    """
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.string()
    schema = pyarrow.schema(
        [(name, text) for name in single] + [(name, pyarrow.list_(text)) for name in several]
    )
    rows = (
        _row(source, n, record, single, several) for n, record in enumerate(read_records(source))
    )
    count = 0
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(descriptor)
        with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
            while group := list(islice(rows, _GROUP)):
                writer.write_table(pyarrow.Table.from_pylist(group, schema))
                count += len(group)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        raise SourceError(
            f"{source} must be turned into {target} once, which failed: {error}. Make the folder "
            "writable, or do it elsewhere and copy the file"
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
    return count


def _row(
    path: Path, number: int, record: bytes, single: tuple[str, ...], several: tuple[str, ...]
) -> dict[str, Any]:
    where = f"{path}: record {number}"
    try:
        found = texts_of(record, single + several)
    except ValueError as error:  # UnicodeDecodeError is one
        raise SourceError(f"{where} is no tf.train.Example of texts: {error}") from error
    row: dict[str, Any] = {name: found.get(name, []) for name in several}
    for name in single:
        if len(found.get(name, ())) != 1:
            raise SourceError(
                f"{where}: feature {name!r} should hold one text, found {len(found.get(name, ()))} "
                "(is this a cached SeqIO task with pretokenized features?)"
            )
        row[name] = found[name][0]
    return row
