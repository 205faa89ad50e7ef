"""Task definitions and their registry.

A task is defined once: where its rows come from, how they become fields, and a file of templates.
Variants (options shown or not, zero- or few-shot) are drawn by policy and need no entry of their
own. Registering is cheap and touches no data: templates and rows are read when first asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flan_jax.errors import UserError
from flan_jax.prompts.template import Template, load_templates
from flan_jax.sources.base import Row, Source, SourceError
from flan_jax.suggestions import did_you_mean

# SeqIO's rule for names, which every task of ours must satisfy to be registered there.
_NAME = re.compile(r"[\w.:]+")


class UnknownTaskError(UserError):
    """No task or mixture has this name."""


@dataclass(frozen=True)
class TaskDefinition:
    """One task.

    Attributes:
      name: unique; letters, digits, `_`, `.`, `:`.
      group: collection it belongs to (`micro`, `cot`, `niv2` …).
      cluster: kind of task, across collections.
      source: where rows come from.
      template_file: YAML file of templates.
      licence: licence of the rows.
      section: section of the template file; `cot` for worked reasoning.
      to_fields: turns a raw row into the fields of the templates; None if it is them already. The
        fields must hold `answer` (text), and `options` (list of texts) if the task has options.
      has_options: whether rows carry answer options.
      held_out: never to be trained on.
      metrics: names of the metrics, the first one is reported.
      languages: ISO 639-1 codes.
      tags: free labels for `flan-jax tasks list --tag`.
      cap: most examples that count in proportional mixing; None for the mixture's own.
      description: one line.
    """

    name: str
    group: str
    cluster: str
    source: Source
    template_file: Path
    licence: str
    section: str = "templates"
    to_fields: Callable[[Row], Row] | None = None
    has_options: bool = False
    held_out: bool = False
    metrics: tuple[str, ...] = ("exact_match",)
    languages: tuple[str, ...] = ("en",)
    tags: tuple[str, ...] = ()
    cap: int | None = None
    description: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UserError(
                f"task name {self.name!r}: use only letters, digits, '_', '.' and ':' "
                "(SeqIO's rule)"
            )

    def templates(self) -> tuple[Template, ...]:
        """The task's templates. Raises TemplateError if the file is malformed."""
        return load_templates(self.template_file, self.section)

    def fields(self, split: str, index: int) -> Mapping[str, Any]:
        """Fields of one row. Raises SourceError on bad data."""
        row = self.source.row(split, index)
        fields = row if self.to_fields is None else self.to_fields(row)
        if not isinstance(fields.get("answer"), str):
            raise SourceError(
                f"{self.name}: row {index} of {split} has no text in field `answer`, "
                f"found {fields.get('answer')!r}"
            )
        return fields

    def variants(self) -> tuple[str, ...]:
        """Variants that differ for this task."""
        if self.has_options:
            return ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt")
        return ("zs_noopt", "fs_noopt")


_TASKS: dict[str, TaskDefinition] = {}


def register_task(task: TaskDefinition) -> TaskDefinition:
    """Adds `task` to the registry. Raises UserError if the name is taken by another definition."""
    known = _TASKS.get(task.name)
    if known is not None and known != task:
        raise UserError(f"task {task.name!r} is registered already ({known.source.describe()})")
    _TASKS[task.name] = task
    return task


def get_task(name: str) -> TaskDefinition:
    """The task called `name`. Raises UnknownTaskError with a suggestion."""
    if name not in _TASKS:
        raise UnknownTaskError(
            f"no task is called {name!r}{did_you_mean(name, _TASKS)} "
            "(`flan-jax tasks list` shows all; --module imports a module that defines tasks)"
        )
    return _TASKS[name]


def all_tasks() -> tuple[TaskDefinition, ...]:
    """All registered tasks, by name."""
    return tuple(_TASKS[name] for name in sorted(_TASKS))
