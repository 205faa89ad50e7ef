"""Where TFDS keeps prepared datasets, and whether one is there, told from the file system alone."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from flan_jax.sources.base import SourceError, SourceMissingError
from flan_jax.sources.folder import data_folder

TFDS_VARIABLE = "TFDS_DATA_DIR"
MANUAL_VARIABLE = "TFDS_MANUAL_DIR"
_INDEXED = "array_record"  # the format of files that are read by index
_SEQUENTIAL = "tfrecord"
_INFO = "dataset_info.json"
_SHARD = re.compile(r"(?P<split>.+)\.(?P<format>\w+)-\d{5,}-of-(?P<count>\d{5,})")
_NAME = re.compile(r"(?P<name>\w+)(?:/(?P<config>[^:/]+))?:(?P<version>\d+\.\d+\.\d+)")


def tfds_folder() -> Path:
    """Where prepared TFDS datasets lie: `TFDS_DATA_DIR`, else a part of the data folder."""
    chosen = os.environ.get(TFDS_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else data_folder() / "tensorflow_datasets"


def manual_folder() -> Path:
    """Where files lie that TFDS cannot download: `TFDS_MANUAL_DIR`, else `manual` in the data
    folder. TFDS has no variable for it; this one is ours.
    """
    chosen = os.environ.get(MANUAL_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else data_folder() / "manual"


@dataclass(frozen=True)
class BuilderName:
    """A builder's full name in its parts; `config` is "" if none is given."""

    name: str
    config: str
    version: str

    @classmethod
    def parse(cls, builder: str) -> BuilderName:
        """The parts of ``name/config:version`` or ``name:version``.

        Raises:
          SourceError: it is neither.
        """
        match = _NAME.fullmatch(builder)
        if match is None:
            raise SourceError(
                f"TFDS builder {builder!r}: expected NAME:VERSION or NAME/CONFIG:VERSION, with a "
                "version of three numbers, such as 'super_glue/rte:1.0.2'"
            )
        return cls(match["name"], match["config"] or "", match["version"])

    def __str__(self) -> str:
        return f"{self.name}{'/' if self.config else ''}{self.config}:{self.version}"

    def folder(self, root: Path) -> Path:
        """Where the builder belongs below `root`."""
        return root.joinpath(self.name, self.config, self.version)

    def any_format(self, root: Path) -> Path | None:
        """The folder where the dataset is prepared below `root`, in whatever format, if it is.

        Without a config in the name the builder may have a default one, which TFDS alone knows, so
        that the one config that is there is taken, if there is just one.
        """
        folder = self.folder(root)
        if (folder / _INFO).is_file():
            return folder
        if self.config:
            return None
        found = [info.parent for info in root.glob(f"{self.name}/*/{self.version}/{_INFO}")]
        return found[0] if len(found) == 1 else None

    def prepared(self, root: Path) -> Path | None:
        """The folder where the dataset is prepared in files that are read by index, if it is."""
        folder = self.any_format(root)
        return folder if folder is not None and _is_indexed(folder) else None

    def sequential(self, root: Path) -> Path | None:
        """The folder where the dataset is prepared, but in TFRecords to be read in their order."""
        folder = self.any_format(root)
        if folder is None or _is_indexed(folder) or not _splits(folder, _SEQUENTIAL):
            return None
        return folder

    def require(self, root: Path, manual: str = "") -> Path:
        """The folder where the dataset is prepared in files that are read by index.

        Raises:
          SourceMissingError: it is not; says what is there and how to get it.
        """
        folder = self.prepared(root)
        if folder is not None:
            return folder
        sequential = self.sequential(root)
        if sequential is not None:
            raise SourceMissingError(
                f"TFDS {self} is prepared in {sequential}, but as TFRecords, which cannot be read "
                "by index. `flan-jax data fetch TASK` adds ArrayRecord files beside them; that "
                "downloads nothing"
            )
        broken = self.any_format(root)
        if broken is not None:
            raise SourceMissingError(
                f"TFDS {self} is not whole on this machine: files are missing in {broken}. Remove "
                "that folder and run `flan-jax data fetch TASK`, or copy it again from where it "
                "is whole"
            )
        wanted = self.folder(root)
        versions = sorted(info.parent.name for info in wanted.parent.glob(f"*/{_INFO}"))
        others = f" Found there: version {', '.join(versions)}." if versions else ""
        by_hand = f" TFDS cannot download all of it: {manual}" if manual else ""
        raise SourceMissingError(
            f"TFDS {self} is not prepared on this machine: looked for {wanted}.{others} "
            f"`flan-jax data fetch TASK` downloads and prepares it; if it is elsewhere, set "
            f"{TFDS_VARIABLE} to that folder (now {os.environ.get(TFDS_VARIABLE) or 'not set'})."
            f"{by_hand}"
        )


def _is_indexed(folder: Path) -> bool:
    """Whether all of a prepared dataset can be read by index."""
    indexed = _splits(folder, _INDEXED)
    sequential = _splits(folder, _SEQUENTIAL)
    return bool(indexed) and all(indexed.values()) and indexed.keys() >= sequential.keys()


def _splits(folder: Path, file_format: str) -> dict[str, bool]:
    """The splits that have files in a format, and whether all of their files are there.

    Splits are named by the start of their files' names.
    """
    found: dict[str, int] = {}
    expected: dict[str, int] = {}
    for file in folder.iterdir():
        match = _SHARD.fullmatch(file.name)
        if match is not None and match["format"] == file_format:
            found[match["split"]] = found.get(match["split"], 0) + 1
            expected[match["split"]] = int(match["count"])
    return {split: count == expected[split] for split, count in found.items()}
