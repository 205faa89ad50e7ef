"""From the downloads that sources name to the transfers that bring them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from flan_jax.sources.downloads import AnyDownload, Download, ManualDownload, TfdsDownload
from flan_jax.sources.fetch.errors import FetchError

# Below the data folder: parts of files, locks, and records of what was fetched.
STATE_FOLDER = ".fetch"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Transfer:
    """One address, and the files that come from it: itself, or members of the archive there.

    Attributes:
      url: the address.
      products: the downloads that it serves; their `url` is this one.
    """

    url: str
    products: tuple[Download, ...]

    @property
    def name(self) -> str:
        """How progress speaks of it: the file's path, or the archive's name."""
        if len(self.products) == 1:
            return self.products[0].path
        return PurePosixPath(urlsplit(self.url).path).name or self.url

    @property
    def key(self) -> str:
        """A file name that stands for the address."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:24]

    @property
    def sha256(self) -> str | None:
        """The checksum that the products state."""
        return next((p.sha256.lower() for p in self.products if p.sha256), None)

    @property
    def size(self) -> int | None:
        """The length that the products state."""
        return next((p.size for p in self.products if p.size is not None), None)


@dataclass(frozen=True)
class Plan:
    """Everything that a fetch has to look at, each thing once."""

    transfers: tuple[Transfer, ...]
    builders: tuple[TfdsDownload, ...]
    manual: tuple[ManualDownload, ...]
    order: tuple[str, ...]


def make_plan(downloads: Iterable[AnyDownload]) -> Plan:
    """Groups `downloads` by address, equal ones once.

    Raises:
      FetchError: a definition is unusable: a path that leads out of the data folder, one path for
        two different files, two checksums for one address.
    """
    files: dict[str, Download] = {}
    builders: dict[str, TfdsDownload] = {}
    manual: dict[str, ManualDownload] = {}
    order: dict[str, None] = {}
    for one in downloads:
        if isinstance(one, TfdsDownload):
            builders.setdefault(one.builder, one)
            order[one.builder] = None
            continue
        check_path(one.path)
        order[one.path] = None
        if isinstance(one, ManualDownload):
            manual.setdefault(one.path, one)
        else:
            files[one.path] = _merged(files.get(one.path), one)
    by_url: dict[str, list[Download]] = {}
    for one in files.values():
        by_url.setdefault(one.url, []).append(one)
    transfers = tuple(Transfer(url, tuple(group)) for url, group in by_url.items())
    for transfer in transfers:
        _check_agreement(transfer)
    # A file that some source can download need not be got by hand.
    by_hand = tuple(one for path, one in manual.items() if path not in files)
    return Plan(transfers, tuple(builders.values()), by_hand, tuple(order))


def check_path(path: str) -> None:
    """Raises FetchError unless `path` stays within the data folder."""
    parts = PurePosixPath(path).parts
    unsafe = not parts or PurePosixPath(path).is_absolute() or "\\" in path or "\0" in path
    if unsafe or ".." in parts or parts[0] == STATE_FOLDER:
        raise FetchError(
            f"the download path {path!r} must be relative to the data folder, without '..' and "
            f"outside {STATE_FOLDER}: mend it in the source's downloads()"
        )


def _merged(known: Download | None, new: Download) -> Download:
    if new.sha256 is not None and not _SHA256.fullmatch(new.sha256.lower()):
        raise FetchError(f"{new.path}: {new.sha256!r} is not a SHA-256 checksum of 64 hex digits")
    if known is None:
        return new
    if (known.url, known.member) != (new.url, new.member):
        raise FetchError(
            f"two sources want different files as {new.path}: {_origin(known)} and {_origin(new)}; "
            "give one of them another path"
        )
    if known.sha256 and new.sha256 and known.sha256.lower() != new.sha256.lower():
        raise FetchError(f"two sources state different checksums for {new.path} ({new.url})")
    size = known.size if known.size is not None else new.size
    return replace(known, sha256=known.sha256 or new.sha256, size=size)


def _origin(download: Download) -> str:
    return f"{download.url} ({download.member})" if download.member else download.url


def _check_agreement(transfer: Transfer) -> None:
    sums = {product.sha256.lower() for product in transfer.products if product.sha256}
    sizes = {product.size for product in transfer.products if product.size is not None}
    for what, values in (("checksums", sums), ("sizes", sizes)):
        if len(values) > 1:
            raise FetchError(
                f"{transfer.url} is stated with different {what}: "
                + ", ".join(sorted(map(str, values)))
            )


def mirrored(url: str, mirrors: Mapping[str, str]) -> str:
    """`url` with its longest prefix in `mirrors` replaced."""
    matching = [prefix for prefix in mirrors if url.startswith(prefix)]
    if not matching:
        return url
    prefix = max(matching, key=len)
    return mirrors[prefix] + url[len(prefix) :]
