"""Taking members out of zip, tar and gzip files.

Members are written only to paths that the caller chooses, so names in an archive, however
malicious, lead nowhere. Links and devices are refused.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from flan_jax.sources.fetch.errors import FetchError, MismatchError, local_errors
from flan_jax.sources.fetch.parts import write_all
from flan_jax.suggestions import did_you_mean

_BLOCK = 1 << 20


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)


@contextlib.contextmanager
def _damage(archive: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (*_DAMAGED, gzip.BadGzipFile) as error:
        # The name on disk says nothing to the reader; the caller adds the address.
        raise MismatchError(
            f"expected {what}, found {archive.stat().st_size} bytes that cannot be read as one "
            f"({type(error).__name__}: {error})"
        ) from error


def unpack_gzip(archive: Path, target: Path, check: Callable[[], None]) -> None:
    """Writes what the gzip file `archive` holds to `target`.

    Args:
      archive: the gzip file.
      target: the file to write.
      check: called from time to time; raises to stop.

    Raises:
      MismatchError: `archive` is not gzip, or damaged.
    """
    with _damage(archive, "a gzip file"), gzip.open(archive, "rb") as stream:
        _copy(stream, target, check)


def unpack(archive: Path, wanted: Mapping[str, Path], check: Callable[[], None]) -> None:
    """Writes members of a zip or (compressed) tar file to the paths in `wanted`.

    Args:
      archive: the archive; its kind is told by its content.
      wanted: where each member goes.
      check: called from time to time; raises to stop.

    Raises:
      MismatchError: `archive` is neither zip nor tar, or damaged.
      FetchError: a member is missing, or is no regular file.
    """
    with _damage(archive, "a zip or tar file"):
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, wanted, check)
        else:
            _unpack_tar(archive, wanted, check)


def _unpack_zip(archive: Path, wanted: Mapping[str, Path], check: Callable[[], None]) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = {_plain(info.filename): info for info in opened.infolist()}
        _require(wanted, members)
        for name, target in wanted.items():
            info = members[_plain(name)]
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind not in (0, stat.S_IFREG):
                raise FetchError(f"{name} in the archive is not a regular file")
            try:
                with opened.open(info) as stream:
                    _copy(stream, target, check)
            except (RuntimeError, NotImplementedError) as error:  # encrypted, unknown method
                raise FetchError(f"{name} in the archive cannot be unpacked: {error}") from error


def _unpack_tar(archive: Path, wanted: Mapping[str, Path], check: Callable[[], None]) -> None:
    """One pass from the start: going back in a compressed tar file means to read it anew."""
    missing = {_plain(name): target for name, target in wanted.items()}
    seen = []
    with tarfile.open(archive, "r:*") as opened:
        for info in opened:
            check()
            name = _plain(info.name)
            seen.append(name)
            if name not in missing:
                continue
            stream = opened.extractfile(info) if info.isreg() else None
            if stream is None:
                raise FetchError(f"{name} in the archive is not a regular file")
            _copy(stream, missing.pop(name), check)
            if not missing:
                return
    _require(missing, seen)


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _require(wanted: Iterable[str], present: Iterable[str]) -> None:
    known = set(present)
    absent = [name for name in map(_plain, wanted) if name not in known]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise FetchError(
            f"the archive has no member {absent[0]!r}{more}, only {len(known)} others"
            + did_you_mean(absent[0], known)
        )


def _copy(stream: _Readable, target: Path, check: Callable[[], None]) -> None:
    with local_errors():
        output = io.FileIO(target, "w")
    with output:
        while block := stream.read(_BLOCK):
            check()
            write_all(output, block)
