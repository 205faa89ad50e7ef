"""Reading all the gin files and command line bindings of a configuration, includes followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flan_jax.config.errors import Location, Problem, command_line
from flan_jax.config.imports import Imports
from flan_jax.config.search_paths import SearchPaths
from flan_jax.config.statements import Assignment, Block, Import, Include, read_statements


@dataclass
class Sources:
    """Everything that files and bindings say, in gin's order (later overrides earlier).

    Attributes:
      statements: assignments and block headers, with the imports of their file.
      problems: what could not be read, found or imported.
      files: the files read, in the order they were first read.
      complete: whether every file was found; if not, whatever seems missing may be in it.
      modules: modules of the user that were imported.
    """

    search_paths: SearchPaths
    statements: list[tuple[Assignment | Block, Imports]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    complete: bool = True
    modules: list[str] = field(default_factory=list)

    def read_file(self, name: str, origin: Location, within: tuple[Path, ...] = ()) -> None:
        """Reads the file `name`, asked for at `origin` by the files `within`."""
        path = self.search_paths.find(name)
        if path is None:
            self.problems.append(Problem(origin, self.search_paths.missing(name)))
            self.complete = False
            return
        path = path.resolve()
        if path in within:
            chain = " -> ".join(map(self.search_paths.display, (*within, path)))
            self.problems.append(Problem(origin, f"files include each other in a circle: {chain}"))
            return
        if path not in self.files:
            self.files.append(path)
        order, shown = self.files.index(path), self.search_paths.display(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(Problem(origin, f"cannot read gin file {shown!r}: {error}"))
            self.complete = False
            return
        self._read(text, lambda line: Location(order, line, shown), (*within, path))

    def read_binding(self, text: str, index: int) -> None:
        """Reads the `index`-th statement of the command line."""
        name, equals, value = text.partition("=")
        flag = f"--gin.{name.strip()}={value.strip()}" if equals else f"--gin_bindings={text}"
        location = command_line(flag, index)
        self._read(text, lambda line: location, ())

    def _read(self, text, locate, within: tuple[Path, ...]) -> None:
        reading = read_statements(text, locate)
        self.problems += reading.problems
        imports = Imports()
        for statement in reading.statements:
            match statement:
                case Include():
                    self.read_file(statement.filename, statement.location, within)
                case Import():
                    problem = imports.add(statement)
                    if problem:
                        self.problems.append(problem)
                    elif statement.module in imports.modules.values():
                        self.modules.append(statement.module)
                case _:
                    self.statements.append((statement, imports))


def read_sources(
    gin_files: Sequence[str], bindings: Sequence[str], search_paths: SearchPaths
) -> Sources:
    """Reads `gin_files`, then `bindings`."""
    sources = Sources(search_paths)
    for index, name in enumerate(gin_files):
        sources.read_file(name, command_line(f"--gin_file={name}", index))
    for index, text in enumerate(bindings):
        sources.read_binding(text, len(gin_files) + index)
    return sources
