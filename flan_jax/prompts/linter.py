"""Checks a task: its templates, its data, and what they render to.

A problem is something that spoils training or scoring; a note is worth a look. Data that are not on
this machine are said to be missing, and the templates are checked all the same. Everything found is
reported, not only the first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flan_jax.errors import UserError
from flan_jax.prompts.answer_leaks import LeakWatch
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.prompts.render import Example, render, usable_templates
from flan_jax.prompts.template import Template, load_templates, sections_of
from flan_jax.prompts.template_checks import check_section
from flan_jax.realised import missing_data
from flan_jax.suggestions import did_you_mean

if TYPE_CHECKING:
    from flan_jax.tasks import TaskDefinition

# The last occurrence of these words ends the reasoning; what follows is scored.
ANSWER_MARK = "answer is"
MAX_SCAN = 20_000
# Fields that are not there to be read: what is scored, what is shown as a block, what tells rows
# apart.
_NO_CONTENT = frozenset(("answer", "answers", "options", "id"))


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
      severity: `problem`, `note` or `missing`.
      where: template (file, section and position), split or row.
      message: what was found, and what was expected.
      count: how often.
      file: the template file, if it is a finding about that; empty for one about rows.
    """

    severity: str
    where: str
    message: str
    count: int = 1
    file: str = ""


@dataclass
class LintReport:
    """What a check looked at and found, in order of appearance.

    Attributes:
      task: the task's name.
      rows: sound rows looked at.
      prompts: prompts rendered.
      unsound: rows whose fields are at fault.
    """

    task: str
    rows: int = 0
    prompts: int = 0
    unsound: int = 0
    _found: dict[tuple[str, str], Finding] = field(default_factory=dict)

    def add(
        self, severity: str, where: str, message: str, kind: str | None = None, *, file: str = ""
    ) -> None:
        """Adds a finding; further ones of the same `kind` only count."""
        key = (severity, kind or f"{where}: {message}")
        first = self._found.get(key)
        self._found[key] = (
            Finding(severity, where, message, file=file)
            if first is None
            else replace(first, count=first.count + 1)
        )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, in order."""
        return tuple(self._found.values())

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that must be put right."""
        return tuple(finding for finding in self.findings if finding.severity == "problem")

    @property
    def ok(self) -> bool:
        """Whether all was there to be checked, and nothing must be put right."""
        return all(finding.severity == "note" for finding in self.findings)


def lint(
    task: TaskDefinition,
    *,
    rows_per_split: int = 20,
    lengths: Mapping[str, int] | None = None,
    count_tokens: Callable[[str], int] | None = None,
    templates_only: bool = False,
) -> LintReport:
    """Checks `task`; the same findings every time.

    Args:
      task: the task.
      rows_per_split: rows, spread over each split, on which every template is rendered in every
        variant. All rows of finite splits, up to MAX_SCAN, are checked for their fields.
      lengths: longest `inputs` and `targets` in tokens, the end of sequence included.
      count_tokens: length of a text in tokens, with the end of sequence; without it lengths are
        not checked.
      templates_only: whether to check what needs no rows, and nothing else.
    """
    report = LintReport(task.name)
    try:
        sections = task.sections()
    except UserError as error:
        report.add("problem", "templates", str(error), file=str(task.template_file))
        return report
    _check_templates(task, sections, report)
    if templates_only:
        return report
    missing = missing_data(task)
    if missing is not None:
        report.add("missing", "data", missing)
        return report
    _check_rows(task, sections, _Rendering(rows_per_split, lengths, count_tokens), report)
    return report


@dataclass(frozen=True)
class _Rendering:
    """How rows are rendered; see `lint`."""

    rows: int
    lengths: Mapping[str, int] | None
    count_tokens: Callable[[str], int] | None
    leaks: LeakWatch = field(default_factory=LeakWatch)


def _check_rows(
    task: TaskDefinition,
    sections: Mapping[str, tuple[Template, ...]],
    rendering: _Rendering,
    report: LintReport,
) -> None:
    templates = tuple(template for members in sections.values() for template in members)
    seen: dict[str, dict[str, int]] = {}
    names: dict[str, None] = {}
    for split in task.source.splits():
        good = _scan_split(task, split, rendering.rows, seen, report)
        for index in _spread(good, rendering.rows):
            fields = task.fields(split, index)
            names |= dict.fromkeys(fields)
            if not _missing_fields(templates, fields, split, index, report):
                _check_prompts(task, split, index, rendering, report)
        report.rows += len(good)
    _check_unused(task, tuple(names), report)
    for template, message in rendering.leaks.found():
        if "answer_leak" not in template.allow:
            report.add("problem", template.where, message)
    _check_leaks(seen, report)


def _spread(items: list[int], count: int) -> list[int]:
    """At most `count` of `items`, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return items
    if count == 1:
        return items[:1]
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]


def _check_templates(
    task: TaskDefinition, sections: Mapping[str, tuple[Template, ...]], report: LintReport
) -> None:
    """What can be said without rows."""
    file = str(task.template_file)
    for section, members in sections.items():
        for fault in check_section(section, members, task.has_options):
            report.add(fault.severity, fault.where, fault.message, file=file)
    for variant in task.variants():
        try:
            usable_templates(task, variant)
        except UserError as error:
            report.add("problem", variant, str(error))


def _check_unused(task: TaskDefinition, names: tuple[str, ...], report: LintReport) -> None:
    """Fields that no template of the task's file uses, be it for another task or style."""
    used: set[str] = set()
    for section in sections_of(task.template_file):
        for template in load_templates(task.template_file, section):
            used |= {*template.fields, template.requires}
    unused = [name for name in names if name not in used | _NO_CONTENT]
    if unused:
        shown = ", ".join(map(repr, unused))
        message = f"no template uses the rows' fields {shown}"
        report.add("note", task.template_file.name, message, file=str(task.template_file))


def _scan_split(
    task: TaskDefinition,
    split: str,
    rows_per_split: int,
    seen: dict[str, dict[str, int]],
    report: LintReport,
) -> list[int]:
    """Rows of `split` whose fields are sound. `seen` collects their contents by split."""
    try:
        size = task.source.num_examples(split)
    except UserError as error:
        report.add("problem", split, str(error), str(error))
        return []
    if size == 0:
        report.add("problem" if split == "train" else "note", split, "there are no rows")
    good: list[int] = []
    contents = seen.setdefault(split, {})
    for index in range(rows_per_split if size is None else min(size, MAX_SCAN)):
        where = f"{split}[{index}]"
        try:
            fields = task.fields(split, index)
        except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
            kind = f"{split}: fields: {type(error).__name__}"
            report.add("problem", where, _say(error), kind)
            report.unsound += 1
            continue
        if not _check_answer(task, fields, split, where, report):
            report.unsound += 1
            continue
        good.append(index)
        first = contents.setdefault(_content(fields), index)
        if first != index and size is not None:
            message = f"the same row as {split}[{first}]"
            report.add("note", where, message, f"{split}: duplicate")
    return good


def _say(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _content(fields: Mapping[str, Any]) -> str:
    """The row as text; ids do not make a row another one."""
    content = {key: value for key, value in fields.items() if key not in ("id", "options")}
    return json.dumps(content, sort_keys=True, default=str)


def _check_answer(
    task: TaskDefinition, fields: Mapping[str, Any], split: str, where: str, report: LintReport
) -> bool:
    answer, options = fields["answer"], fields.get("options") or ()
    if not answer.strip():
        report.add("problem", where, "the answer is empty", f"{split}: empty answer")
        return False
    if not task.has_options:
        return True
    if isinstance(options, str) or not all(isinstance(option, str) for option in options):
        message = f"options must be a list of texts, found {options!r}"
        report.add("problem", where, message, f"{split}: options' type")
        return False
    if answer not in options:
        message = f"the answer {answer!r} is not among the options {list(options)!r}"
        report.add("problem", where, message + did_you_mean(answer, options), f"{split}: options")
        return False
    twice = [option for option, count in Counter(options).items() if count > 1]
    if twice:
        message = f"the option {twice[0]!r} stands there twice"
        report.add("problem", where, message, f"{split}: equal options")
    return True


def _missing_fields(
    templates: tuple[Template, ...],
    fields: Mapping[str, Any],
    split: str,
    index: int,
    report: LintReport,
) -> bool:
    """Whether some template lacks a field of this row."""
    missing = False
    for template in templates:
        if not template.usable_for(fields):
            continue
        for name in sorted(template.fields - fields.keys()):
            missing = True
            report.add(
                "problem",
                template.where,
                f"uses the field {name!r}, which {split}[{index}] lacks"
                f"{did_you_mean(name, fields)} (fields: {', '.join(sorted(fields))})",
                f"{template.where}: {name}",
            )
    return missing


def _check_prompts(
    task: TaskDefinition, split: str, index: int, rendering: _Rendering, report: LintReport
) -> None:
    """Renders one row with every template in every variant."""
    lengths, count = rendering.lengths, rendering.count_tokens
    budget = lengths["inputs"] if lengths and count else None
    # A task for testing alone has no other rows to show.
    shots = "train" if "train" in task.source.splits() else split
    policy = FewShotPolicy(split=shots, max_tokens=budget)
    for variant in task.variants():
        try:
            usable = usable_templates(task, variant, task.fields(split, index))
        except UserError:
            continue  # reported with the templates
        templates = task.templates_of(variant)
        for position in usable:
            template = templates[position]
            where = f"{template.where}, {variant}, {split}[{index}]"
            try:
                example = render(
                    task,
                    split,
                    index,
                    seed=0,
                    variant=variant,
                    template=position,
                    few_shot=policy,
                    count_tokens=count if budget else None,
                )
            except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
                # An unsound row, reported already, may have been drawn as an exemplar.
                if not (report.unsound and variant.startswith("fs")):
                    report.add("problem", where, _say(error), f"{template.where}: render")
                continue
            report.prompts += 1
            if example.variant == variant:  # else no exemplar fitted
                rendering.leaks.add(template, example)
                _check_example(example, template.where, where, report)
            if lengths and count:
                _check_lengths(example, where, lengths, count, report)


def _check_example(example: Example, template: str, where: str, report: LintReport) -> None:
    for name, text in (("inputs", example.inputs), ("targets", example.targets)):
        if not text.strip():
            report.add("problem", where, f"the {name} are empty", f"{template}: empty {name}")
    if example.options and example.answer not in example.options:
        message = f"the answer {example.answer!r} is not among {list(example.options)!r}"
        report.add("problem", where, message, f"{template}: options")
    if example.variant.endswith("_cot"):
        scored = example.targets.rpartition(ANSWER_MARK)[2].strip()
        if scored.rstrip(".") != example.answer.strip().rstrip("."):
            report.add(
                "problem",
                where,
                f"the targets should end in '{ANSWER_MARK} {example.answer}.', as the scorers take "
                f"what follows the last '{ANSWER_MARK}'; found {example.targets[-80:]!r}",
                f"{template}: answer is",
            )


def _check_lengths(
    example: Example,
    where: str,
    lengths: Mapping[str, int],
    count_tokens: Callable[[str], int],
    report: LintReport,
) -> None:
    for name, text in (("inputs", example.inputs), ("targets", example.targets)):
        found = count_tokens(text)
        if found > lengths[name]:
            message = f"{found} tokens of {name} would be cut to {lengths[name]}"
            report.add("note", where, message, f"long {name}, {example.variant[:2]}")


def _check_leaks(seen: Mapping[str, Mapping[str, int]], report: LintReport) -> None:
    train = seen.get("train", {})
    for split, contents in seen.items():
        if split == "train":
            continue
        for content, index in contents.items():
            if content in train:
                message = f"also in train ([{train[content]}])"
                report.add("problem", f"{split}[{index}]", message, f"{split}: leak")
