"""Configuration by gin: T5X's flags and files, checked as a whole before anything runs.

`load` reads files and command line bindings, reports every problem with its file and line in one
`ConfigError`, and only then hands the configuration to gin.
"""

from __future__ import annotations

from flan_jax.config.errors import ConfigError, Location, Problem
from flan_jax.config.flags import (
    GinFlags,
    add_gin_arguments,
    gin_flags,
    quote_if_bare,
    rewrite_gin_arguments,
)
from flan_jax.config.installed import require_gin_config
from flan_jax.config.load import LoadedConfig, load
from flan_jax.config.names import Binding
from flan_jax.config.operative import (
    operative_config_text,
    resolved_config_text,
    save_operative_config,
    save_text,
)
from flan_jax.config.search_paths import SearchPaths, package_gin_folders
from flan_jax.config.values import Macro, Reference

__all__ = [
    "Binding",
    "ConfigError",
    "GinFlags",
    "LoadedConfig",
    "Location",
    "Macro",
    "Problem",
    "Reference",
    "SearchPaths",
    "add_gin_arguments",
    "gin_flags",
    "load",
    "operative_config_text",
    "package_gin_folders",
    "quote_if_bare",
    "require_gin_config",
    "resolved_config_text",
    "rewrite_gin_arguments",
    "save_operative_config",
    "save_text",
]
