"""Small files of a checkpoint, on a local disk or in a bucket (`gs://…`), through TensorStore.

A bucket that cannot be read is an error within seconds, not after TensorStore's default of many
minutes of retries. Access is by application-default credentials, or none for public buckets.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import tensorstore

from flan_jax.checkpoints.tensors import CheckpointError

_SCHEME = "gs://"
_RETRIES = {"max_retries": 3, "initial_delay": "500ms", "max_delay": "2s"}
TIMEOUT_S = 60.0  # of one request for headers or small files


def is_remote(path: str | Path) -> bool:
    """Whether `path` names something that is not on this machine's disks."""
    return str(path).startswith(_SCHEME)


def join(path: str | Path, *names: str) -> str:
    """`path/name/…`, whatever kind `path` is."""
    return "/".join([str(path).rstrip("/"), *names])


def absolute(path: str | Path) -> str:
    """`path` without a trailing slash; a local one in full (TensorStore refuses `..`)."""
    if is_remote(path):
        return max(str(path).rstrip("/"), _SCHEME, key=len)
    return str(Path(path).expanduser().resolve())


@functools.cache
def context() -> Any:
    """TensorStore's context: nothing is cached, few retries."""
    return tensorstore.Context(
        {"cache_pool": {"total_bytes_limit": 0}, "gcs_request_retries": _RETRIES}
    )


def ocdbt_context() -> Any:
    """A new context for one OCDBT store, whose index (`cache_pool#ocdbt`) it caches.

    Not to be shared: what another store had at the same path would be taken for this one's.
    """
    return tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": 0},
            "cache_pool#ocdbt": {"total_bytes_limit": 100_000_000},
            "gcs_request_retries": _RETRIES,
        }
    )


def kvstore_spec(folder: str | Path) -> dict[str, Any]:
    """TensorStore's specification of a folder.

    Raises:
      CheckpointError: for a `gs://` path without a bucket.
    """
    path = absolute(folder)
    if not is_remote(path):
        return {"driver": "file", "path": f"{path}/"}
    bucket, _, rest = path.removeprefix(_SCHEME).partition("/")
    if not bucket:
        raise CheckpointError(f"{folder}: expected gs://bucket/path")
    return {"driver": "gcs", "bucket": bucket, "path": f"{rest}/" if rest else ""}


def _open(folder: str | Path) -> Any:
    opened = tensorstore.KvStore.open(kvstore_spec(folder), context=context())
    return wait(opened, str(folder))


def wait(future: Any, path: str) -> Any:
    """The result of a TensorStore future for headers or small files below `path`.

    Raises:
      CheckpointError: it failed, or took longer than `TIMEOUT_S`.
    """
    try:
        return future.result(timeout=TIMEOUT_S)
    except TimeoutError as error:
        raise CheckpointError(f"{path}: no answer within {TIMEOUT_S:.0f} s") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(unreadable(path, error)) from error


def reason(error: BaseException) -> str:
    """What TensorStore says, without the specifications and source lines that follow."""
    text = str(error).split("[tensorstore_spec")[0].split("[source locations")[0]
    return " ".join(text.split())[:500]


def unwritable(path: str | Path, error: BaseException) -> str:
    """The message for a file that cannot be written."""
    return f"{path} cannot be written: {reason(error)}"


def unreadable(path: str, error: BaseException) -> str:
    """The message for a file or bucket that cannot be read."""
    if not is_remote(path):
        return f"{path} cannot be read: {reason(error)}"
    return (
        f"{path} cannot be read: {reason(error)}\n"
        "Check the name, that the bucket can be reached from here, and your credentials"
        " (GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`)"
    )


def read_file(folder: str | Path, name: str) -> bytes | None:
    """A small file's bytes, None if there is none.

    Raises:
      CheckpointError: it cannot be read.
    """
    if is_remote(folder):
        store = _open(folder)
        found = wait(store.read(name), join(folder, name))
        return bytes(found.value) if found.state == "value" else None
    file = Path(folder) / name
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(unreadable(str(file), error)) from error


def list_folder(folder: str | Path) -> list[str]:
    """Names of the files and folders in a folder, sorted; none if it does not exist.

    Raises:
      CheckpointError: it cannot be read.
    """
    if is_remote(folder):
        keys = wait(_open(folder).list(), str(folder))
        return sorted({key.decode().partition("/")[0] for key in keys})
    try:
        return sorted(entry.name for entry in Path(folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(unreadable(str(folder), error)) from error


def is_folder(path: str | Path) -> bool:
    """Whether `path` is a folder (of a bucket: holds anything)."""
    return bool(list_folder(path)) if is_remote(path) else Path(path).is_dir()
