"""Resolving the names in statements: configurables, parameters, references."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from flan_jax.config import registry
from flan_jax.config.errors import Location, Problem
from flan_jax.config.imports import Imports
from flan_jax.config.statements import Assignment, Block
from flan_jax.config.values import Reference, map_leaves
from flan_jax.suggestions import did_you_mean


@dataclass(frozen=True)
class Binding:
    """A value bound to a parameter or a macro, its names resolved.

    Attributes:
      scope: scopes joined by `/`; empty for none, and for macros.
      selector: complete selector of the configurable; empty for a macro.
      parameter: name of the parameter, or of the macro with its scopes.
      value: literal in which references (complete selectors) and macros are unresolved.
      location: where it was bound.
    """

    scope: str
    selector: str
    parameter: str
    value: Any
    location: Location

    @property
    def is_macro(self) -> bool:
        """Whether it sets a macro."""
        return not self.selector

    @property
    def key(self) -> str:
        """As written in a gin file: `train/utils.DatasetConfig.batch_size` or `MODEL_DIR`."""
        if self.is_macro:
            return self.parameter
        return f"{scoped(self.scope, self.selector)}.{self.parameter}"


def scoped(scope: str, selector: str) -> str:
    """`scope/selector`, or `selector` if there is no scope."""
    return f"{scope}/{selector}" if scope else selector


@dataclass
class Resolved:
    """Bindings with complete names, and the names that could not be resolved.

    Attributes:
      unplaced: values of assignments whose own name could not be resolved.
    """

    bindings: list[Binding] = field(default_factory=list)
    unplaced: list[Any] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def resolve_names(statements: Iterable[tuple[Assignment | Block, Imports]]) -> Resolved:
    """Resolves every name in `statements`, overridden ones too: a misspelt name is a mistake."""
    resolved = Resolved()
    bad_block: tuple[str, str] | None = None
    for statement, imports in statements:
        location = statement.location
        if isinstance(statement, Block):
            _, message = _resolve(statement.selector, imports)
            bad_block = (statement.scope, statement.selector) if message else None
            if message:
                resolved.problems.append(Problem(location, message))
            continue
        value, messages = _resolve_references(statement.value, imports)
        binding, message = _resolve_target(statement, imports, value)
        in_bad_block = bad_block == (statement.scope, statement.selector)
        if message and not in_bad_block:  # else its header was reported
            messages.append(message)
        resolved.problems += [Problem(location, each) for each in messages if each.strip()]
        if binding is None:
            resolved.unplaced.append(value)
        else:
            resolved.bindings.append(binding)
    return resolved


# A message for what was reported already, as the import that failed.
_REPORTED = " "


def _resolve_references(value: Any, imports: Imports) -> tuple[Any, list[str]]:
    messages: list[str] = []

    def resolve(leaf: Any) -> Any:
        if not isinstance(leaf, Reference):
            return leaf
        complete, message = _resolve(leaf.selector, imports)
        if complete is None:
            messages.append(f"in the reference {leaf!r}: {message}" if message.strip() else message)
            return leaf
        return Reference(leaf.scope, complete, leaf.evaluate)

    return map_leaves(resolve, value), messages


def _resolve_target(
    statement: Assignment, imports: Imports, value: Any
) -> tuple[Binding | None, str]:
    """The binding that `statement` makes, or what is wrong with its name."""
    scope, selector, name = statement.scope, statement.selector, statement.parameter
    if not name:
        return Binding("", "", scoped(scope, selector), value, statement.location), ""
    complete, message = _resolve(selector, imports)
    if complete is None:
        return None, message
    if complete == registry.MACRO:
        return Binding("", "", scope, value, statement.location), ""
    message = _parameter_problem(registry.get(complete), name)
    binding = None if message else Binding(scope, complete, name, value, statement.location)
    return binding, message


def _resolve(selector: str, imports: Imports) -> tuple[str | None, str]:
    """The complete selector of what `selector` names; else None and what is wrong."""
    for candidate in imports.candidates(selector):
        matches = registry.matching(candidate)
        if len(matches) == 1:
            return matches[0], ""
    try:
        registered = imports.register(selector)
    except ValueError as error:
        return None, f"cannot register {selector!r}: {str(error).splitlines()[0]}"
    if registered is not None:
        return registered, ""
    matches = registry.matching(selector)
    if len(matches) > 1:
        return None, f"{selector!r} is ambiguous: write one of {', '.join(matches)}"
    if not matches:
        if imports.is_of_failed(selector):
            return None, _REPORTED
        return None, f"no configurable is called {selector!r}{suggest_selector(selector)}"
    if registry.is_method(matches[0]) and "." not in selector:
        method = ".".join(matches[0].split(".")[-2:])
        return None, f"the method {selector!r} must be named with its class: {method!r}"
    return matches[0], ""


def suggest_selector(selector: str) -> str:
    """The registered name that `selector` was probably meant to be, as a message's end."""
    names = registry.selectors()
    module, _, last = selector.rpartition(".")
    moved = [name for name in names if name.rpartition(".")[2] == last]
    if moved:  # the name is right and its module wrong
        return "; did you mean " + " or ".join(map(repr, moved[:3])) + "?"
    if module:
        siblings = {name for name in names if name.rpartition(".")[0].endswith(module)}
        hint = did_you_mean(last, (name.rpartition(".")[2] for name in siblings), limit=1)
        if hint:
            return hint.replace("'", f"'{module}.", 1)
    parts = selector.count(".") + 1
    return did_you_mean(selector, {".".join(name.split(".")[-parts:]) for name in names}, limit=1)


def _parameter_problem(configurable: registry.Configurable, name: str) -> str:
    """Why `name` cannot be bound, or nothing."""
    exists = name in configurable.parameters or configurable.accepts_any_name
    if exists and configurable.bindable(name):
        return ""
    bindable = [each for each in configurable.parameters if configurable.bindable(each)]
    if exists:
        listed = ", ".join(bindable) or "nothing"
        return (
            f"{configurable.selector} does not let {name!r} be configured; "
            f"it can be given: {listed}"
        )
    hint = did_you_mean(name, bindable)
    if not hint:
        hint = f"; its parameters: {', '.join(bindable) or 'none'}"
    return f"{configurable.selector} has no parameter {name!r}{hint}"
