"""All checks of a configuration whose names are resolved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flan_jax.config import macros, registry, required
from flan_jax.config.annotations import annotation_of, mismatch
from flan_jax.config.errors import Problem
from flan_jax.config.final import Final
from flan_jax.config.names import Resolved
from flan_jax.config.values import Macro


def check(resolved: Resolved, final: Final, roots: Sequence[str], complete: bool) -> list[Problem]:
    """Everything that is wrong with a configuration but for the names in it.

    Args:
      resolved: all bindings, overridden ones too.
      final: those in force.
      roots: the configurables that will be run.
      complete: whether all files were found; if not, nothing is said to be missing or unused.
    """
    problems = [*wrong_types(final), *macros.circular_macros(final)]
    if complete:
        problems += macros.undefined_macros(resolved.bindings, final)
        problems += macros.unused_macros(resolved, final)
        problems += required.marked_required(final)
        problems += required.missing_parameters(final, roots)
    return problems


def wrong_types(final: Final) -> list[Problem]:
    """Values in force that the annotation of their parameter rules out."""
    problems = []
    reported: set[tuple[str, str]] = set()
    for binding in final:
        if binding.is_macro:
            continue
        configurable = registry.get(binding.selector)
        value = final.value(binding.value)
        if _is_default(value, configurable.parameters.get(binding.parameter)):
            continue
        wrong = mismatch(value, annotation_of(configurable, binding.parameter))
        if wrong is None:
            continue
        end = final.macro(binding.value.name) if isinstance(binding.value, Macro) else None
        if end is None:
            problems.append(Problem(binding.location, f"wrong type for {binding.key}: {wrong}"))
        elif (end.key, str(wrong)) not in reported:
            # The mistake is where the macro is set; its first use says what is wanted.
            reported.add((end.key, str(wrong)))
            message = (
                f"wrong type for {end.key}, used as {binding.key} at {binding.location}: {wrong}"
            )
            problems.append(Problem(end.location, message))
    return problems


def _is_default(value: Any, parameter: registry.Parameter | None) -> bool:
    """Whether `value` is the parameter's default, which is right whatever its annotation says
    (`steps: int = None`); an operative configuration spells defaults out.
    """
    if parameter is None or type(value) is not type(parameter.default):
        return False
    try:
        return bool(value == parameter.default)
    except (TypeError, ValueError):  # arrays compare element by element
        return False
