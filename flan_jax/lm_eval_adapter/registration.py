"""Making our model known to the harness, which has no plug-ins of its own for models.

`flan-jax eval harness` runs the harness with it. For plain `lm_eval`, `flan-jax eval harness
--install` leaves a one-line file in this environment that calls `register_when_imported` whenever
Python starts; it costs an import of a few milliseconds and waits until the harness is imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

NAME = "flan_jax"
# Where the harness collects its models.
_MODELS = "lm_eval.models"
_TARGET = "flan_jax.lm_eval_adapter.harness:FlanJaxLM"
_FILE = "flan_jax_lm_eval.pth"
_LINE = (
    "import importlib.util as u; u.find_spec('flan_jax') and "
    "__import__('flan_jax.lm_eval_adapter.registration', fromlist=['_']).register_when_imported()\n"
)


def register() -> None:
    """Registers the model by name; it is imported when asked for."""
    from lm_eval.api.registry import model_registry  # pyright: ignore[reportMissingImports]

    if NAME not in model_registry:
        model_registry.register(NAME, target=_TARGET)


class _Loader(importlib.abc.Loader):
    """Another loader, and `register` after it."""

    def __init__(self, loader: importlib.abc.Loader):
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        register()


class _Finder(importlib.abc.MetaPathFinder):
    """Waits for the harness's models."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _MODELS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def register_when_imported() -> None:
    """Registers the model as soon as the harness's own models are imported."""
    if _MODELS in sys.modules:
        register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def install(folder: Path | None = None) -> Path:
    """Makes `lm_eval` of this environment know the model from now on; returns the file's path.

    Args:
      folder: where the environment's packages are; that of this interpreter if None.
    """
    path = (folder or Path(sysconfig.get_path("purelib"))) / _FILE
    path.write_text(_LINE, encoding="utf-8")
    return path


def uninstall(folder: Path | None = None) -> Path:
    """Undoes `install`."""
    path = (folder or Path(sysconfig.get_path("purelib"))) / _FILE
    path.unlink(missing_ok=True)
    return path
