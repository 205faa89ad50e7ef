"""Writing configurations down: what is bound before a run, and what a run made use of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from flan_jax.config.errors import Location
from flan_jax.config.final import Final, macros_in
from flan_jax.config.imports import Imports
from flan_jax.config.installed import gin
from flan_jax.config.load import LoadedConfig
from flan_jax.config.macros import used_macros
from flan_jax.config.names import Binding, resolve_names, scoped
from flan_jax.config.search_paths import SearchPaths
from flan_jax.config.statements import Assignment, Block, Import, read_statements
from flan_jax.config.values import format_statement, format_value
from flan_jax.files import write_atomically


def resolved_config_text(loaded: LoadedConfig) -> str:
    """The bindings in force, sorted, each with where it comes from; itself a gin file.

    For `--print_config`, before anything runs. A value that mentions macros is followed by what
    it stands for.
    """
    shown = SearchPaths.create()
    head = [f"# Read from: {shown.display(path)}" for path in loaded.files]
    final = Final(loaded.bindings)

    def comment(binding: Binding) -> str:
        origin = f"from {binding.location}"
        if not macros_in(binding.value):
            return origin
        return f"= {format_value(final.value(binding.value))}, {origin}"

    return _text(head, loaded.imports, loaded.bindings, comment)


def operative_config_text() -> str:
    """The operative configuration: every value that configurables called so far made use of.

    Defaults are spelt out. Names are complete and user modules imported, so that `load` accepts
    the text in a new process. gin leaves out what is no literal.
    """
    location = Location(0, 0, "operative configuration")
    reading = read_statements(gin.operative_config_str(), lambda line: location)
    if reading.problems:
        raise RuntimeError(f"gin wrote what it cannot read: {reading.problems[0]}")
    imports = Imports()
    statements = [
        (each, imports) for each in reading.statements if isinstance(each, Assignment | Block)
    ]
    modules = [each.module for each in reading.statements if isinstance(each, Import)]
    resolved = resolve_names(statements)
    if resolved.problems:
        raise RuntimeError(f"gin wrote what it cannot resolve: {resolved.problems[0]}")
    # gin records the macros of arguments that a caller then gave itself; nothing uses those.
    final = Final(resolved.bindings)
    used = used_macros(final)
    kept = [each for each in final if not each.is_macro or each.parameter in used]
    return _text([], modules, kept, lambda binding: "")


def save_operative_config(path: str | os.PathLike[str]) -> None:
    """Writes the operative configuration to the local file `path`, whole or not at all."""
    save_text(path, operative_config_text())


def save_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to the local file `path`, whole or not at all.

    Raises:
      ValueError: if `path` is remote (`gs://...`).
    """
    if "://" in os.fspath(path):
        raise ValueError(f"{os.fspath(path)!r} is remote; configurations are written locally")
    write_atomically(os.fspath(path), text)


def _text(
    head: Sequence[str],
    imports: Iterable[str],
    bindings: Sequence[Binding],
    comment: Callable[[Binding], str],
) -> str:
    """A gin file of `bindings`: imports, macros, then a section for each configurable."""
    lines = [*head, *(f"import {module}" for module in imports)]
    section = None
    for binding in bindings:
        title = "Macros" if binding.is_macro else scoped(binding.scope, binding.selector)
        if title != section:
            lines += ["", f"# {title}"] if lines else [f"# {title}"]
            section = title
        statement = format_statement(binding.key, binding.value)
        note = " ".join(comment(binding).split())
        lines.append(f"{statement}  # {note}" if note else statement)
    return "\n".join(lines) + "\n"
