"""Reports of compilations, kept by what they depend on: compiling again would give the same."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flan_jax
from flan_jax.files import write_atomically

# What a program, and the reading of it, is made of; a change here makes every report void.
SOURCES = (
    "models",
    "kernels",
    "decoding",
    "layout.py",
    "sharding.py",
    "train/step.py",
    "train/setup.py",
    "train/state.py",
    "train/optimizer.py",
    "train/schedule.py",
    "train/trainable.py",
    "plan/steps.py",
    "plan/compiler.py",
    "plan/schedule.py",
    "plan/collectives.py",
    "plan/memory.py",
    "plan/model_flops.py",
    "plan/topologies.py",
    "plan/hlo.py",
    "plan/loops.py",
    "plan/replica_groups.py",
    "plan/roofline.py",
    "plan/async_regions.py",
    "plan/bundles.py",
    "plan/kernel_cycles.py",
    "plan/compile_child.py",
    "plan/step_report.py",
    "plan/gpu.py",
    "plan/gpu_report.py",
    "plan/largest_arrays.py",
)
_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax")


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/flan_jax/plans`, by default below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "flan_jax" / "plans"


@dataclass(frozen=True)
class ReportCache:
    """A folder of JSON files, one a report. Several processes may use it at once.

    Attributes:
      folder: where the files are; made when the first is written. None keeps nothing.
    """

    folder: Path | None

    def get(self, key: str) -> dict[str, Any] | None:
        """The report of a key; None if there is none that can be read."""
        if self.folder is None:
            return None
        try:
            return json.loads(self._file(key).read_text(encoding="utf-8"))["report"]
        except (OSError, ValueError, KeyError):
            return None

    def put(self, key: str, made_of: Mapping[str, Any], report: Mapping[str, Any]) -> None:
        """Keeps a report, and beside it what the key was made of."""
        if self.folder is not None:
            text = json.dumps({"made_of": dict(made_of), "report": dict(report)}, indent=1)
            write_atomically(self._file(key), text + "\n")

    def _file(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.json"


def ingredients(
    program: Mapping[str, Any], topology: str, xla_options: Mapping[str, str]
) -> dict[str, Any]:
    """All that a report depends on, as JSON.

    Args:
      program: what says which program it is: bindings in force, step, shapes.
      topology: where it runs.
      xla_options: options of the compiler.
    """
    return {
        "program": dict(program),
        "topology": topology,
        "xla_options": dict(sorted(xla_options.items())),
        "versions": {name: _version(name) for name in _PACKAGES},
        "sources": sources_hash(),
    }


def key_of(made_of: Mapping[str, Any]) -> str:
    """A name for the ingredients of a report."""
    text = json.dumps(made_of, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@functools.cache
def sources_hash(package: Path | None = None) -> str:
    """SHA-256 of the code that programs and reports are made by."""
    root = package or Path(flan_jax.__file__).parent
    digest = hashlib.sha256()
    for name in SOURCES:
        path = root / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
