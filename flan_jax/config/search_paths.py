"""Finding gin files along search paths.

gin's own list of search paths is global and only ever grows, and gin-config 0.5 raises TypeError
on resource paths. Files are therefore found here and gin is handed text, so repeated loads leave
nothing behind.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import flan_jax

# A search folder may be somebody's home: looking for near misses stays cheap.
_MAX_DEPTH = 4
_MAX_FILES = 5000
_PACKAGE_PREFIX = "flan_jax/"


def package_gin_folders() -> tuple[Path, ...]:
    """flan_jax's own `gin` folders (of the checkout or of the installed package)."""
    folders = (Path(path).resolve() / "gin" for path in flan_jax.__path__)
    return tuple(folder for folder in folders if folder.is_dir())


@dataclass(frozen=True)
class SearchPaths:
    """The folders in which relative names of gin files are looked up, in order.

    Attributes:
      folders: as given by the user, then the current folder, then flan_jax's `gin` folder and
        its parent (so `runs/finetune.gin` and `gin/runs/finetune.gin` both resolve).
    """

    folders: tuple[Path, ...]

    @classmethod
    def create(cls, given: Sequence[str | os.PathLike[str]] = ()) -> SearchPaths:
        """Search paths for the folders `given`, with the ones that are always there appended."""
        folders = [Path(folder).expanduser() for folder in given if str(folder)]
        folders.append(Path("."))
        for folder in package_gin_folders():
            folders += [folder, folder.parent]
        unique = {folder.resolve(): folder for folder in reversed(folders)}
        return cls(tuple(folder for folder in folders if unique.pop(folder.resolve(), None)))

    def find(self, name: str) -> Path | None:
        """The first file called `name`, or None."""
        path = Path(name).expanduser()
        if path.is_absolute():
            return path if path.is_file() else None
        names = [name]
        if name.startswith(_PACKAGE_PREFIX + "gin/"):
            # In a checkout the package's gin folder lies beside the package, not in it.
            names.append(name.removeprefix(_PACKAGE_PREFIX))
        for each in names:
            for folder in self.folders:
                if (folder / each).is_file():
                    return folder / each
        return None

    def missing(self, name: str) -> str:
        """What to tell a user whose file `name` was not found."""
        if "://" in name:
            return f"gin file {name!r} is remote; gin files are read from local folders: copy it"
        if Path(name).is_absolute():
            message = f"gin file {name!r} not found"
        else:
            looked = ", ".join(self._shown_folders())
            message = f"gin file {name!r} not found; looked in {looked}"
        close = self.near_misses(name)
        if close:
            message += "; did you mean " + " or ".join(map(repr, close)) + "?"
        return message

    def near_misses(self, name: str, limit: int = 3) -> list[str]:
        """Names of existing gin files that look like `name`, best first."""
        path = Path(name).expanduser()
        if path.is_absolute():
            names = {str(path.parent / each) for each in _gin_files(path.parent)}
        else:
            names = {each for folder in self.folders for each in _gin_files(folder)}
        wanted = path.stem.casefold()
        same_stem = sorted(each for each in names if Path(each).stem.casefold() == wanted)
        close = difflib.get_close_matches(name, sorted(names), n=limit, cutoff=0.7)
        by_stem = {Path(each).stem: each for each in sorted(names, reverse=True)}
        stems = difflib.get_close_matches(path.stem, sorted(by_stem), n=limit, cutoff=0.7)
        found = dict.fromkeys([*same_stem, *close, *(by_stem[stem] for stem in stems)])
        return _without_suffixed_twins(list(found))[:limit]

    def display(self, path: Path) -> str:
        """`path` as shown in messages: short where it lies below the current or gin folder."""
        resolved = path.resolve()
        for base in (Path.cwd(), *(folder.parent for folder in package_gin_folders())):
            if resolved.is_relative_to(base):
                return resolved.relative_to(base).as_posix()
        return str(resolved)

    def _shown_folders(self) -> Iterator[str]:
        for folder in self.folders:
            note = "" if folder.is_dir() else " (no such folder)"
            yield f"{folder}{note}"


def _gin_files(folder: Path) -> list[str]:
    """Relative names of the gin files below `folder`."""
    names: list[str] = []
    for base, folders, files in os.walk(folder):
        relative = Path(base).relative_to(folder)
        deep = len(relative.parts) >= _MAX_DEPTH
        folders[:] = [] if deep else sorted(each for each in folders if not each.startswith("."))
        names += [(relative / each).as_posix() for each in files if each.endswith(".gin")]
        if len(names) > _MAX_FILES:
            break
    return names


def _without_suffixed_twins(names: list[str]) -> list[str]:
    """`names` without those that end in another one: `gin/runs/a.gin` beside `runs/a.gin`."""
    return [
        name
        for name in names
        if not any(other != name and name.endswith("/" + other) for other in names)
    ]
