"""gin-config itself, imported through one door that checks it is the real package."""

from __future__ import annotations

from types import ModuleType


def require_gin_config(module: ModuleType) -> ModuleType:
    """`module` if it is gin-config.

    The repository has a top-level folder `gin/` of configuration files. Where gin-config is not
    installed, Python imports that folder as an empty namespace package instead of failing.

    Raises:
      ImportError: if `module` is not gin-config.
    """
    if hasattr(module, "configurable") and hasattr(module, "parse_config"):
        return module
    found = ", ".join(map(str, getattr(module, "__path__", []))) or repr(module)
    raise ImportError(
        f"`import gin` found {found}, a folder of configuration files, not the package "
        "gin-config; install it: pip install 'gin-config>=0.5'"
    )


import gin  # noqa: E402  (after the check it is handed to)

require_gin_config(gin)

from gin import config as gin_config  # noqa: E402
from gin import config_parser  # noqa: E402

__all__ = ["config_parser", "gin", "gin_config", "require_gin_config"]
