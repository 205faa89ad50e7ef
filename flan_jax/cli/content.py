"""Imports the modules that register tasks and mixtures: the house's own and the user's."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from flan_jax.errors import UserError
from flan_jax.suggestions import did_you_mean

# Announces all of them; each is defined when asked for.
HOUSE_MODULE = "flan_jax.mixtures"


def load_content(modules: Sequence[str] = ()) -> None:
    """Registers the house's tasks and those of `modules`; reads no data.

    Args:
      modules: names of modules to import, from the Python path or the current folder.

    Raises:
      UserError: a module is not found, or fails when imported.
    """
    importlib.import_module(HOUSE_MODULE)
    if modules:
        # Last on the path, so that nothing in the current folder hides an installed package.
        here = str(Path.cwd())
        if here not in sys.path and "" not in sys.path:
            sys.path.append(here)
        importlib.invalidate_caches()
    for module in modules:
        _import_user_module(module)


def _import_user_module(module: str) -> None:
    if module.endswith(".py") or os.sep in module:
        name = Path(module).stem
        raise UserError(
            f"--module {module}: give the name of a module, such as {name}, not a file; "
            "it is looked for on the Python path and in the current folder"
        )
    try:
        importlib.import_module(module)
    except UserError as error:
        raise UserError(f"--module {module}: {error}") from error
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module == missing or module.startswith(missing + "."):
            raise UserError(
                f"--module {module}: no such module on the Python path or in {Path.cwd()}"
                + did_you_mean(module, _modules_here())
            ) from None
        raise UserError(f"--module {module} needs {missing!r}, which is not installed") from error
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"--module {module} fails when imported: {type(error).__name__}: {error} "
            f"({place.filename}, line {place.lineno})"
        ) from error


def _modules_here() -> list[str]:
    """Modules and packages in the current folder."""
    files = [path.stem for path in Path.cwd().glob("*.py")]
    return files + [path.parent.name for path in Path.cwd().glob("*/__init__.py")]
