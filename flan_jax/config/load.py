"""Loading a configuration: read everything, check everything, and only then bind it with gin."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flan_jax.config import registry
from flan_jax.config.checks import check
from flan_jax.config.errors import NOWHERE, ConfigError, Problem
from flan_jax.config.final import Final
from flan_jax.config.installed import gin
from flan_jax.config.names import Binding, resolve_names
from flan_jax.config.search_paths import SearchPaths
from flan_jax.config.sources import read_sources
from flan_jax.config.values import Macro, format_value


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration that passed all checks and is bound.

    Attributes:
      files: the gin files read, includes too, in the order they were first read.
      bindings: the bindings in force, macros first, sorted.
      overridden: the bindings that later ones replaced, in the order of the files.
      imports: modules of the user that the files import.
    """

    files: tuple[Path, ...]
    bindings: tuple[Binding, ...]
    overridden: tuple[Binding, ...]
    imports: tuple[str, ...]

    def values(self) -> dict[str, Any]:
        """Keys (`train/utils.DatasetConfig.batch_size`, `MODEL_DIR`) with values as bound."""
        return {binding.key: binding.value for binding in self.bindings}

    def resolve(self, value: Any) -> Any:
        """`value` with macros replaced by what they stand for."""
        return Final(self.bindings).value(value)


def load(
    gin_files: Sequence[str | os.PathLike[str]],
    bindings: Sequence[str] = (),
    search_paths: Sequence[str | os.PathLike[str]] = (),
    *,
    required: Sequence[str] = (),
    placeholders: Mapping[str, Any] | None = None,
) -> LoadedConfig:
    """Reads, checks and binds a configuration, in place of whatever was bound before.

    The modules whose configurables are named must have been imported; modules that the files
    import are imported here. gin's configuration is locked afterwards, as by `gin.finalize`.

    Args:
      gin_files: gin files, absolute or along the search paths; later ones override earlier ones.
      bindings: gin statements such as `train.total_steps = 5`; they override the files.
      search_paths: folders to look in before the current one and flan_jax's own `gin`.
      required: configurables that will be called without arguments (`train`); they and all that
        their bindings lead to must have their required parameters bound.
      placeholders: values of macros that the caller does without, where files say %gin.REQUIRED.

    Raises:
      ConfigError: listing every problem; nothing is bound then, what was bound before stays.
    """
    if isinstance(gin_files, str) or isinstance(bindings, str):
        raise TypeError("gin_files and bindings are sequences of strings, not one string")
    sources = read_sources(
        [os.fspath(name) for name in gin_files], list(bindings), SearchPaths.create(search_paths)
    )
    resolved = resolve_names(sources.statements)
    bound = [_filled(binding, placeholders or {}) for binding in resolved.bindings]
    final = Final(bound)
    problems = [*sources.problems, *resolved.problems]
    problems += check(resolved, final, required, sources.complete)
    if problems:
        raise ConfigError(problems)
    loaded = LoadedConfig(
        files=tuple(sources.files),
        bindings=tuple(final),
        overridden=tuple(final.overridden),
        imports=tuple(dict.fromkeys(sources.modules)),
    )
    _bind(loaded)
    return loaded


def _filled(binding: Binding, placeholders: Mapping[str, Any]) -> Binding:
    """The binding; of a macro that is only said to be required, with its placeholder."""
    value = binding.value
    marked = isinstance(value, Macro) and registry.is_required_marker(value.name)
    if not (binding.is_macro and marked and binding.parameter in placeholders):
        return binding
    return replace(binding, value=placeholders[binding.parameter])


def _bind(loaded: LoadedConfig) -> None:
    """Hands the checked bindings to gin, with complete names and nothing left to resolve."""
    lines = [f"import {module}" for module in loaded.imports]
    lines += [f"{binding.key} = {format_value(binding.value)}" for binding in loaded.bindings]
    gin.clear_config()
    try:
        gin.parse_config_files_and_bindings([], lines)
    except Exception as error:
        # Only a hook that somebody registered with gin is left to object.
        raise ConfigError([Problem(NOWHERE, f"gin refuses it: {error}")]) from error
