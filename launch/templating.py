"""Shell scripts from templates: values are quoted by whoever fills them in."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import Any

import jinja2

_FOLDER = Path(__file__).resolve().parent / "templates"


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
    """The template's text with `values`; runs of blank lines become one."""
    text = _environment().get_template(f"{template}.j2").render(**values)
    lines: list[str] = []
    for line in text.splitlines():
        if line.strip() or (lines and lines[-1].strip()):
            lines.append(line.rstrip())
    return "\n".join(lines).strip("\n") + "\n"


def exports(environment: Iterable[tuple[str, str]]) -> list[str]:
    """`NAME='value'` of each variable, quoted for a shell."""
    return [f"{name}={quote(value)}" for name, value in environment]
