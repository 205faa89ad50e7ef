"""The user's own gin files, which the job's machines do not have."""

from __future__ import annotations

import os
from pathlib import Path

from flan_jax.config.search_paths import SearchPaths, package_gin_folders
from flan_jax.config.sources import read_sources
from flan_jax.launch.spec import JobSpec, LaunchError


def attachments(spec: JobSpec) -> tuple[tuple[str, str], ...]:
    """Path and text of each gin file of the job, includes too, that is not flan_jax's own.

    Raises:
      LaunchError: a file has no place below the current folder or a search path, under which other
        machines could find it.
    """
    if not spec.gin_files:
        return ()
    paths = SearchPaths.create(spec.search_paths)
    found: dict[str, str] = {}
    for file in read_sources(spec.gin_files, (), paths).files:
        if any(file.is_relative_to(folder) for folder in package_gin_folders()):
            continue
        found[_name(file, paths)] = file.read_text(encoding="utf-8-sig")
    return tuple(sorted(found.items()))


def _name(file: Path, paths: SearchPaths) -> str:
    for folder in paths.folders:
        if file.is_relative_to(folder.resolve()):
            return file.relative_to(folder.resolve()).as_posix()
    raise LaunchError(
        f"{os.fspath(file)}: the job's machines look for gin files by names relative to a search"
        " folder: give --gin_search_paths with this file's folder, and its name alone"
    )
