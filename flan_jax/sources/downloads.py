"""What a source needs on this machine: the three kinds of thing `flan-jax data fetch` brings.

Plain values without behaviour, so that a source can name them without importing any of the
machinery that fetches (see `flan_jax.sources.fetch`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Download:
    """One file to fetch.

    Attributes:
      url: where it is; `http://`, `https://`, or another scheme that fsspec knows (`gs://...`).
      path: where it ends up, relative to the data folder, with forward slashes.
      sha256: the checksum of what lies at `url` (of the archive itself, where `member` is given),
        in hex. None: recorded at the first download, and checked from then on.
      size: the length in bytes of what lies at `url`, if it is known.
      member: None: the file is kept as it comes. A name: that file inside the archive (zip or
        tar) at `url` becomes `path`. `""`: the file is gzip, and `path` is its unpacked form.
    """

    url: str
    path: str
    sha256: str | None = None
    size: int | None = None
    member: str | None = None


@dataclass(frozen=True)
class TfdsDownload:
    """A TensorFlow Datasets builder that TFDS itself downloads and prepares.

    Attributes:
      builder: the builder's full name, `"super_glue/rte:1.0.2"`.
      manual: how to get the files that TFDS cannot download by itself; "" if it can.
    """

    builder: str
    manual: str = ""


@dataclass(frozen=True)
class ManualDownload:
    """Data that have to be asked for, or exported, by hand.

    Attributes:
      path: where the file or folder belongs, relative to the data folder.
      how: how to get it, in a sentence or two.
    """

    path: str
    how: str


AnyDownload = Download | TfdsDownload | ManualDownload
