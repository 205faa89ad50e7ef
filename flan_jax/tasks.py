"""Task definitions and their registry.

A task is defined once: where its rows come from, how they become fields, and a file of templates.
Variants (options shown or not, zero- or few-shot, worked reasoning, input-inverted) are drawn by
policy and need no entry of their own. Registering is cheap and touches no data: templates and rows
are read when first asked for, and a task of a large collection is not even defined before
(`register_deferred_tasks`).
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.prompts.options import FLAN_STYLES, OptionStyles
from flan_jax.prompts.template import FEW_SHOT, Template, has_section, load_templates
from flan_jax.sources.base import Row, Source, SourceError
from flan_jax.suggestions import did_you_mean

# SeqIO's rule for names, which every task of ours must satisfy to be registered there.
_NAME = re.compile(r"[\w.:]+")
# Sections of the template file: zero-shot, few-shot.
_SECTIONS = {
    "direct": ("templates", FEW_SHOT),
    "cot": ("cot", f"cot_{FEW_SHOT}"),
    "inverted": ("inverted", f"inverted_{FEW_SHOT}"),
}
# What stands for a variant that a task does not have. Input-inverted ones have no stand-in.
_STAND_INS = {
    "zs_opt": ("zs_noopt", "zs_cot"),
    "zs_noopt": ("zs_cot",),
    "fs_opt": ("fs_noopt", "fs_cot"),
    "fs_noopt": ("fs_cot",),
    "zs_cot": ("zs_noopt",),
    "fs_cot": ("fs_noopt",),
}
# Flan 2022 draws input-inverted prompts at this rate for each prompt that asks for the answer
# (google-research/FLAN, v2 mixtures).
INVERTED_RATE = 0.3


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
      styles: what prompts may ask for: `direct` (the answer alone), `cot` (reasoning, then the
        answer), `inverted` (the input, given the answer). Each has a section of the template file.
      to_fields: turns a raw row into the fields of the templates; None if it is them already. The
        fields must hold `answer` (text), and `options` (list of texts) if the task has options.
      draw_fields: what is drawn anew for each example, such as where to cut a dialog: fields and
        draws to fields.
      has_options: whether rows carry answer options.
      held_out: never to be trained on.
      metrics: names of the metrics, the first one is reported.
      languages: ISO 639-1 codes.
      tags: free labels for `flan-jax tasks list --tag`.
      cap: most examples that count in proportional mixing; None for the mixture's own.
      num_train: rows of the train split as published, for mixing without the data; None if the
        source knows.
      homepage: where the dataset is described.
      aliases: other names, such as Flan's.
      option_styles: how options may look.
      description: one line.
    """

    name: str
    group: str
    cluster: str
    source: Source
    template_file: Path
    licence: str
    styles: tuple[str, ...] = ("direct",)
    to_fields: Callable[[Row], Row] | None = None
    draw_fields: Callable[[Row, Draws], Row] | None = None
    has_options: bool = False
    held_out: bool = False
    metrics: tuple[str, ...] = ("exact_match",)
    languages: tuple[str, ...] = ("en",)
    tags: tuple[str, ...] = ()
    cap: int | None = None
    num_train: int | None = None
    homepage: str = ""
    aliases: tuple[str, ...] = ()
    option_styles: OptionStyles = FLAN_STYLES
    description: str = ""

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UserError(
                f"task name {self.name!r}: use only letters, digits, '_', '.' and ':' "
                "(SeqIO's rule)"
            )

        for style in self.styles:
            if style not in _SECTIONS:
                known = ", ".join(_SECTIONS)
                raise UserError(
                    f"task {self.name}: unknown style {style!r} ({known})"
                    + did_you_mean(style, _SECTIONS)
                )

    def templates(self) -> tuple[Template, ...]:
        """The zero-shot templates of the first style. Raises TemplateError if malformed."""
        return load_templates(self.template_file, _SECTIONS[self.styles[0]][0])

    def templates_of(self, variant: str) -> tuple[Template, ...]:
        """The templates of one of the task's variants.

        Few-shot variants take the file's short patterns if there are any, else the zero-shot
        templates. Raises TemplateError if the file is malformed.
        """
        found = self._templates.get(variant)
        if found is None:
            found = self._templates[variant] = self._load_templates(variant)
        return found

    def _load_templates(self, variant: str) -> tuple[Template, ...]:
        shots, _, kind = variant.partition("_")
        zero_shot, few_shot = _SECTIONS[kind if kind in _SECTIONS else "direct"]
        if shots == "fs" and has_section(self.template_file, few_shot):
            return load_templates(self.template_file, few_shot)
        return load_templates(self.template_file, zero_shot)

    def sections(self) -> dict[str, tuple[Template, ...]]:
        """All the task's templates, by section of its file. Raises TemplateError if malformed."""
        found = {}
        for style in self.styles:
            for section in _SECTIONS[style]:
                if not section.endswith(FEW_SHOT) or has_section(self.template_file, section):
                    found[section] = load_templates(self.template_file, section)
        return found

    def fields(self, split: str, index: int, draws: Draws | None = None) -> Mapping[str, Any]:
        """Fields of one row; `draws` decides what `draw_fields` leaves to chance.

        Raises:
          SourceError: bad data.
        """
        row = self.source.row(split, index)
        fields = row if self.to_fields is None else self.to_fields(row)
        if self.draw_fields is not None:
            fields = self.draw_fields(fields, draws or Draws(0, "fields", self.name, split, index))
        if not isinstance(fields.get("answer"), str):
            raise SourceError(
                f"{self.name}: row {index} of {split} has no text in field `answer`, "
                f"found {fields.get('answer')!r}"
            )
        return fields

    def variants(self) -> tuple[str, ...]:
        """Variants that differ for this task."""
        return self._variants

    # What follows from the definition and is asked for with every example is worked out once.

    @functools.cached_property
    def _templates(self) -> dict[str, tuple[Template, ...]]:
        return {}

    @functools.cached_property
    def _stand_ins(self) -> dict[str, str | None]:
        return {}

    @functools.cached_property
    def _variants(self) -> tuple[str, ...]:
        kinds = []
        for style in self.styles:
            if style == "direct":
                kinds += ["opt", "noopt"] if self.has_options else ["noopt"]
            else:
                kinds.append(style)
        return tuple(f"{shots}_{kind}" for shots in ("zs", "fs") for kind in kinds)

    def stand_in(self, variant: str) -> str | None:
        """The task's variant that `variant` stands for, None if there is none.

        Without options `zs_opt` is `zs_noopt`, and where only worked reasoning is asked for, both
        are `zs_cot`; input-inverted prompts have no stand-in.
        """
        if variant not in self._stand_ins:
            known = self.variants()
            candidates = (variant, *_STAND_INS.get(variant, ()))
            self._stand_ins[variant] = next((v for v in candidates if v in known), None)
        return self._stand_ins[variant]

    def resolve_variant(self, variant: str) -> str:
        """As `stand_in`, but raises UserError if there is none."""
        found = self.stand_in(variant)
        if found is None:
            known = ", ".join(self.variants())
            raise UserError(f"{self.name} has no variant {variant}, only {known}")
        return found

    def default_variants(self) -> dict[str, float]:
        """Relative weights of the variants: equal, input-inverted ones at Flan's lower rate."""
        return {v: INVERTED_RATE if v.endswith("_inverted") else 1.0 for v in self.variants()}

    def train_size(self) -> int | None:
        """Training rows: as declared, else as the source counts them; None if it is endless.

        Raises:
          SourceError: it is not declared, and the source is not there.
        """
        return self.num_train if self.num_train else self.source.num_examples("train")


_TASKS: dict[str, TaskDefinition] = {}
_ALIASES: dict[str, str] = {}
# Tasks not defined yet: the module that registers each.
_DEFERRED: dict[str, str] = {}


def register_task(task: TaskDefinition) -> TaskDefinition:
    """Adds `task` to the registry. Raises UserError if a name is taken by another definition."""
    for name in (task.name, *task.aliases):
        _define_deferred(name)  # a name that is only announced is taken, too
    known = _TASKS.get(task.name)
    if known is not None and known != task:
        raise UserError(f"task {task.name!r} is registered already ({known.source.describe()})")
    if task.name in _ALIASES:
        raise UserError(f"task {task.name!r}: this is another name of {_ALIASES[task.name]}")
    _TASKS[task.name] = task
    for alias in task.aliases:
        if _ALIASES.setdefault(alias, task.name) != task.name:
            raise UserError(f"task {task.name!r}: {alias!r} is another name of {_ALIASES[alias]}")
    return task


def register_deferred_tasks(modules: Mapping[str, str]) -> None:
    """Announces tasks that are defined when asked for: the module of each name, alias included.

    The module registers them when imported. Nothing is imported before.
    """
    _DEFERRED.update(modules)


def withdraw_deferred_tasks() -> None:
    """Takes all announcements back, for whoever makes the list of them."""
    _DEFERRED.clear()


def _define_deferred(name: str) -> None:
    if name not in _TASKS and name not in _ALIASES and name in _DEFERRED:
        importlib.import_module(_DEFERRED[name])


def get_task(name: str) -> TaskDefinition:
    """The task called `name`, or with this alias. Raises UnknownTaskError with a suggestion."""
    _define_deferred(name)
    name = _ALIASES.get(name, name)
    if name not in _TASKS and name in _DEFERRED:
        raise UnknownTaskError(
            f"task {name!r} was announced for {_DEFERRED[name]}, which does not register it: renew "
            "the list of names (for flan_jax's own: python -m flan_jax.mixtures.catalogue)"
        )
    if name not in _TASKS:
        raise UnknownTaskError(
            f"no task is called {name!r}{did_you_mean(name, known_names())} "
            "(`flan-jax tasks list` shows all; --module imports a module that defines tasks)"
        )
    return _TASKS[name]


def is_task(name: str) -> bool:
    """Whether a task has this name, defined or not yet."""
    return name in _TASKS or name in _ALIASES or name in _DEFERRED


def all_tasks() -> tuple[TaskDefinition, ...]:
    """All registered tasks, by name; defines those that were deferred."""
    for module in dict.fromkeys(_DEFERRED.values()):
        importlib.import_module(module)
    return tuple(_TASKS[name] for name in sorted(_TASKS))


def registered_tasks(group: str | None = None) -> tuple[TaskDefinition, ...]:
    """The tasks defined so far, of one group or of all, by name."""
    return tuple(
        _TASKS[name] for name in sorted(_TASKS) if group is None or _TASKS[name].group == group
    )


def known_names() -> list[str]:
    """Names and aliases of all tasks, defined or not yet."""
    return sorted({*_TASKS, *_ALIASES, *_DEFERRED})
