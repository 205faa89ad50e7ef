"""Checks a task: its data, its templates, and what they render to.

A problem is something that spoils training or scoring; a note is worth a look. Everything found is
reported, not only the first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flan_jax.errors import UserError
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.prompts.render import Example, render, usable_templates
from flan_jax.prompts.template import Template
from flan_jax.suggestions import did_you_mean

if TYPE_CHECKING:
    from flan_jax.tasks import TaskDefinition

# The last occurrence of these words ends the reasoning; what follows is scored.
ANSWER_MARK = "answer is"
MAX_SCAN = 20_000


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
      severity: `problem` or `note`.
      where: template, split or row.
      message: what was found, and what was expected.
      count: how often.
    """

    severity: str
    where: str
    message: str
    count: int = 1


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

    def add(self, severity: str, where: str, message: str, kind: str | None = None) -> None:
        """Adds a finding; further ones of the same `kind` only count."""
        key = (severity, kind or f"{where}: {message}")
        first = self._found.get(key)
        self._found[key] = (
            Finding(severity, where, message)
            if first is None
            else Finding(severity, first.where, first.message, first.count + 1)
        )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, in order."""
        return tuple(self._found.values())

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that must be put right."""
        return tuple(finding for finding in self.findings if finding.severity == "problem")


def lint(
    task: TaskDefinition,
    *,
    rows_per_split: int = 20,
    lengths: Mapping[str, int] | None = None,
    count_tokens: Callable[[str], int] | None = None,
) -> LintReport:
    """Checks `task`; the same findings every time.

    Args:
      task: the task.
      rows_per_split: rows, spread over each split, on which every template is rendered in every
        variant. All rows of finite splits, up to MAX_SCAN, are checked for their fields.
      lengths: longest `inputs` and `targets` in tokens, the end of sequence included.
      count_tokens: length of a text in tokens, with the end of sequence; without it lengths are
        not checked.
    """
    report = LintReport(task.name)
    try:
        templates = task.templates()
    except UserError as error:
        report.add("problem", "templates", str(error))
        return report
    _check_templates(task, templates, report)
    seen: dict[str, dict[str, int]] = {}
    for split in task.source.splits():
        good = _scan_split(task, split, rows_per_split, seen, report)
        for index in _spread(good, rows_per_split):
            fields = task.fields(split, index)
            if not _missing_fields(templates, fields, split, index, report):
                _check_prompts(task, split, index, lengths, count_tokens, report)
        report.rows += len(good)
    _check_leaks(seen, report)
    return report


def _spread(items: list[int], count: int) -> list[int]:
    """At most `count` of `items`, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return items
    if count == 1:
        return items[:1]
    return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]


def _check_templates(
    task: TaskDefinition, templates: tuple[Template, ...], report: LintReport
) -> None:
    seen: dict[tuple[str, str], int] = {}
    for position, template in enumerate(templates):
        where = template.where or f"template {position}"
        first = seen.setdefault((template.inputs.strip(), template.targets.strip()), position)
        if first != position:
            report.add("problem", where, f"the same as template {first}")
        if not template.fields:
            report.add("problem", where, "uses no field of the row")
        if template.shows_options and not task.has_options:
            report.add("problem", where, "shows options, but the task has none (has_options)")
        if template.needs_options and not template.shows_options:
            report.add("problem", where, "needs_options is set, but nothing shows {{ options }}")
    for variant in task.variants():
        try:
            usable_templates(task, variant)
        except UserError as error:
            report.add("problem", variant, str(error))
    if len(templates) < 10:
        report.add("note", "templates", f"{len(templates)} templates; Flan uses ten for each task")


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
    for position, template in enumerate(templates):
        for name in sorted(template.fields - fields.keys()):
            missing = True
            report.add(
                "problem",
                template.where or f"template {position}",
                f"uses the field {name!r}, which {split}[{index}] lacks"
                f"{did_you_mean(name, fields)} (fields: {', '.join(sorted(fields))})",
                f"template {position}: {name}",
            )
    return missing


def _check_prompts(
    task: TaskDefinition,
    split: str,
    index: int,
    lengths: Mapping[str, int] | None,
    count_tokens: Callable[[str], int] | None,
    report: LintReport,
) -> None:
    """Renders one row with every template in every variant."""
    budget = lengths["inputs"] if lengths and count_tokens else None
    policy = FewShotPolicy(max_tokens=budget)
    for variant in task.variants():
        try:
            usable = usable_templates(task, variant)
        except UserError:
            continue  # reported with the templates
        for template in usable:
            where = f"template {template}, {variant}, {split}[{index}]"
            try:
                example = render(
                    task,
                    split,
                    index,
                    seed=0,
                    variant=variant,
                    template=template,
                    few_shot=policy,
                    count_tokens=count_tokens if budget else None,
                )
            except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
                # An unsound row, reported already, may have been drawn as an exemplar.
                if not (report.unsound and variant.startswith("fs")):
                    report.add("problem", where, _say(error), f"template {template}: render")
                continue
            report.prompts += 1
            _check_example(task, example, where, report)
            if lengths and count_tokens:
                _check_lengths(example, where, lengths, count_tokens, report)


def _check_example(task: TaskDefinition, example: Example, where: str, report: LintReport) -> None:
    for name, text in (("inputs", example.inputs), ("targets", example.targets)):
        if not text.strip():
            kind = f"template {example.template}: empty {name}"
            report.add("problem", where, f"the {name} are empty", kind)
    if example.options and example.answer not in example.options:
        message = f"the answer {example.answer!r} is not among {list(example.options)!r}"
        report.add("problem", where, message, f"template {example.template}: options")
    if task.section == "cot":
        scored = example.targets.rpartition(ANSWER_MARK)[2].strip()
        if scored.rstrip(".") != example.answer.strip().rstrip("."):
            report.add(
                "problem",
                where,
                f"the targets should end in '{ANSWER_MARK} {example.answer}.', as the scorers take "
                f"what follows the last '{ANSWER_MARK}'; found {example.targets[-80:]!r}",
                f"template {example.template}: answer is",
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
