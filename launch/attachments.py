"""The user's own gin files, which the job's machines do not have."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path, PurePosixPath

from flan_jax.config.errors import Location
from flan_jax.config.search_paths import SearchPaths, package_gin_folders
from flan_jax.config.statements import Include, read_statements
from flan_jax.launch.spec import JobSpec, LaunchError


def attach(spec: JobSpec) -> JobSpec:
    """The job with the text of each of its gin files, includes too, that is not flan_jax's own.

    Files that were named by a path of this machine are named as other machines find them. Those
    that are not there are left to the check of the configuration.

    Raises:
      LaunchError: a file has no place below the current folder or a search path, under which other
        machines could find it.
    """
    if not spec.gin_files:
        return spec
    collector = _Collector(SearchPaths.create(spec.search_paths))
    names = tuple(collector.take(name) for name in spec.gin_files)
    files = tuple(sorted(collector.found.items()))
    return dataclasses.replace(spec, gin_files=names, attachments=files)


class _Collector:
    def __init__(self, paths: SearchPaths):
        self._paths = paths
        self._seen: set[str] = set()
        self.found: dict[str, str] = {}

    def take(self, name: str) -> str:
        """Takes a file and what it includes; returns its name on other machines."""
        path = self._paths.find(name)
        if path is None:
            return name
        package = next((f for f in package_gin_folders() if path.resolve().is_relative_to(f)), None)
        portable = _is_portable(name)
        if not portable:
            name = path.resolve().relative_to(package).as_posix() if package else self._name(path)
        if name in self._seen:
            self._check_same(name, path, package is not None)
            return name
        self._seen.add(name)
        text = path.read_text(encoding="utf-8-sig")
        if package is None:
            self.found[PurePosixPath(name).as_posix()] = text
        for include in read_statements(text, lambda line: Location(0, line, name)).statements:
            if isinstance(include, Include):
                self._include(include.filename, path)
        return name

    def _include(self, name: str, within: Path) -> None:
        if not _is_portable(name):
            raise LaunchError(
                f"{os.fspath(within)}: include {name!r}: the job's machines have no such path: name"
                " the file relative to a search folder (--gin_search_paths)"
            )
        self.take(name)

    def _name(self, path: Path) -> str:
        # The folder itself may be a link, or be named by one.
        for folder in self._paths.folders:
            if path.resolve().is_relative_to(folder.resolve()):
                return path.resolve().relative_to(folder.resolve()).as_posix()
        raise LaunchError(
            f"{os.fspath(path)}: the job's machines look for gin files by names relative to a"
            " search folder: give --gin_search_paths with this file's folder, and its name alone"
        )

    def _check_same(self, name: str, path: Path, own: bool) -> None:
        if own or self.found.get(name) == path.read_text(encoding="utf-8-sig"):
            return
        raise LaunchError(
            f"{os.fspath(path)}: the job's machines would find another file by the name {name!r}:"
            " rename one of the two"
        )


def _is_portable(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and not name.startswith("~")
