"""The bindings that are in force once later statements have overridden earlier ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flan_jax.config import registry
from flan_jax.config.annotations import UNKNOWN
from flan_jax.config.names import Binding
from flan_jax.config.values import Macro, Unreadable, leaves, map_leaves


class Final:
    """The last binding of every parameter and macro.

    Attributes:
      parameters: (scope, complete selector) -> parameter -> binding.
      macros: name -> binding.
      overridden: the bindings that a later one replaced.
    """

    def __init__(self, bindings: Iterable[Binding]) -> None:
        self.parameters: dict[tuple[str, str], dict[str, Binding]] = {}
        self.macros: dict[str, Binding] = {}
        self.overridden: list[Binding] = []
        for binding in bindings:
            if binding.is_macro:
                table = self.macros
            else:
                table = self.parameters.setdefault((binding.scope, binding.selector), {})
            if binding.parameter in table:
                self.overridden.append(table[binding.parameter])
            table[binding.parameter] = binding

    def __iter__(self):
        """All bindings in force: macros first, then parameters, as a gin file would list them."""
        yield from (self.macros[name] for name in sorted(self.macros))
        for scope, selector in sorted(self.parameters, key=lambda each: (each[1], each[0])):
            table = self.parameters[scope, selector]
            yield from (table[name] for name in sorted(table))

    def effective(self, selector: str, scope: tuple[str, ...]) -> dict[str, Binding]:
        """What `selector` is given when called in `scope`: inner scopes win over outer ones."""
        found: dict[str, Binding] = {}
        for length in range(len(scope) + 1):
            found |= self.parameters.get(("/".join(scope[:length]), selector), {})
        return found

    def macro(self, name: str) -> Binding | None:
        """The literal end of the macro `name`: `A = %B` stands for B. None if there is no end."""
        seen: set[str] = set()
        while name in self.macros and name not in seen and not registry.constants(name):
            seen.add(name)
            binding = self.macros[name]
            if not isinstance(binding.value, Macro):
                return binding
            name = binding.value.name
        return None

    def value(self, value: Any, within: frozenset[str] = frozenset()) -> Any:
        """`value` with macros replaced by what they stand for, UNKNOWN where that is unknown."""

        def resolve(leaf: Any) -> Any:
            if isinstance(leaf, Unreadable):
                return UNKNOWN
            if not isinstance(leaf, Macro):
                return leaf
            binding = self.macros.get(leaf.name)
            if binding is None or leaf.name in within or registry.constants(leaf.name):
                return UNKNOWN
            return self.value(binding.value, within | {leaf.name})

        return map_leaves(resolve, value)


def macros_in(value: Any) -> list[str]:
    """Names of the macros mentioned in `value`, once each, in order."""
    names: list[str] = []
    for leaf in leaves(value):
        if isinstance(leaf, Macro):
            names.append(leaf.name)
        elif isinstance(leaf, Unreadable):
            names += leaf.mentioned_macros()
    return list(dict.fromkeys(names))
