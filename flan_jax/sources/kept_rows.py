"""Which rows of a large dataset a filter keeps: worked out once, then read from disk."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flan_jax.files import write_atomically
from flan_jax.sources.base import Row, SourceError

logger = logging.getLogger(__name__)

Kept = np.ndarray  # sorted indices of the rows that are kept
FOLDER = "flan_jax_kept_rows"
_CONSTANTS = (str, bytes, int, float, bool, type(None), re.Pattern)
_SLOW = 200_000


def kept_rows(
    beside: Path | None,
    name: str,
    total: int,
    read: Callable[[int], Row],
    keep: Callable[[Row], bool],
    read_all: Callable[[], Iterable[Row]] | None = None,
) -> Kept:
    """Indices of the rows that `keep` keeps, of `total` rows that `read` gives.

    The answer is kept in a file in the folder `beside`, if there is one that can be written to, and
    holds as long as `name`, `total` and the source code of `keep` are the same. A file that is
    damaged is written anew.

    Args:
      beside: a folder of the data, or None.
      name: names the rows.
      total: how many they are.
      read: gives a row.
      keep: says whether to keep a row.
      read_all: gives all rows in their order, where that is faster than `read`.

    Raises:
      SourceError: `keep` failed at a row; names the row.
    """
    source = fingerprint(keep)
    rows = read_all or functools.partial(map, read, range(total))
    if beside is None or source is None:
        return _work_out(name, total, rows, keep)
    key = hashlib.sha256(f"{name}\n{source}".encode()).hexdigest()[:24]
    path = beside / FOLDER / f"{key}.json"
    known = _load(path, total)
    if known is not None:
        return known
    kept = _work_out(name, total, rows, keep)
    left_out = np.setdiff1d(np.arange(total), kept, assume_unique=True)
    content = {"rows": name, "total": total, "left_out": left_out.tolist()}
    try:
        write_atomically(path, json.dumps(content) + "\n")
    except OSError as error:  # a folder shared by many may be for reading only
        logger.info("which rows of %s are kept is not written down: %s", name, error)
    return kept


def _load(path: Path, total: int) -> Kept | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["total"] != total:
            return None
        left_out = np.asarray(content["left_out"], dtype=np.int64).reshape(-1)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    if len(left_out) and not (left_out.min() >= 0 and left_out.max() < total):
        return None
    return np.setdiff1d(np.arange(total), left_out)


def _work_out(
    name: str, total: int, rows: Callable[[], Iterable[Row]], keep: Callable[[Row], bool]
) -> Kept:
    if total > _SLOW:
        logger.info("looking through the %d rows of %s for those to keep, once", total, name)
    kept = []
    for index, row in enumerate(rows()):
        try:
            wanted = keep(row)
        except Exception as error:
            raise SourceError(
                f"{name}: the filter {keep!r} failed at row {index}: {type(error).__name__}: "
                f"{error}; the row's fields are {', '.join(row)}"
            ) from error
        if wanted:
            kept.append(index)
    return np.asarray(kept, dtype=np.int64)


def fingerprint(function: Callable[..., Any]) -> str | None:
    """A hash of a function's name and source, and of what it uses of its module.

    That is: constants, and functions of the same module, whose hash is taken in the same way. None
    if there is no source to read, as for a function typed at a prompt.
    """
    try:
        parts = sorted(_parts(function, set()))
    except (OSError, TypeError, ValueError):
        return None
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _parts(function: Callable[..., Any], seen: set[int]) -> list[str]:
    if isinstance(function, functools.partial):
        given = f"{function.args!r} {sorted(function.keywords.items())!r}"
        return [given, *_parts(function.func, seen)]
    if id(function) in seen:
        return []
    seen.add(id(function))
    name = f"{function.__module__}.{function.__qualname__}"
    parts = [f"{name}\n{inspect.getsource(function)}"]
    variables = inspect.getclosurevars(function)
    used: Mapping[str, Any] = {**variables.globals, **variables.nonlocals}
    for key, value in used.items():
        if _is_constant(value):
            parts.append(f"{name} {key} = {value!r}")
        elif inspect.isfunction(value) and value.__module__ == function.__module__:
            parts.extend(_parts(value, seen))
    return parts


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_constant(part) for part in value)
    return isinstance(value, _CONSTANTS)
