"""Whether a store's files are there, whole and undamaged.

Lengths are looked at whenever a store is opened. Reading every byte for the checksums is done once
for each state of a file (its place, length, time of change and number on the disk), and a note of
it is kept in the user's cache folder.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from flan_jax.files import write_atomically
from flan_jax.store.access import Folder, LocalFolder
from flan_jax.store.errors import StoreError
from flan_jax.store.manifest import Manifest, StoredFile

VERIFY = ("once", "always", "never")
_CHUNK = 1 << 22
_THREADS = 8  # CRC-32 leaves the interpreter to others meanwhile

logger = logging.getLogger(__name__)


def problems(folder: Folder, manifest: Manifest, verify: str) -> dict[str, str]:
    """What is wrong with the index and the shards, by file; nothing if all are sound.

    Args:
      folder: the store's.
      manifest: the store's.
      verify: `once` reads the bytes of files that were not read in this state before, `always` of
        all, `never` of none. Elsewhere than on this machine's disk, `once` is as `never`: object
        stores check what they hold, and reading all of it would take longer than using it.
    """
    found = {f.file: text for f in manifest.files() if (text := _length_problem(folder, f))}
    files = [file for file in manifest.files() if file.file not in found]
    if verify == "always":
        found.update(_damaged(folder, files))
    elif verify == "once" and isinstance(folder, LocalFolder):
        known = _stamps(folder.path)
        fresh = [file for file in files if known.get(file.file) != _state(folder, file)]
        if fresh:
            damaged = _damaged(folder, fresh)
            found.update(damaged)
            stamp(folder, [file for file in files if file.file not in damaged])
    return found


def check(folder: Folder, manifest: Manifest, verify: str) -> None:
    """Raises StoreError, which names the files, if there are `problems`."""
    found = problems(folder, manifest, verify)
    if found:
        told = "; ".join(f"{_role(name, manifest)} {name} {text}" for name, text in found.items())
        raise StoreError(
            f"the store {folder.path} is damaged: {told}. Build it again, which keeps what is "
            f"sound: `flan-jax data build {manifest.mixture} --out {folder.path}`"
        )


def _role(name: str, manifest: Manifest) -> str:
    return "the index" if name == manifest.index.file else "the shard"


def _length_problem(folder: Folder, file: StoredFile) -> str:
    length = folder.size(file.file)
    if length is None:
        return "is missing"
    if length != file.bytes:
        how = "was cut short" if length < file.bytes else "is too long"
        return f"{how}: it has {length:,} bytes, expected {file.bytes:,}"
    return ""


def _damaged(folder: Folder, files: Iterable[StoredFile]) -> dict[str, str]:
    """Files whose bytes are not those that were written."""
    files = list(files)
    if sum(file.bytes for file in files) > 2**33:
        logger.info("reading all of %s to check it, once", folder.path)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda file: _crc32(folder, file), files)
    return {
        file.file: f"has the checksum {crc:08x}, expected {file.crc32:08x}"
        for file, crc in zip(files, found, strict=True)
        if crc != file.crc32
    }


def _crc32(folder: Folder, file: StoredFile) -> int:
    opened, crc = folder.open(file.file), 0
    for start in range(0, file.bytes, _CHUNK):
        crc = zlib.crc32(opened.read(start, min(start + _CHUNK, file.bytes)), crc)
    return crc


# ----------------------------------------------------------------------------------------- stamps


def stamp(folder: LocalFolder, files: Iterable[StoredFile]) -> None:
    """Notes that files were read, or written, and are sound as they are now."""
    states = {file.file: _state(folder, file) for file in files}
    try:
        write_atomically(_stamp_file(folder.path), json.dumps(states) + "\n")
    except OSError as error:  # then they are read again the next time
        logger.info("that %s was checked is not written down: %s", folder.path, error)


def forget(path: str) -> None:
    """Has the next `once` read all of the store at `path` again."""
    _stamp_file(path).unlink(missing_ok=True)


def _stamps(path: str) -> Mapping[str, list[int]]:
    try:
        found = json.loads(_stamp_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _state(folder: LocalFolder, file: StoredFile) -> list[int]:
    found = (Path(folder.path) / file.file).stat()
    return [file.crc32, found.st_size, found.st_mtime_ns, found.st_ino]


def _stamp_file(path: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    key = hashlib.blake2b(os.path.realpath(path).encode(), digest_size=16).hexdigest()
    return Path(root) / "flan_jax" / "stores" / f"{key}.json"
