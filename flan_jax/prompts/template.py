"""Prompt templates: pairs of jinja2 patterns for a task's inputs and targets, kept in YAML.

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
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import jinja2.sandbox
import yaml

from flan_jax.errors import UserError
from flan_jax.sources.base import Row
from flan_jax.suggestions import did_you_mean

_ANSWER_ALONE = re.compile(r"\s*\{\{\s*answer\s*\}\}\s*")
_KEYS = ("inputs", "targets", "needs_options", "instruction", "shot")


class TemplateError(UserError):
    """A template file is malformed or does not fit its task's fields."""


# Sandboxed because templates may come from outside; strict because a silently empty field would
# teach the model to answer a question it was not given.
_ENVIRONMENT = jinja2.sandbox.ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
)


@functools.cache
def _compile(pattern: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(pattern)


@functools.cache
def fields_of(pattern: str) -> frozenset[str]:
    """Names that `pattern` takes from the row (`options` included)."""
    return frozenset(jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(pattern)))


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
    """

    inputs: str
    targets: str
    needs_options: bool = False
    where: str = ""
    instruction: str = ""
    shot: str = ""

    @property
    def shows_options(self) -> bool:
        return "options" in fields_of(self.inputs)

    @property
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
        """The instruction of a few-shot prompt. Raises TemplateError naming a missing field."""
        return self._render(self.instruction, dict(fields))

    def _render(self, pattern: str, values: dict[str, Any]) -> str:
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
def load_templates(path: Path, section: str = "templates") -> tuple[Template, ...]:
    """Templates of one section of a template file.

    Raises:
      TemplateError: the file is missing or malformed; says where and what was expected.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TemplateError(
            f"template file {path} does not exist: write it, or mend the path"
        ) from None
    except yaml.YAMLError as error:
        raise TemplateError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get(section), list):
        raise TemplateError(f"{path} has no list `{section}:` of templates")
    return tuple(
        _parse(entry, f"{path.name}: {section}[{position}]")
        for position, entry in enumerate(content[section])
    )


def _parse(entry: Any, where: str) -> Template:
    if not isinstance(entry, dict):
        raise TemplateError(
            f"{where}: expected a mapping with `inputs` and `targets`, found {entry!r}"
        )
    for key in entry:
        if key not in _KEYS:
            raise TemplateError(f"{where}: unknown key {key!r}{did_you_mean(key, _KEYS)}")
    texts = ["inputs", "targets"]
    if "instruction" in entry or "shot" in entry:
        texts += ["instruction", "shot"]  # one makes no sense without the other
    for key in texts:
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise TemplateError(f"{where}: `{key}` must be a text that is not empty")
    try:
        for key in texts:
            _compile(entry[key])
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(
            f"{where}: {error.message} (line {error.lineno} of the pattern)"
        ) from error
    needs_options = entry.get("needs_options", False)
    if not isinstance(needs_options, bool):
        raise TemplateError(
            f"{where}: `needs_options` must be true or false, found {needs_options!r}"
        )
    instruction, shot = entry.get("instruction", ""), entry.get("shot", "")
    if shot and ("options" in fields_of(shot)) != ("options" in fields_of(entry["inputs"])):
        raise TemplateError(f"{where}: `inputs` and `shot` must both show the options, or neither")
    return Template(entry["inputs"], entry["targets"], needs_options, where, instruction, shot)
