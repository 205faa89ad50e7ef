"""What gin has registered: the only reader of gin-config's private tables (checked with 0.5)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flan_jax.config.installed import gin, gin_config

MACRO = "gin.macro"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a configurable.

    Attributes:
      required: whether it has no default (gin.REQUIRED as the default counts as none).
      annotation: as written, maybe a string; `inspect.Parameter.empty` if there is none.
    """

    name: str
    required: bool
    default: Any
    annotation: Any


@dataclass(frozen=True)
class Configurable:
    """A registered function or class.

    Attributes:
      selector: the complete name, such as `utils.DatasetConfig`.
      target: the function or class as registered.
    """

    selector: str
    target: Any
    allowlist: tuple[str, ...]
    denylist: tuple[str, ...]

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The plain function that takes the parameters: of a class, its constructor."""
        if not inspect.isclass(self.target):
            return inspect.unwrap(self.target)
        for base in inspect.getmro(self.target):
            for name in ("__init__", "__new__"):
                if name in base.__dict__:
                    return inspect.unwrap(getattr(base, name))
        raise AssertionError("every class inherits object.__init__")

    @cached_property
    def _signature(self) -> inspect.Signature | None:
        try:
            return inspect.signature(self.function)
        except (TypeError, ValueError):  # some builtins do not tell
            return None

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Its parameters by name, without self and *args, in order."""
        if self._signature is None:
            return {}
        named = list(self._signature.parameters.values())
        if inspect.isclass(self.target):
            named = named[1:]
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return {
            each.name: Parameter(
                each.name,
                each.default is inspect.Parameter.empty or each.default is gin.REQUIRED,
                each.default,
                each.annotation,
            )
            for each in named
            if each.kind not in variadic
        }

    @property
    def accepts_any_name(self) -> bool:
        """Whether it takes **kwargs, or does not tell what it takes."""
        if self._signature is None:
            return True
        kinds = (each.kind for each in self._signature.parameters.values())
        return inspect.Parameter.VAR_KEYWORD in kinds

    def bindable(self, name: str) -> bool:
        """Whether allowlist and denylist let `name` be bound."""
        return name not in self.denylist and (not self.allowlist or name in self.allowlist)


def selectors() -> list[str]:
    """The complete selectors of everything registered, gin's own left out."""
    names = [selector for selector, _ in gin_config._REGISTRY.items()]
    return sorted(name for name in names if not name.startswith("gin."))


def matching(selector: str) -> list[str]:
    """Complete selectors that the maybe partial `selector` stands for."""
    return sorted(gin_config._REGISTRY.matching_selectors(selector))


def get(complete: str) -> Configurable:
    """The configurable with the complete selector `complete`."""
    entry = gin_config._REGISTRY[complete]
    return Configurable(
        complete, entry.wrapped, tuple(entry.allowlist or ()), tuple(entry.denylist or ())
    )


def is_method(complete: str) -> bool:
    """Whether `complete` is a method, which must be named with its class."""
    return gin_config._REGISTRY[complete].is_method


def find_object(target: Any) -> str | None:
    """The complete selector under which `target` is registered, if it is."""
    for selector, entry in gin_config._REGISTRY.items():
        if target is entry.wrapped or target is entry.wrapper:
            return selector
    return None


def register(target: Callable[..., Any], name: str, module: str) -> None:
    """Registers `target` as `module.name`, even while gin's configuration is locked."""
    with gin.unlock_config():
        gin.external_configurable(target, name=name, module=module)


def constants(name: str) -> list[str]:
    """The gin constants that `%name` may stand for; they win over macros."""
    return sorted(gin_config._CONSTANTS.matching_selectors(name))


def constant_names() -> list[str]:
    """All gin constants."""
    return sorted(name for name, _ in gin_config._CONSTANTS.items())


def is_required_marker(name: str) -> bool:
    """Whether the macro `name` is gin.REQUIRED."""
    return constants(name) == ["gin.REQUIRED"]
