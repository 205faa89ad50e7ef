"""Imports in gin files, and what the names they bind stand for.

T5X's files name Python modules (`from t5x import utils`) and register what they mention on the
way. flan_jax registers its configurables beforehand under the same names (`utils.DatasetConfig`),
so imports of T5X's and SeqIO's modules only give names; any other module is really imported.
"""

from __future__ import annotations

import importlib
import inspect
import types
from dataclasses import dataclass, field
from typing import Any

from flan_jax.config import registry
from flan_jax.config.errors import Problem
from flan_jax.config.installed import gin
from flan_jax.config.statements import Import

# Packages whose configurables flan_jax registers itself, under the same names; never imported.
SPOKEN_PACKAGES = ("__gin__", "__main__", "seqio", "t5x")


@dataclass
class Imports:
    """The imports of one gin file.

    Attributes:
      spoken: bound name -> name under which flan_jax registers that module's configurables.
      modules: bound name -> full name of a module that was imported.
      failed: bound names whose import failed.
    """

    spoken: dict[str, str] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def add(self, statement: Import) -> Problem | None:
        """Takes in one import; says what went wrong, if anything."""
        package = statement.module.split(".")[0]
        if package in SPOKEN_PACKAGES:
            last = statement.module.rsplit(".", 1)[-1]
            bound = statement.name
            if "." in statement.module and bound == package:  # import t5x.utils
                bound = statement.module
            if statement.module in ("__main__", "t5x"):
                last = ""
            self.spoken[bound] = "seqio" if package == "seqio" else last
            return None
        message = _import(statement.module)
        if message:
            self.failed.add(statement.name)
            return Problem(statement.location, message)
        bound = statement.module if statement.name == package else statement.name
        self.modules[bound] = statement.module
        return None

    def candidates(self, selector: str) -> list[str]:
        """Names under which `selector`, as written in the file, may be registered."""
        found = []
        for bound, module in [*self.modules.items(), *self.spoken.items()]:
            if selector.startswith(bound + "."):
                rest = selector.removeprefix(bound + ".")
                found.append(f"{module}.{rest}" if module else selector)
                if not module:  # import t5x, or __main__ under a name of one's own
                    found.append(rest)
        return found

    def is_of_failed(self, selector: str) -> bool:
        """Whether `selector` belongs to a module that could not be imported."""
        return selector.split(".")[0] in self.failed

    def register(self, selector: str) -> str | None:
        """Registers what `selector` names in an imported module; its complete selector, or None.

        This is gin's dynamic registration, for modules of the user.

        Raises:
          ValueError: if something else is registered under its name.
        """
        for bound, module in self.modules.items():
            if not selector.startswith(bound + "."):
                continue
            *path, name = selector.removeprefix(bound + ".").split(".")
            found: Any = importlib.import_module(module)
            for part in (*path, name):
                if inspect.isclass(found):  # methods are left to gin.register in the module
                    return None
                found = getattr(found, part, None)
            if not callable(found) or isinstance(found, types.ModuleType):
                continue
            known = registry.find_object(found)
            if known is None:
                known = ".".join([module, *path, name])
                registry.register(found, name, ".".join([module, *path]))
            return known
        return None


def _import(module: str) -> str:
    """Imports `module`; what went wrong, or nothing."""
    with gin.unlock_config():  # modules register configurables when they are imported
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            missing = error.name or module
            if module == missing or module.startswith(missing + "."):
                return (
                    f"cannot import {module!r}: there is no module {missing!r}; "
                    "is its folder on PYTHONPATH?"
                )
            return f"cannot import {module!r}: it needs {missing!r}, which is not installed"
        except Exception as error:  # whatever a user's module raises is reported
            return f"cannot import {module!r}: it raised {type(error).__name__}: {error}"
    return ""
