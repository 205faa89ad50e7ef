"""DrRepair's programs that do not compile (Yasunaga & Liang, 2020), as published.

A zip file unpacks to folders of JSON files, one for each program that does compile. A file lists
the program's lines, and for each of several ways to break it, which lines to replace by what, and
what the compiler said then.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flan_jax.sources import folder
from flan_jax.sources.base import Row, SourceError, SourceMissingError, check_split
from flan_jax.sources.downloads import ManualDownload

FOLDER = "drrepair/err-data-compiler--orig-spoc"
HOW = (
    "Download https://nlp.stanford.edu/projects/myasu/DrRepair/data/"
    "err-data-compiler--orig-spoc.zip (see github.com/michiyasunaga/DrRepair) and unzip it in the "
    "folder drrepair of the data folder"
)
# As in DrRepair's configuration of SPoC's programs.
_READ = {"train": ("s1", "s2", "s3", "s4"), "validation": ("s5",)}


@dataclass(frozen=True)
class DrRepairSource:
    """Programs with the ways to break them.

    Rows hold `id`; `lines`, each with `code` (tokens with spaces between them, without the braces
    that indentation implies) and `indent`; and `errors`, each with `replace` (new code by line
    number), `line` (the line that the compiler points at) and `message`. Lines count from 0.

    Attributes:
      folder: the folder that was unzipped, relative to the data folder.
      read: subfolders of each split. Programs of other splits are left out of train.
    """

    folder: str = FOLDER
    read: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(_READ), hash=False)

    @property
    def kind(self) -> str:
        """`drrepair`."""
        return "drrepair"

    def describe(self) -> str:
        """The folder."""
        return self.folder

    def paths(self) -> tuple[Path, ...]:
        """The full paths of the subfolders, whether they exist or not."""
        names = dict.fromkeys(name for names in self.read.values() for name in names)
        return tuple(folder.locate(self.folder) / name for name in names)

    def check_present(self) -> None:
        """Raises SourceMissingError unless every subfolder is there."""
        for path in self.paths():
            if not path.is_dir():
                raise SourceMissingError(f"the folder {path} does not exist. {HOW}")

    def downloads(self) -> tuple[ManualDownload, ...]:
        """The folder, which has to be unzipped by hand."""
        return (ManualDownload(self.folder, HOW),)

    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.read)

    def num_examples(self, split: str) -> int:
        """Programs in `split`. Raises SourceError if the data are missing."""
        return len(self._files(split))

    def row(self, split: str, index: int) -> Row:
        """Row `index` of `split`. Raises SourceError on bad data, IndexError past its end."""
        files = self._files(split)
        if not 0 <= index < len(files):
            raise IndexError(f"{self.folder}: row {index} of {split}, which has {len(files)}")
        return read_program(files[index])

    def _files(self, split: str) -> tuple[Path, ...]:
        check_split(self, split)
        self.check_present()
        root = folder.locate(self.folder)
        files = _list(tuple(root / name for name in self.read[split]))
        if split != "train":
            return files
        held_out = tuple(
            root / name for other, names in self.read.items() if other != split for name in names
        )
        return _without(files, held_out)


@functools.cache
def _list(folders: tuple[Path, ...]) -> tuple[Path, ...]:
    return tuple(path for place in folders for path in sorted(place.glob("*.json")))


@functools.cache
def _without(files: tuple[Path, ...], folders: tuple[Path, ...]) -> tuple[Path, ...]:
    taken = {_program(path) for path in _list(folders)}
    return tuple(path for path in files if _program(path) not in taken)


def _program(path: Path) -> str:
    """Problem and submission of a file such as `0012-45A-9876543.json`."""
    return path.stem.partition("-")[2]


def read_program(path: Path) -> Row:
    """One program's row.

    Raises:
      SourceError: the file is malformed; names file and entry.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SourceError(f"{path} is not a JSON file in UTF-8: {error}") from None
    try:
        lines = tuple(
            {"code": " ".join(line["code"].split()), "indent": int(line["indent"])}
            for line in content["lines"]
        )
        errors = tuple(_error(error, len(lines)) for error in content["errors"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(
            f"{path}: expected an object with `lines` (each with `code` and `indent`) and `errors` "
            f"(each with `mod_line`, `mod_code`, `err_line` and `err_msg`), found {error!r}"
        ) from None
    return {"id": path.stem, "lines": lines, "errors": errors}


def _error(error: Mapping[str, Any], count: int) -> Row:
    numbers, codes = error["mod_line"], error["mod_code"]
    if len(numbers) != len(codes) or not all(0 <= number < count for number in numbers):
        raise ValueError(f"mod_line {numbers!r} of {count} lines, with {len(codes)} of mod_code")
    return {
        "replace": {n: " ".join(code.split()) for n, code in zip(numbers, codes, strict=True)},
        "line": min(max(int(error["err_line"]), 0), count - 1),
        "message": " ".join(error["err_msg"].split()),
    }
