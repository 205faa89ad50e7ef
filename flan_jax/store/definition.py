"""What decides the rows of a task: its definition, and the state of the files that it reads.

Templates, options and variants are no part of it: they are drawn when a row is read, so changing
them leaves a store as good as it was.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flan_jax.sources import folder
from flan_jax.sources.base import Source, SourceError
from flan_jax.sources.downloads import Download, TfdsDownload
from flan_jax.sources.kept_rows import FOLDER as KEPT_FOLDER
from flan_jax.tasks import TaskDefinition

# Sources of the library are told by their class's name: what they read is part of its contract,
# and a comment in one of their modules should not have terabytes built anew.
_LIBRARY = "flan_jax.sources."


def digest(content: Any) -> str:
    """16 hexadecimal digits of JSON-like content."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def rows_hash(task: TaskDefinition) -> str:
    """16 hexadecimal digits that change with whatever decides the rows of `task`.

    That is its name, its source with all settings, and the modules of the functions that choose or
    change rows; neither its templates nor the contents of its files.
    """
    return digest([task.name, _told(task.source), _told(task.to_fields)])


def _told(value: Any) -> Any:
    """`value` as JSON-like content that is the same in every process."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | bytes | Path | range):
        return repr(value)
    if isinstance(value, re.Pattern):
        return ["pattern", repr(value.pattern), value.flags]
    if isinstance(value, functools.partial):
        return ["partial", _told(value.func), _told(value.args), _told(value.keywords)]
    if isinstance(value, Mapping):
        return ["mapping", sorted(([_told(k), _told(v)] for k, v in value.items()), key=repr)]
    if isinstance(value, set | frozenset):
        return ["set", sorted((_told(part) for part in value), key=repr)]
    if isinstance(value, Sequence):
        return [_told(part) for part in value]
    if isinstance(value, type):
        return ["class", value.__module__, value.__qualname__, _module_digest(value)]
    if dataclasses.is_dataclass(value):
        fields = {f.name: _told(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return [_told(type(value)), _told(fields)]
    if inspect.isroutine(value):
        owner = getattr(value, "__self__", None)
        bound = None if owner is None or inspect.ismodule(owner) else _told(owner)
        return ["function", value.__module__, value.__qualname__, _module_digest(value), bound]
    # Private attributes may be caches.
    attributes = getattr(value, "__dict__", {}).items()
    return [_told(type(value)), _told({n: v for n, v in attributes if not n.startswith("_")})]


def _module_digest(value: Any) -> str:
    name = getattr(value, "__module__", "") or ""
    return "" if name.startswith(_LIBRARY) else _source_digest(inspect.getmodule(value))


@functools.cache
def _source_digest(module: Any) -> str:
    try:
        return digest(inspect.getsource(module))
    except (OSError, TypeError):  # defined in a console, an archive or in C
        return ""


def source_state(source: Source) -> list[list[Any]]:
    """Name, length and time of last change of each file that `source` reads.

    Of a source that reads none of its own, or does not say which, the rows of each split.
    """
    states = [
        [str(path), stat.st_size, stat.st_mtime_ns]
        for place in _places(source)
        for path, stat in _files(place)
    ]
    return states or [[split, _count(source, split)] for split in source.splits()]


def _count(source: Source, split: str) -> int | None:
    try:
        return source.num_examples(split)
    except SourceError:
        return -1  # the build itself will say what is wrong


def _places(source: Any) -> list[Path]:
    """Files and folders that `source` reads."""
    inner = getattr(source, "source", None)
    if inner is not None and hasattr(inner, "splits"):  # such as a filtered one
        return _places(inner)
    if source.kind == "tfds":
        from flan_jax.sources.tfds_folders import BuilderName, tfds_folder

        prepared = BuilderName.parse(source.builder).prepared(tfds_folder())
        return [] if prepared is None else [prepared]
    if hasattr(source, "paths"):
        return list(source.paths())
    if source.kind == "p3":
        own = folder.locate(source.folder)
        return [own] if source.has_records() else _places(source.rerendered)
    if source.kind == "promptsource":
        return [folder.locate(source.template_file), folder.locate(source.rows_folder)]
    return []


def _files(place: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files at and below `place`, without those that reading writes down beside the data."""
    try:
        if not place.is_dir():
            yield place, place.stat()
            return
        for path in sorted(place.rglob("*")):
            if path.is_file() and KEPT_FOLDER not in path.parts:
                yield path, path.stat()
    except OSError:  # not there: the build itself will say so
        return


def left_out(source: Any, split: str) -> int | None:
    """Rows of `split` that the source passes over; None if it does not count them."""
    count: Callable[[str], int] | None = getattr(source, "left_out", None)
    if count is not None:
        return count(split)
    inner = getattr(source, "source", None)
    if inner is not None and hasattr(inner, "num_examples"):
        return inner.num_examples(split) - source.num_examples(split)
    return None


def versions(source: Any) -> list[str]:
    """What of the source's data has a version: checksums of files, names of TFDS builders."""
    try:
        downloads = source.downloads() if hasattr(source, "downloads") else ()
    except SourceError:
        return []
    found = [f"TFDS {d.builder}" for d in downloads if isinstance(d, TfdsDownload)]
    files = [d for d in downloads if isinstance(d, Download) and d.sha256]
    return found + [f"{d.path} sha256:{d.sha256}" for d in files]
