"""Checks of macros: every one that is used is set, every one that is set is used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flan_jax.config import registry
from flan_jax.config.errors import Problem
from flan_jax.config.final import Final, macros_in
from flan_jax.config.names import Binding, Resolved
from flan_jax.suggestions import did_you_mean

# A macro holding a list of names of macros that may stay unused.
ALLOW_UNUSED = "ALLOW_UNUSED_MACROS"


def undefined_macros(bindings: Iterable[Binding], final: Final) -> list[Problem]:
    """Macros mentioned in `bindings` that nothing sets, and names of several constants."""
    problems = []
    names = [*final.macros, *registry.constant_names()]
    for binding in bindings:
        for name in macros_in(binding.value):
            constants = registry.constants(name)
            if len(constants) > 1:
                listed = ", ".join(constants)
                message = f"%{name} is ambiguous: write one of the constants {listed}"
                problems.append(Problem(binding.location, message))
            elif not constants and name not in final.macros:
                message = f"macro %{name}, used by {binding.key}, is nowhere set"
                problems.append(Problem(binding.location, message + did_you_mean(name, names)))
    return problems


def circular_macros(final: Final) -> list[Problem]:
    """Macros whose value leads back to themselves."""
    problems = []
    for name, binding in final.macros.items():
        reached: set[str] = set()
        waiting = macros_in(binding.value)
        while waiting:
            each = waiting.pop()
            if each in final.macros and each not in reached:
                reached.add(each)
                waiting += macros_in(final.macros[each].value)
        if name in reached:
            problems.append(Problem(binding.location, f"macro {name} is defined by itself"))
    return problems


def unused_macros(resolved: Resolved, final: Final) -> list[Problem]:
    """Macros that are set in vain.

    A macro is used if a parameter's binding leads to it. Where that binding was itself overridden,
    only a macro set on the command line is a mistake: whoever typed it expects an effect, while
    files set defaults that other files may make moot. A misspelt parameter, reported as such, uses
    its macros too.
    """
    misplaced = _reachable(final, resolved.unplaced)
    in_force = used_macros(final) | misplaced
    uses = (each.value for each in resolved.bindings if not each.is_macro)
    mentioned = _reachable(final, uses) | misplaced
    allowed = {ALLOW_UNUSED, *_allowed(final)}
    problems = []
    for name, binding in final.macros.items():
        if name in in_force or name in allowed:
            continue
        if name not in mentioned:
            others = [each for each in [*in_force, *final.macros] if each != name]
            hint = did_you_mean(name, [each for each in others if each in mentioned])
            hint = hint or _suggest_parameter(name, final)
            message = f"macro {name} is set but nothing uses it{hint}"
            problems.append(Problem(binding.location, message))
        elif binding.location.on_command_line:
            problems.append(_moot(name, binding, final))
    return problems


def used_macros(final: Final) -> set[str]:
    """Macros that the parameters' bindings in force lead to."""
    return _reachable(final, (each.value for each in final if not each.is_macro))


def _reachable(final: Final, values: Iterable[Any]) -> set[str]:
    """Macros that `values` lead to, through other macros too."""
    reached: set[str] = set()
    waiting = [name for value in values for name in macros_in(value)]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            if name in final.macros:
                waiting += macros_in(final.macros[name].value)
    return reached


def _allowed(final: Final) -> list[str]:
    binding = final.macros.get(ALLOW_UNUSED)
    names = binding.value if binding is not None else ()
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _suggest_parameter(name: str, final: Final) -> str:
    """A bound parameter of that name: `--gin.total_steps=5` sets a macro, not the parameter."""
    keys = sorted(
        binding.key for binding in final if not binding.is_macro and binding.parameter == name
    )
    return f"; did you mean {' or '.join(map(repr, keys[:3]))}?" if keys else ""


def _moot(name: str, macro: Binding, final: Final) -> Problem:
    """The problem of a macro all of whose uses were overridden."""
    for binding in final.overridden:
        if not binding.is_macro and name in _reachable(final, [binding.value]):
            winner = final.parameters[binding.scope, binding.selector][binding.parameter]
            return Problem(
                macro.location,
                f"macro {name} has no effect: {binding.key} uses it at {binding.location}, but "
                f"{winner.location} overrides that; set {binding.key} instead",
            )
    return Problem(macro.location, f"macro {name} has no effect: what used it is overridden")
