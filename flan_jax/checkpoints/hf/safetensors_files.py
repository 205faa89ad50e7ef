"""Reads and writes .safetensors files a tensor, or some rows of one, at a time.

The format (https://github.com/huggingface/safetensors#format): 8 bytes with the header's size N
(little-endian), N bytes of JSON, `{"name": {"dtype": "F32", "shape": [...], "data_offsets":
[start, end]}, "__metadata__": {...}}`, then the data, to which the offsets refer.

The library `safetensors` maps files into memory when it reads, so all that was read counts as the
process's memory, and wants all tensors at once when it writes; here both are bounded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flan_jax.checkpoints.hf.folder import Folder, RangedFile
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "I64": np.int64,
        "I32": np.int32,
        "I16": np.int16,
        "I8": np.int8,
        "U64": np.uint64,
        "U32": np.uint32,
        "U16": np.uint16,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }.items()
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# The library's own limit; a larger number means that this is no safetensors file.
_MAX_HEADER = 100_000_000
_CHUNK_BYTES = 64 << 20
_COLUMNS = 256


class SafetensorsReader:
    """One .safetensors file, its header read and checked.

    Attributes:
      path: for messages.
      infos: tensors by name.
      metadata: the header's `__metadata__`.

    Raises:
      CheckpointError: no safetensors file, or one whose header and size contradict each other.
    """

    def __init__(self, folder: Folder, name: str):
        self._file: RangedFile = folder.open(name)
        self.path = self._file.path
        header, self._data = _read_header(self._file)
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        available = self._file.size - self._data
        self._starts: dict[str, int] = {}
        self.infos: dict[str, TensorInfo] = {}
        end = 0
        for tensor, entry in header.items():
            info, start = _parse_entry(self.path, tensor, entry)
            self.infos[tensor], self._starts[tensor] = info, start
            end = max(end, start + _nbytes(info))
        if end > available:
            raise CheckpointError(
                f"{self.path} is truncated: its header announces {end:,} bytes of data, found"
                f" {available:,}. Copy or download it again."
            )

    def read(self, name: str, index: int | None = None, axis: int = 0) -> np.ndarray:
        """A tensor, or its slice `index` along `axis`; along axis 0 only the slice is read."""
        if index is None:
            return self.read_rows(name, 0, None)
        if axis == 0:
            return self.read_rows(name, index, index + 1)[0]
        return np.ascontiguousarray(np.take(self.read_rows(name, 0, None), index, axis))

    def read_rows(self, name: str, start: int, stop: int | None) -> np.ndarray:
        """Rows `start` up to `stop` (None: the last) along axis 0."""
        shape, dtype = self.infos[name]
        if not shape:
            rows, shape = 1, (1,)
        else:
            rows = shape[0]
        stop = rows if stop is None else min(stop, rows)
        row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        # Bytes first: memoryviews know nothing of bfloat16.
        data = np.empty((stop - start) * row_bytes, np.uint8)
        if data.size:
            offset = self._data + self._starts[name] + start * row_bytes
            self._file.read_into(data.data, offset)
        found = data.view(dtype).reshape(stop - start, *shape[1:])
        return found if self.infos[name].shape else found[0]

    def close(self) -> None:
        self._file.close()


def _read_header(file: RangedFile) -> tuple[dict[str, Any], int]:
    """The header, and where the data starts."""
    if file.size < 8:
        raise CheckpointError(f"{file.path} is truncated: {file.size} bytes, expected 8 or more.")
    size = int.from_bytes(file.read(0, 8), "little")
    if size > _MAX_HEADER or size < 2:
        raise CheckpointError(
            f"{file.path} is not a safetensors file: its first 8 bytes give a header of {size:,}"
            " bytes. (Was a Git LFS pointer or a web page saved under this name?)"
        )
    if 8 + size > file.size:
        raise CheckpointError(
            f"{file.path} is truncated: its header has {size:,} bytes, the file {file.size:,}."
            " Copy or download it again."
        )
    try:
        header = json.loads(file.read(8, size).decode("utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{file.path} is not a safetensors file: its header is not JSON ({error})."
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file.path}: its header is a {type(header).__name__}, not a map.")
    return header, 8 + size


def _parse_entry(path: str, name: str, entry: Any) -> tuple[TensorInfo, int]:
    try:
        kind, shape = entry["dtype"], tuple(int(size) for size in entry["shape"])
        start, end = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the header's entry {name} is damaged: {entry!r}") from error
    if kind not in DTYPES:
        raise CheckpointError(
            f"{path}: {name} has dtype {kind}, known are {', '.join(DTYPES)}. Save the model"
            " unquantised, as float32, bfloat16 or float16."
        )
    info = TensorInfo(shape, DTYPES[kind])
    if start < 0 or end - start != _nbytes(info):
        raise CheckpointError(
            f"{path}: {name} {shape} of {kind} needs {_nbytes(info):,} bytes, its header gives it"
            f" {end - start:,} (offsets {start}, {end}). The file is damaged."
        )
    return info, start


def _nbytes(info: TensorInfo) -> int:
    return int(np.prod(info.shape, dtype=np.int64)) * info.dtype.itemsize


def data_bytes(infos: Mapping[str, TensorInfo]) -> int:
    """Bytes of all tensors' data."""
    return sum(map(_nbytes, infos.values()))


class SafetensorsWriter:
    """One .safetensors file, written in any order, a tensor or a slice of it at a time.

    Args:
      path: of the new file.
      infos: its tensors; the order here is the order in the file.
      metadata: strings for the header; transformers wants `{"format": "pt"}`.

    Raises:
      CheckpointError: the file cannot be made, or a dtype has no name in the format.
    """

    def __init__(
        self, path: str | Path, infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]
    ):
        self.path, self.infos = str(path), dict(infos)
        self._missing = {name: _nbytes(info) for name, info in self.infos.items()}
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        self._starts: dict[str, int] = {}
        offset = 0
        for name, info in self.infos.items():
            if info.dtype not in _NAMES:
                raise CheckpointError(f"{path}: {name} has dtype {info.dtype}, which is unknown.")
            end = offset + _nbytes(info)
            header[name] = {
                "dtype": _NAMES[info.dtype],
                "shape": list(info.shape),
                "data_offsets": [offset, end],
            }
            self._starts[name], offset = offset, end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # The data are aligned to 8 bytes.
        self._data = 8 + len(text)
        try:
            self._file = Path(path).open("wb", buffering=0)  # noqa: SIM115 (closed by `close`)
            self._write_at(0, memoryview(len(text).to_bytes(8, "little") + text))
        except OSError as error:
            raise cannot_write(self.path, error) from error

    @property
    def complete(self) -> bool:
        """Whether all declared tensors have been written."""
        return not any(self._missing.values())

    def write(self, name: str, value: np.ndarray, index: int | None = None, axis: int = 0) -> None:
        """A tensor or its slice `index` along axis 0, cast to the declared dtype.

        A transposed view is copied some rows at a time.
        """
        if name not in self.infos:
            raise CheckpointError(f"{self.path}: tensor {name} was not declared.")
        if index is not None and axis != 0:
            raise ValueError(f"{name}: only slices along axis 0 can be written, found {axis}.")
        info = self.infos[name]
        expected = info.shape if index is None else info.shape[1:]
        if value.shape != expected:
            raise CheckpointError(
                f"{self.path}: {name} is to be written with shape {value.shape}, declared is"
                f" {expected}."
            )
        size = int(np.prod(expected, dtype=np.int64)) * info.dtype.itemsize
        start = self._data + self._starts[name] + (index or 0) * size
        try:
            for chunk in _chunks(value, info.dtype):
                self._write_at(start, chunk.reshape(-1).view(np.uint8).data)
                start += chunk.nbytes
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._missing[name] -= size

    def close(self) -> None:
        """Flushes to the disk.

        Raises:
          CheckpointError: the disk is full, or a declared tensor was not written.
        """
        if self._file.closed:
            return
        try:
            with self._file:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error
        missing = [name for name, left in self._missing.items() if left]
        if missing:
            raise CheckpointError(
                f"{self.path}: {len(missing)} declared tensors were not written whole, among them"
                f" {', '.join(missing[:5])}."
            )

    def _write_at(self, offset: int, data: memoryview) -> None:
        while data:
            count = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[count:], offset + count


def _chunks(value: np.ndarray, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Contiguous pieces of `value` along axis 0, as `dtype`, of some 64 MB."""
    if value.ndim == 0:
        yield np.ascontiguousarray(value, dtype).reshape(1)
        return
    row = max(1, value[:1].size * dtype.itemsize)
    step = max(1, _CHUNK_BYTES // row)
    for start in range(0, value.shape[0], step):
        yield _contiguous(value[start : start + step], dtype)


def _contiguous(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`value` as `dtype` in C order. Some columns at a time: four times as fast if transposed."""
    if value.flags.c_contiguous:
        return np.asarray(value, dtype)
    copy = np.empty(value.shape, dtype)
    for start in range(0, value.shape[-1], _COLUMNS):
        copy[..., start : start + _COLUMNS] = value[..., start : start + _COLUMNS]
    return copy


def cannot_write(path: str, error: OSError) -> CheckpointError:
    """The error for a file that cannot be written."""
    return CheckpointError(f"{path} cannot be written: {error.strerror or error}.")
