r"""Prompt templates: pairs of jinja2 patterns for a task's inputs and targets, kept in YAML.

A template file lies beside its task and reads::

    templates:                       # at least one
    - inputs: "Spell {{ word }} backwards.{{ options }}"
      targets: "{{ answer }}"
    - inputs: "Which of these is {{ word }} reversed?{{ options }}"
      targets: "{{ answer }}"
      needs_options: true            # makes no sense when options are not shown
    cot:                             # only for tasks with worked reasoning
    - inputs: "Spell {{ word }} backwards, letter by letter."
      targets: "{{ reasoning }} So the answer is {{ answer }}."

A pattern may use the row's fields, and `options`, which becomes the block of answer options (with
its leading line break) or nothing, as the variant asks.

A template whose inputs hold a long instruction may say how to give it once in few-shot prompts::

    - inputs: "{{ definition }} Input: {{ input }}"
      targets: "{{ answer }}"
      instruction: "{{ definition }}"    # few-shot prompts begin with it
      shot: "{{ input }}"                # and word every exemplar, and the query, like this

Few-shot prompts may have short patterns of their own, which bring their layout::

    few_shot:                        # likewise cot_few_shot, inverted_few_shot
    - inputs: "{{ word }}{{ options }}"
      targets: "{{ answer }}"
      before_input: "Word: "           # before every input, the query's too; default ""
      before_target: "\nBackwards: "   # before every target; default a line break
      between: "\n\n"                  # between exemplars; default a blank line
      opening: "Spell backwards."      # once, above all exemplars
      exemplars: false                 # the pattern shows its own examples: none are drawn
      requires: positive_examples      # only for rows where this field is not empty

Any template may say what `flan-jax tasks check` is to let pass, where that is meant::

      allow: [option_talk]             # see CHECKS

A section may be the name of another file of the same folder, which holds it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox
import yaml

from flan_jax.errors import UserError
from flan_jax.prompts.fewshot import Layout
from flan_jax.sources.base import Row
from flan_jax.suggestions import did_you_mean

_ANSWER_ALONE = re.compile(r"\s*\{\{\s*answer\s*\}\}\s*")
# What `allow` may name: checks of flan_jax.prompts.template_checks whose findings may be meant.
CHECKS = ("option_talk", "answer_leak", "near_duplicate", "form")
_COMMON_KEYS = ("inputs", "targets", "needs_options", "requires", "allow")
_ZERO_SHOT_KEYS = (*_COMMON_KEYS, "instruction", "shot")
_LAYOUT_KEYS = ("before_input", "before_target", "between", "opening")
_FEW_SHOT_KEYS = (*_COMMON_KEYS, *_LAYOUT_KEYS, "exemplars")
FEW_SHOT = "few_shot"


class TemplateError(UserError):
    """A template file is malformed or does not fit its task's fields."""


# Sandboxed because templates may come from outside; strict because a silently empty field would
# teach the model to answer a question it was not given.
_ENVIRONMENT = jinja2.sandbox.ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, autoescape=False
)


# libyaml's parser where PyYAML has it: ten times as fast, which counts at a hundred files.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


# Names that mean something to jinja2 itself.
_RESERVED = frozenset(
    "and caller else false False if in is loop none None not or self super true True varargs "
    "kwargs".split()
) | frozenset(_ENVIRONMENT.globals)
_FIELD = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}", re.ASCII)


class _Plain:
    """A pattern of texts and `{{ field }}` alone, as most are: jinja2's result for less.

    `render` raises KeyError for a missing field; jinja2 then says what is wrong.
    """

    __slots__ = ("_parts", "_places", "fields")

    def __init__(self, parts: list[str]):
        self._parts = parts
        self._places = list(zip(range(1, len(parts), 2), parts[1::2], strict=True))
        self.fields = frozenset(parts[1::2])

    def render(self, values: Mapping[str, Any]) -> str:
        parts = self._parts.copy()
        for place, name in self._places:
            value = values[name]
            parts[place] = value if value.__class__ is str else str(value)
        return "".join(parts)


@functools.cache
def _plain(pattern: str) -> _Plain | None:
    """`pattern` if it is plain: no statement, filter or comment, nothing that jinja2 would mend."""
    parts = _FIELD.split(pattern)
    texts = parts[::2]
    if any(mark in text for text in texts for mark in ("{{", "{%", "{#", "}}", "\r")):
        return None
    # Braces that touch an expression's own change what it is.
    if any(text.endswith("{") for text in texts[:-1]) or any(t.startswith("}") for t in texts[1:]):
        return None
    return None if _RESERVED & set(parts[1::2]) else _Plain(parts)


@functools.cache
def _compile(pattern: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(pattern)


def parse_pattern(pattern: str) -> jinja2.nodes.Template:
    """The syntax tree of `pattern`. Raises jinja2's TemplateSyntaxError if it is malformed."""
    return _ENVIRONMENT.parse(pattern)


@functools.cache
def fields_of(pattern: str) -> frozenset[str]:
    """Names that `pattern` takes from the row (`options` included)."""
    plain = _plain(pattern)
    if plain is not None:
        return plain.fields
    return frozenset(jinja2.meta.find_undeclared_variables(parse_pattern(pattern)))


@dataclass(frozen=True)
class Template:
    """One way to put a row into words.

    Attributes:
      inputs: jinja2 pattern of the model's input.
      targets: jinja2 pattern of what the model is to write.
      needs_options: the wording makes sense only when the options are shown.
      where: file and position, for messages.
      instruction: pattern of what few-shot prompts begin with; none if empty.
      shot: pattern that stands in for `inputs` below such an instruction.
      layout: how a few-shot pattern is laid out; None for a zero-shot template.
      exemplars: whether a few-shot pattern is preceded by drawn exemplars.
      requires: field that must not be empty for the template to be used; none if empty.
      allow: checks whose findings are meant, of CHECKS.
    """

    inputs: str
    targets: str
    needs_options: bool = False
    where: str = ""
    instruction: str = ""
    shot: str = ""
    layout: Layout | None = None
    exemplars: bool = True
    requires: str = ""
    allow: tuple[str, ...] = ()

    @functools.cached_property
    def asks_answer(self) -> bool:
        """Whether the target holds the answer; input-inverted ones ask for another field."""
        return "answer" in fields_of(self.targets)

    @functools.cached_property
    def target_fields(self) -> frozenset[str]:
        """Fields of the row that the target is made of."""
        return fields_of(self.targets)

    def usable_for(self, fields: Row) -> bool:
        """Whether the row has what the template requires."""
        return not self.requires or bool(fields.get(self.requires))

    @functools.cached_property
    def shows_options(self) -> bool:
        return "options" in fields_of(self.inputs)

    @functools.cached_property
    def answers_alone(self) -> bool:
        """Whether the target is the answer alone, which the input does not give away."""
        return _ANSWER_ALONE.fullmatch(self.targets) is not None and (
            "answer" not in fields_of(self.inputs)
        )

    @property
    def fields(self) -> frozenset[str]:
        """Fields of the row that the template uses."""
        patterns = (self.inputs, self.targets, self.instruction, self.shot)
        return frozenset().union(*map(fields_of, patterns)) - {"options"}

    def render(
        self, fields: Row, options: str = "", *, below_instruction: bool = False
    ) -> tuple[str, str]:
        """(inputs, targets) for one row. Raises TemplateError naming a missing field."""
        values = {**fields, "options": options}
        inputs = self.shot if below_instruction and self.shot else self.inputs
        return self._render(inputs, values), self._render(self.targets, values)

    def render_instruction(self, fields: Row) -> str:
        """What a few-shot prompt begins with. Raises TemplateError naming a missing field."""
        return self._render(self.instruction, fields)

    def _render(self, pattern: str, values: Mapping[str, Any]) -> str:
        plain = _plain(pattern)
        if plain is not None:
            try:
                return plain.render(values).strip()
            except KeyError:
                pass  # jinja2 raises the error that says which
        try:
            return _compile(pattern).render(values).strip()
        except jinja2.UndefinedError as error:
            missing = sorted(fields_of(pattern) - values.keys())
            hint = "".join(did_you_mean(name, values) for name in missing)
            found = ", ".join(sorted(values))
            raise TemplateError(f"{self.where}: {error.message}{hint} (fields: {found})") from error
        except jinja2.sandbox.SecurityError as error:
            raise TemplateError(
                f"{self.where}: the template does what it may not: {error}"
            ) from error


@functools.cache
def _load_file(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except FileNotFoundError:
        raise TemplateError(
            f"template file {path} does not exist: write it, or mend the path"
        ) from None
    except yaml.YAMLError as error:
        raise TemplateError(f"{path} is not valid YAML: {error}") from error
    return content if isinstance(content, dict) else {}


def has_section(path: Path, section: str) -> bool:
    """Whether a template file has a section. Raises TemplateError as `load_templates` does."""
    return section in _load_file(path)


def sections_of(path: Path) -> tuple[str, ...]:
    """Names of the sections of a template file. Raises TemplateError as `load_templates` does."""
    return tuple(_load_file(path))


@functools.cache
def load_templates(path: Path, section: str = "templates") -> tuple[Template, ...]:
    """Templates of one section of a template file.

    Raises:
      TemplateError: the file is missing or malformed; says where and what was expected.
    """
    entries = _load_file(path).get(section)
    if isinstance(entries, str):
        path = path.parent / entries
        entries = _load_file(path).get(section)
    if not isinstance(entries, list) or not entries:
        raise TemplateError(f"{path} has no list `{section}:` of templates")
    few_shot = section.endswith(FEW_SHOT)
    return tuple(
        _parse(entry, f"{path.name}: {section}[{position}]", few_shot)
        for position, entry in enumerate(entries)
    )


def _parse(entry: Any, where: str, few_shot: bool) -> Template:
    if not isinstance(entry, dict):
        raise TemplateError(
            f"{where}: expected a mapping with `inputs` and `targets`, found {entry!r}"
        )
    keys = _FEW_SHOT_KEYS if few_shot else _ZERO_SHOT_KEYS
    for key in entry:
        if key not in keys:
            raise TemplateError(f"{where}: unknown key {key!r}{did_you_mean(key, keys)}")
    required = ["inputs", "targets"]
    if "instruction" in entry or "shot" in entry:
        required += ["instruction", "shot"]  # one makes no sense without the other
    texts = [*required, *(key for key in (*_LAYOUT_KEYS, "requires") if key in entry)]
    for key in texts:
        if not isinstance(entry.get(key), str) or (key in required and not entry[key].strip()):
            raise TemplateError(f"{where}: `{key}` must be a text that is not empty")
    _check_syntax(entry, texts, where)
    for key in ("needs_options", "exemplars"):
        if not isinstance(entry.get(key, False), bool):
            raise TemplateError(f"{where}: `{key}` must be true or false, found {entry[key]!r}")
    shot = entry.get("shot", "")
    if shot and ("options" in fields_of(shot)) != ("options" in fields_of(entry["inputs"])):
        raise TemplateError(f"{where}: `inputs` and `shot` must both show the options, or neither")
    layout = None
    if few_shot:
        defaults = {"before_input": "", "before_target": "\n", "between": "\n\n"}
        layout = Layout(**{key: entry.get(key, default) for key, default in defaults.items()})
    return Template(
        inputs=entry["inputs"],
        targets=entry["targets"],
        needs_options=entry.get("needs_options", False),
        where=where,
        instruction=entry.get("opening" if few_shot else "instruction", ""),
        shot=shot,
        layout=layout,
        exemplars=entry.get("exemplars", True),
        requires=entry.get("requires", ""),
        allow=_parse_allow(entry, where),
    )


def _parse_allow(entry: dict[str, Any], where: str) -> tuple[str, ...]:
    allow = entry.get("allow", [])
    if not isinstance(allow, list):
        raise TemplateError(f"{where}: `allow` must be a list of checks ({', '.join(CHECKS)})")
    for check in allow:
        if check not in CHECKS:
            known = ", ".join(CHECKS)
            hint = did_you_mean(str(check), CHECKS)
            raise TemplateError(f"{where}: `allow` knows no check {check!r}{hint} ({known})")
    return tuple(allow)


def _check_syntax(entry: dict[str, Any], keys: list[str], where: str) -> None:
    for key in keys:
        try:
            if _plain(entry[key]) is None:
                _compile(entry[key])
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"{where}: {error.message} (line {error.lineno} of the pattern)"
            ) from error
