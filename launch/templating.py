"""Shell scripts from templates: values are quoted by whoever fills them in."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import Any

import jinja2

_FOLDER = Path(__file__).resolve().parent / "templates"
_HELD = re.compile("\0(\\d+)\0")


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def fill(template: str, **values: Any) -> str:
    """The template's text with `values`; runs of blank lines of the template become one."""
    held: list[str] = []

    def hold(value: Any) -> str:
        held.append(str(value))
        return f"\0{len(held) - 1}\0"

    # Values are put in when the template's lines are clean: what is in them stays as it is.
    environment = _environment().overlay(finalize=hold)
    text = environment.get_template(f"{template}.j2").render(**values)
    lines: list[str] = []
    for line in text.split("\n"):
        if line.strip() or (lines and lines[-1].strip()):
            lines.append(line.rstrip())
    clean = "\n".join(lines).strip("\n") + "\n"
    return _HELD.sub(lambda match: held[int(match[1])], clean)


def exports(environment: Iterable[tuple[str, str]]) -> list[str]:
    """`NAME='value'` of each variable, quoted for a shell."""
    return [f"{name}={quote(value)}" for name, value in environment]
