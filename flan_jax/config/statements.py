"""Reading the statements of one gin text, with their lines, past syntax errors."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flan_jax.config.errors import Location, Problem
from flan_jax.config.installed import config_parser
from flan_jax.config.values import Macro, Reference, Unreadable
from flan_jax.suggestions import did_you_mean

_NAME = r"[A-Za-z_][\w./]*"
_STATEMENT = re.compile(rf"(?:(?:import|from|include)\b|{_NAME}\s*[=:])")
_ASSIGNMENT = re.compile(rf"\s*({_NAME})\s*=")
_HEADER = re.compile(rf"({_NAME})\s*:\s*(?:#.*)?$")
_BAD_TOKEN = re.compile(r"Failed to parse token '(.*)'", re.DOTALL)


class ParserDelegate(config_parser.ParserDelegate):
    """Makes gin's parser keep references and macros as written, looking nothing up."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        """Keeps `@scope/name` or `@scope/name()`."""
        scope, _, selector = scoped_configurable_name.rpartition("/")
        return Reference(scope, selector, evaluate)

    def macro(self, macro_name: str) -> Macro:
        """Keeps `%name`."""
        return Macro(macro_name)


@dataclass(frozen=True)
class Assignment:
    """`scope/selector.parameter = value`; for `MACRO = value` the parameter is empty."""

    scope: str
    selector: str
    parameter: str
    value: Any
    location: Location


@dataclass(frozen=True)
class Block:
    """`scope/selector:`, whose assignments follow."""

    scope: str
    selector: str
    location: Location


@dataclass(frozen=True)
class Include:
    """`include "filename"`."""

    filename: str
    location: Location


@dataclass(frozen=True)
class Import:
    """`import module [as name]` or `from package import module [as name]`.

    Attributes:
      module: full dotted name of the module.
      name: the name it is bound to in the file.
    """

    module: str
    name: str
    location: Location


Statement = Assignment | Block | Include | Import


@dataclass
class Reading:
    """What one text says: its statements, and what could not be read."""

    statements: list[Statement] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_statements(text: str, locate: Callable[[int], Location]) -> Reading:
    """The statements of `text`, in order.

    After a syntax error, reading goes on at the next line that begins like a statement; names
    assigned in between are kept with an `Unreadable` value, so that one typing mistake is not
    reported again as a value that is missing.

    Args:
      text: gin statements.
      locate: the location for a line number (from 1).
    """
    reading = Reading()
    lines = text.replace("\r\n", "\n").split("\n")
    start = 0
    while start < len(lines):
        # Blank lines in place of what was read keep the line numbers right.
        failure = _read_from("\n" * start + "\n".join(lines[start:]) + "\n", locate, reading)
        if failure is None:
            break
        first, error = failure
        begin = _first_statement(lines, max(first - 1, start))
        resume = next(
            (i for i in range(begin + 1, len(lines)) if _STATEMENT.match(lines[i])), len(lines)
        )
        reading.problems.append(_syntax_problem(error, lines, begin, locate))
        reading.statements += _salvage(lines, begin, resume, locate)
        start = resume
    return reading


def _read_from(
    text: str, locate: Callable[[int], Location], reading: Reading
) -> tuple[int, Exception] | None:
    """Adds statements to `reading`; on an error, the line to look for its statement, and it."""
    line = 1
    try:
        parser = config_parser.ConfigParser(text, ParserDelegate())
        while True:
            line = parser.current_token.start[0]
            statement = parser.parse_statement()
            if statement is None:
                return None
            reading.statements.append(_convert(statement, locate))
    except (SyntaxError, tokenize.TokenError, TypeError, ValueError) as error:
        return line, error


def _convert(statement: Any, locate: Callable[[int], Location]) -> Statement:
    location = locate(statement.location.line_num)
    match statement:
        case config_parser.BindingStatement():
            return Assignment(
                statement.scope, statement.selector, statement.arg_name, statement.value, location
            )
        case config_parser.BlockDeclaration():
            return Block(statement.scope, statement.selector, location)
        case config_parser.IncludeStatement():
            return Include(statement.filename, location)
        case _:
            return Import(statement.module, statement.bound_name(), location)


def _first_statement(lines: list[str], index: int) -> int:
    """Index of the first line from `index` on that is neither blank nor a comment."""
    for i in range(index, len(lines)):
        if lines[i].strip() and not lines[i].lstrip().startswith("#"):
            return i
    return min(index, len(lines) - 1)


def _syntax_problem(
    error: Exception, lines: list[str], begin: int, locate: Callable[[int], Location]
) -> Problem:
    message = getattr(error, "msg", None) or str(error.args[0] if error.args else error)
    message = message.split("  Got ")[0]  # a token's name; the line shows it
    index = (getattr(error, "lineno", None) or begin + 1) - 1
    if not begin <= index < len(lines):
        index = begin
    if isinstance(error, tokenize.TokenError) or (index > begin and _STATEMENT.match(lines[index])):
        # The parser ran into the next statement, or off the end.
        return Problem(
            locate(begin + 1),
            f"syntax error: a bracket or string opened here is never closed: "
            f"{lines[begin].strip()!r}",
        )
    if bad := _BAD_TOKEN.search(message):
        token = bad.group(1)
        hint = did_you_mean(token, ("True", "False", "None"))
        message = f"cannot read the value {token}: a string needs quotes{hint}"
    elif message == "Unable to parse value." and lines[index].rstrip().endswith("="):
        message = "a value must follow '='"
    return Problem(
        locate(index + 1), f"syntax error: {message.rstrip('.')}: {lines[index].strip()!r}"
    )


def _salvage(
    lines: list[str], begin: int, end: int, locate: Callable[[int], Location]
) -> list[Statement]:
    """Assignments of the names that the unreadable lines `begin` to `end` seem to bind."""
    found: list[Statement] = []
    header = _HEADER.match(lines[begin])
    # Only a block holds several assignments; else what follows continues the first one.
    for i in range(begin, end if header else begin + 1):
        name = _ASSIGNMENT.match(lines[i])
        if name is None:
            continue
        key = f"{header.group(1)}.{name.group(1)}" if header else name.group(1)
        text = lines[i] if header else "\n".join(lines[begin:end])
        scope, selector, parameter = config_parser.parse_binding_key(key)
        found.append(Assignment(scope, selector, parameter, Unreadable(text), locate(i + 1)))
    return found
