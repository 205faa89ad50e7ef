"""Finding files by relative paths: in the current folder, the data folder, or the package."""

from __future__ import annotations

from pathlib import Path

import flan_jax
from flan_jax.sources.folder import data_folder


def search_folders() -> list[Path]:
    """Where relative paths are looked for, in order."""
    return [Path(), data_folder(), *map(Path, flan_jax.__path__)]


def locate(name: str) -> Path | None:
    """The first file or folder of this name below `search_folders`; None if there is none."""
    return next((folder / name for folder in search_folders() if (folder / name).exists()), None)
