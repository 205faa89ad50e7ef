"""promptsource's prompt templates: the file format, and what a template makes of a row.

promptsource (Bach et al., 2022) keeps the templates of a dataset in a file `templates.yaml`. A
template is one jinja2 pattern for both the prompt and its answer, with `|||` between them; it may
have a pattern for the answer choices, again with `|||` between them, which the first pattern sees
as the list `answer_choices`. Written from the format and its conventions:

* a row that does not come out as exactly one prompt and one answer, neither of them empty, is left
  out: that is how templates pass over rows they do not fit;
* `|||` in the row's own texts is text;
* column names may hold `-`, which patterns write `_`;
* patterns may use `zip`, and the filters `choice` (one of a list, at random), `most_frequent` (the
  items that occur most often) and `highlight` (text as it is; promptsource colours it on screen).
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import jinja2.sandbox
import yaml
from jinja2.runtime import Context

from flan_jax.draws import Draws
from flan_jax.sources.base import Row, SourceError, SourceMissingError
from flan_jax.suggestions import did_you_mean

SEPARATOR = "|||"
_TAGS = ("!TemplateGroup", "!Template", "!TemplateMetadata")
_DRAWS = "flan_jax_draws"
# Pipes of a row that could be taken for (part of) a separator, and what stands in for a pipe
# meanwhile: a character for private use, of which texts have none.
_PIPES = re.compile(r"\|{3,}|\A\|+|\|+\Z")
_STAND_IN = "\U0010f7f1"


class _NothingToChooseError(Exception):
    """A pattern asks for one of no items: the row does not fit the template."""


@jinja2.pass_context
def _choice(context: Context, items: Sequence[Any]) -> Any:
    items = list(items)
    if not items:
        raise _NothingToChooseError
    return context.resolve(_DRAWS).choice(items)


def _most_frequent(items: Sequence[Any]) -> list[Any]:
    counts = Counter(items)
    most = max(counts.values(), default=0)
    return [item for item, count in counts.items() if count == most]


# Not strict about undefined values, because templates test for missing parts of a row; a missing
# column is found by `PromptTemplate.columns`.
_ENVIRONMENT = jinja2.sandbox.SandboxedEnvironment(autoescape=False)
_ENVIRONMENT.globals["zip"] = zip
_ENVIRONMENT.filters |= {"choice": _choice, "most_frequent": _most_frequent, "highlight": str}


@functools.cache
def _compile(pattern: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(pattern)


@functools.cache
def _names_in(pattern: str) -> frozenset[str]:
    """Names that `pattern` takes from outside."""
    names = jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(pattern))
    return frozenset(names - _ENVIRONMENT.globals.keys())


@dataclass(frozen=True)
class Prompted:
    """A row put into words.

    Attributes:
      inputs: the prompt.
      answer: what it asks for.
      options: the answer choices; empty if the template has none.
    """

    inputs: str
    answer: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class PromptTemplate:
    """One of promptsource's templates.

    Attributes:
      name: its name, unique in its file.
      jinja: pattern of prompt and answer.
      answer_choices: pattern of the answer choices; none if empty.
      where: file and name, for messages.
    """

    name: str
    jinja: str
    answer_choices: str = ""
    where: str = ""

    def columns(self) -> frozenset[str]:
        """Names that the patterns take from the row."""
        return (_names_in(self.jinja) | _names_in(self.answer_choices)) - {"answer_choices"}

    def apply(self, row: Row, *key: int | str) -> Prompted | None:
        """`row` in words; None if it does not fit the template.

        Args:
          row: the row, plain Python values by column.
          *key: what the row is known by: random choices are a function of the template's name and
            this.

        Raises:
          SourceError: the row lacks a column, or the pattern fails on it; names template and row.
        """
        values = {name.replace("-", "_"): _guard(value) for name, value in row.items()}
        missing = sorted(self.columns() - values.keys())
        if missing:
            raise SourceError(
                f"{self.where}: row {_shown(key)} has no column {missing[0]!r}"
                f"{did_you_mean(missing[0], values)} (columns: {', '.join(sorted(values))})"
            )
        values[_DRAWS] = Draws("promptsource", self.name, *key)
        try:
            choices = self._parts(self.answer_choices, values) if self.answer_choices else None
            parts = self._parts(self.jinja, {**values, "answer_choices": choices})
        except _NothingToChooseError:
            return None
        except Exception as error:  # what a pattern may raise depends on what it does
            raise SourceError(
                f"{self.where}: the template fails at row {_shown(key)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if len(parts) != 2 or not all(parts):
            return None
        return Prompted(parts[0], parts[1], tuple(choices or ()))

    def _parts(self, pattern: str, values: Mapping[str, Any]) -> list[str]:
        text = _compile(pattern).render(values)
        return [part.replace(_STAND_IN, "|").strip() for part in text.split(SEPARATOR)]


def _shown(key: tuple[int | str, ...]) -> str:
    return " ".join(map(str, key)) or "(unnamed)"


def _guard(value: Any) -> Any:
    """`value` with pipes replaced that could be taken for a separator, at any depth."""
    if isinstance(value, str):
        return _PIPES.sub(lambda match: _STAND_IN * len(match[0]), value)
    if isinstance(value, Mapping):
        return {key: _guard(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_guard(part) for part in value]
    return value


class _Loader(yaml.SafeLoader):
    """YAML without objects: promptsource's tags mark mappings, any other tag is an error."""


def _mapping(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(
            None, None, f"expected a mapping after {node.tag}", node.start_mark
        )
    return loader.construct_mapping(node, deep=True)


for _tag in _TAGS:
    _Loader.add_constructor(_tag, _mapping)


@functools.cache
def read_templates(path: Path) -> Mapping[str, PromptTemplate]:
    """The templates of a file of promptsource's, by name.

    Raises:
      SourceMissingError: there is no such file.
      SourceError: it is malformed; names file and template.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise SourceMissingError(
            f"{path} does not exist: get it from folder promptsource/templates of "
            "github.com/bigscience-workshop/promptsource"
        ) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SourceError(f"{path} is not a YAML file of promptsource's: {error}") from error
    entries = content.get("templates") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not entries:
        raise SourceError(f"{path} has no mapping `templates:`; is it promptsource's?")
    templates: dict[str, PromptTemplate] = {}
    for identity, entry in entries.items():
        template = _template(path, str(identity), entry)
        if template.name in templates:
            raise SourceError(f"{template.where}: two templates have this name")
        templates[template.name] = template
    return templates


def _template(path: Path, identity: str, entry: Any) -> PromptTemplate:
    if not isinstance(entry, dict):
        raise SourceError(f"{path}: template {identity} must be a mapping, found {entry!r}")
    where = f"{path}: template {entry.get('name') or identity!r}"
    for key in ("name", "jinja"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise SourceError(
                f"{where}: `{key}` must be a text that is not empty, found {entry.get(key)!r}"
            )
    name, jinja, choices = entry["name"], entry["jinja"], entry.get("answer_choices")
    if choices is not None and not isinstance(choices, str):
        raise SourceError(f"{where}: `answer_choices` must be a text or null, found {choices!r}")
    try:
        _compile(jinja)
        _compile(choices or "")
    except jinja2.TemplateSyntaxError as error:
        raise SourceError(f"{where}: {error.message} (line {error.lineno} of a pattern)") from error
    return PromptTemplate(name, jinja, choices or "", where)


def get_template(path: Path, name: str) -> PromptTemplate:
    """The template called `name` in a file. Raises SourceError with a suggestion."""
    templates = read_templates(path)
    if name not in templates:
        raise SourceError(f"{path} has no template {name!r}{did_you_mean(name, templates)}")
    return templates[name]
