"""Values of gin statements as written: literals, references and macros; and their text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_WIDTH = 100


@dataclass(frozen=True)
class Reference:
    """`@scope/selector`, or with `evaluate` `@scope/selector()`."""

    scope: str
    selector: str
    evaluate: bool

    def __repr__(self) -> str:
        scope = f"{self.scope}/" if self.scope else ""
        return f"@{scope}{self.selector}{'()' if self.evaluate else ''}"


@dataclass(frozen=True)
class Macro:
    """`%name`: the value of a macro or of a gin constant."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True)
class Unreadable:
    """Stands for a value with a syntax error, so that its name still counts as bound."""

    text: str

    def mentioned_macros(self) -> list[str]:
        """Names that follow a % in the text."""
        return re.findall(r"%([A-Za-z_][\w./]*)", self.text)


def leaves(value: Any) -> Iterator[Any]:
    """Everything in `value` that is no container."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(key)
            yield from leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """`value` with `function` applied to everything in it that is no container."""
    if isinstance(value, dict):
        return {map_leaves(function, k): map_leaves(function, v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_leaves(function, item) for item in value)
    return function(value)


def format_value(value: Any) -> str:
    """`value` on one line, so that gin reads back an equal value.

    `repr` does but for infinities (written `inf`, which gin takes for a name) and negative
    imaginary numbers.
    """
    if isinstance(value, dict):
        items = (f"{format_value(key)}: {format_value(item)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(format_value, value)) + "]"
    if isinstance(value, tuple):
        comma = "," if len(value) == 1 else ""
        return "(" + ", ".join(map(format_value, value)) + comma + ")"
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    if isinstance(value, complex) and value.real == 0:
        return f"{value.imag!r}j"
    return repr(value)


def format_statement(key: str, value: Any) -> str:
    """`key = value`; a long container gets a line for each of its items."""
    line = f"{key} = {format_value(value)}"
    if len(line) <= _WIDTH or not isinstance(value, (dict, list, tuple)) or not value:
        return line
    if isinstance(value, dict):
        items = [f"{format_value(each)}: {format_value(item)}" for each, item in value.items()]
    else:
        items = [format_value(item) for item in value]
    opening, closing = {dict: "{}", list: "[]", tuple: "()"}[type(value)]
    body = "".join(f"    {item},\n" for item in items)
    return f"{key} = {opening}\n{body}{closing}"
