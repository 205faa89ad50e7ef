"""Checks that every value that must be given is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flan_jax.config import registry
from flan_jax.config.errors import NOWHERE, Location, Problem
from flan_jax.config.final import Final
from flan_jax.config.names import scoped, suggest_selector
from flan_jax.config.values import Macro, Reference, leaves


def marked_required(final: Final) -> list[Problem]:
    """Bindings in force that still say %gin.REQUIRED."""
    problems = []
    for binding in final:
        for leaf in leaves(binding.value):
            if isinstance(leaf, Macro) and registry.is_required_marker(leaf.name):
                message = (
                    f"{binding.key} is required and not set: pass --gin.{binding.key}=VALUE or "
                    "set it in a gin file"
                )
                problems.append(Problem(binding.location, message))
    return problems


class _Reachable:
    """Walks from configurables that will be called to all that their bindings refer to."""

    def __init__(self, final: Final) -> None:
        self._final = final
        self._seen: set[tuple[str, tuple[str, ...], bool]] = set()
        self.problems: list[Problem] = []

    def visit(self, selector: str, scope: tuple[str, ...], called: bool, origin: Location) -> None:
        """Looks at `selector` in `scope`; `called` if gin (or a command) calls it without
        arguments, so that whatever has no default must be bound.
        """
        if (selector, scope, called) in self._seen or registry.matching(selector) != [selector]:
            return
        self._seen.add((selector, scope, called))
        bound = self._final.effective(selector, scope)
        if called:
            self._report_missing(selector, scope, set(bound), origin)
        for binding in bound.values():
            self._visit_value(binding.value, scope, binding.location)

    def _visit_value(self, value: Any, scope: tuple[str, ...], origin: Location) -> None:
        for leaf in leaves(value):
            if isinstance(leaf, Reference):
                # gin opens the scope of a reference anew; without one, the caller's stays.
                inner = tuple(leaf.scope.split("/")) if leaf.scope else scope
                self.visit(leaf.selector, inner, leaf.evaluate, origin)
            elif isinstance(leaf, Macro) and leaf.name in self._final.macros:
                key = ("%" + leaf.name, scope, True)
                if key not in self._seen:
                    self._seen.add(key)
                    binding = self._final.macros[leaf.name]
                    # A macro is itself called in a scope of its name.
                    self._visit_value(binding.value, tuple(leaf.name.split("/")), binding.location)

    def _report_missing(
        self, selector: str, scope: tuple[str, ...], bound: set[str], origin: Location
    ) -> None:
        configurable = registry.get(selector)
        missing = [
            parameter.name
            for parameter in configurable.parameters.values()
            if parameter.required
            and parameter.name not in bound
            and configurable.bindable(parameter.name)
        ]
        if not missing:
            return
        where = scoped("/".join(scope), selector)
        plural = len(missing) > 1
        names = ", ".join(map(repr, missing))
        self.problems.append(
            Problem(
                origin,
                f"{where} is called without the required {'parameters' if plural else 'parameter'} "
                f"{names}: set {where}.{missing[0]}{' and so on' if plural else ''}",
            )
        )


def missing_parameters(final: Final, roots: Sequence[str]) -> list[Problem]:
    """Parameters without default that nothing binds, of `roots` and of what they lead to."""
    walk = _Reachable(final)
    for root in roots:
        *scope, selector = root.split("/")
        matches = registry.matching(selector)
        if len(matches) == 1:
            walk.visit(matches[0], tuple(scope), True, NOWHERE)
        elif matches:
            message = f"{selector!r} is ambiguous: {', '.join(matches)} are registered"
            walk.problems.append(Problem(NOWHERE, message))
        else:
            hint = suggest_selector(selector)
            message = f"{selector!r}, which is to be run, is not registered with gin{hint}"
            walk.problems.append(Problem(NOWHERE, message))
    return walk.problems
