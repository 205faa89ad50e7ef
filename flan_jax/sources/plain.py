"""Values of other libraries, as plain Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flan_jax.sources.base import SourceError


def plain(value: Any, where: str, path: str = "") -> Any:
    """A row, or a part of it, as plain Python: `str` for bytes, lists for arrays.

    Args:
      value: what a library gives; bytes in it must be text.
      where: names the row, for errors.
      path: names the field within the row.

    Raises:
      SourceError: bytes are not UTF-8; names the field, after `where`.
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{where}: field {path!r} is not UTF-8 ({error.reason} at byte {error.start}): "
                f"{value[:60]!r}"
            ) from None
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        prefix = f"{path}." if path else ""
        return {key: plain(part, where, f"{prefix}{key}") for key, part in value.items()}
    if hasattr(value, "dtype") and value.dtype.kind in "biuf":
        return value.tolist()
    if hasattr(value, "dtype") and not value.shape:
        return plain(value.item(), where, path)
    if not isinstance(value, Iterable):  # such as a date, which is plain enough
        return value
    return [plain(part, where, f"{path}[{number}]") for number, part in enumerate(value)]
