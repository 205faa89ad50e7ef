"""One attempt to bring a file from storage other than HTTP (`gs://`, `s3://`, …) by fsspec."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

from flan_jax.sources.fetch.errors import FetchError, MismatchError, TransientError, local_errors
from flan_jax.sources.fetch.http import CHUNK, Expected, Listener, check_space
from flan_jax.sources.fetch.parts import Part, PartNote, write_all

# What file systems call the thing that changes with the content.
_VALIDATORS = ("etag", "ETag", "md5Hash", "generation", "mtime", "created")


def public_address(url: str) -> str:
    """`gs://` as the HTTPS address of a public bucket, unless gcsfs is there to log in."""
    if url.startswith("gs://") and importlib.util.find_spec("gcsfs") is None:
        return "https://storage.googleapis.com/" + url.removeprefix("gs://")
    return url


def receive(url: str, part: Part, expected: Expected, listener: Listener) -> None:
    """Brings `url` into `part`, from where the part ends if the content is the same.

    Raises:
      TransientError: it failed in a way that may pass; what came is kept in the part.
      MismatchError: the announced length is not the expected one.
      FetchError: it failed for good.
    """
    try:
        import fsspec
    except ImportError:
        raise FetchError(f"{url} needs the package fsspec: pip install fsspec") from None
    try:
        system, path = fsspec.core.url_to_fs(url)
        info = system.info(path)
    except ImportError as error:
        raise FetchError(f"{url} needs another package: {error}") from error
    except ValueError as error:  # an unknown protocol
        raise FetchError(f"{url}: {error}") from error
    except FileNotFoundError:
        raise FetchError(f"{url} does not exist") from None
    except PermissionError as error:
        raise FetchError(f"{url} may not be read: {error}") from error
    except Exception as error:  # each file system has its own kinds
        raise TransientError(f"{url}: {type(error).__name__}: {error}") from error
    total = info.get("size")
    if total is not None and expected.size is not None and total != expected.size:
        raise MismatchError(f"expected {expected.size} bytes, the storage announces {total}")
    offset = _begin(part, PartNote(url, _validator(info), total))
    check_space(part.file.parent, total, offset)
    listener.began(total, offset)
    _copy(system, path, part, offset, listener)
    if total is not None and part.size() < total:
        raise TransientError(f"{url} ended after {part.size()} of {total} bytes")


def _begin(part: Part, note: PartNote) -> int:
    """Where to go on: the part's end if it has the same note."""
    offset = part.size()
    if note.validator and part.note() == note and offset <= (note.total or offset):
        return offset
    with local_errors():
        part.begin(note)
    return 0


def _validator(info: dict[str, Any]) -> str | None:
    return next((str(info[name]) for name in _VALIDATORS if info.get(name)), None)


def _copy(system: Any, path: str, part: Part, offset: int, listener: Listener) -> None:
    with local_errors():
        output = io.FileIO(part.file, "a")
    with output:
        try:
            stream = system.open(path, "rb")
            stream.seek(offset)
        except Exception as error:
            raise TransientError(f"{path}: {type(error).__name__}: {error}") from error
        with stream:
            while True:
                try:
                    chunk = stream.read(16 * CHUNK)
                except Exception as error:
                    raise TransientError(f"{path}: {type(error).__name__}: {error}") from error
                if not chunk:
                    break
                write_all(output, chunk)
                listener.advanced(len(chunk))
