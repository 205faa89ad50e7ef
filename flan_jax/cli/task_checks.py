"""`flan-jax tasks check`: whether tasks and their templates are sound."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

from flan_jax.cli.tables import print_json, print_table
from flan_jax.cli.task_sampling import TokenCounter, token_counter
from flan_jax.errors import UserError
from flan_jax.mixing import get_mixture
from flan_jax.prompts.linter import Finding, LintReport, lint
from flan_jax.sources.base import SourceMissingError
from flan_jax.suggestions import did_you_mean
from flan_jax.tasks import TaskDefinition, all_tasks

STYLES = {"problem": "bold red", "note": "yellow", "missing": "yellow", "ok": "green"}


def check(arguments: argparse.Namespace) -> int:
    """Checks tasks and prints all that was found; 0 if all is well, else 1.

    Raises:
      UserError: no tasks are named, or a name is unknown.
    """
    tasks = _select(arguments.names, arguments.group)
    counter = token_counter(arguments.vocabulary)
    lengths = {"inputs": arguments.inputs_length, "targets": arguments.targets_length}
    reports = [
        lint(
            task,
            rows_per_split=arguments.rows,
            lengths=lengths,
            count_tokens=counter.count if counter.exact else None,
            templates_only=arguments.templates_only,
        )
        for task in tasks
    ]
    files = len({task.template_file for task in tasks})
    summary = {**_summary(reports), "template_files": files, "vocabulary": counter.name}
    if arguments.format == "json":
        print_json({"summary": summary, "tasks": [_report(report) for report in reports]})
    else:
        print_table(
            ("task", "result", "where", "what"),
            _rows(reports, counter, arguments.templates_only),
            format=arguments.format,
            styles=STYLES,
        )
        print(_sentence(summary))
    return 0 if all(report.ok for report in reports) else 1


def _select(names: Sequence[str], groups: Sequence[str]) -> list[TaskDefinition]:
    """The tasks of mixtures, groups and single names, each once."""
    if not names and not groups:
        raise UserError("name the tasks or mixtures to check, or give --group")
    found: dict[str, TaskDefinition] = {}
    for name in names:
        found |= {task.name: task for task in _named(name)}
    for group in groups:
        found |= {task.name: task for task in _of_group(group)}
    return list(found.values())


def _named(name: str) -> Sequence[TaskDefinition]:
    try:
        return get_mixture(name).tasks()
    except SourceMissingError:
        # A mixture of what is here, and nothing is: its templates can be checked all the same.
        if any(task.group == name for task in all_tasks()):
            return _of_group(name)
        raise


def _of_group(group: str) -> list[TaskDefinition]:
    tasks = [task for task in all_tasks() if task.group == group]
    if not tasks:
        known = sorted({task.group for task in all_tasks()})
        hint = did_you_mean(group, known) or f" ({', '.join(known)})"
        raise UserError(f"--group {group!r}: no task has it{hint}")
    return tasks


def _summary(reports: Sequence[LintReport]) -> dict[str, Any]:
    """Totals; what was found in a template file counts once, however many tasks use it."""
    found: Counter[str] = Counter()
    seen: set[tuple[str, Finding]] = set()
    for report in reports:
        for finding in report.findings:
            key = ("" if finding.file else report.task, finding)
            found[finding.severity] += key not in seen
            seen.add(key)
    return {
        "tasks": len(reports),
        "ok": sum(report.ok for report in reports),
        "problems": found["problem"],
        "notes": found["note"],
        "missing": found["missing"],
        "rows": sum(report.rows for report in reports),
        "prompts": sum(report.prompts for report in reports),
    }


def _sentence(summary: dict[str, Any]) -> str:
    def count(key: str, word: str = "") -> str:
        number, word = summary[key], word or key[:-1]
        return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"

    return (
        f"{count('tasks')} with {count('template_files', 'template file')}: {count('problems')}, "
        f"{count('notes')}, data missing for {summary['missing']:,}; looked at {count('rows')} and "
        f"{count('prompts')}, tokens by {summary['vocabulary']}"
    )


def _report(report: LintReport) -> dict[str, Any]:
    missing = [finding.message for finding in report.findings if finding.severity == "missing"]
    return {
        "task": report.task,
        "ok": report.ok,
        "missing": missing[0] if missing else None,
        "rows": report.rows,
        "prompts": report.prompts,
        "findings": [vars(finding) for finding in report.findings],
    }


def _rows(
    reports: Sequence[LintReport], counter: TokenCounter, templates_only: bool
) -> list[tuple[str, str, str, str]]:
    """Lines of the table; what is found in a file of several tasks stands with the first."""
    shared = Counter(f for report in reports for f in report.findings if f.file)
    rows = []
    for report in reports:
        for finding in report.findings:
            tasks = shared.get(finding, 1)
            if tasks == 0:
                continue
            often = f" ({finding.count} times)" if finding.count > 1 else ""
            if finding.file:
                often += f" ({tasks:,} tasks)" if tasks > 1 else ""
                shared[finding] = 0
            rows.append((report.task, finding.severity, finding.where, finding.message + often))
        if report.ok and templates_only:
            rows.append((report.task, "ok", "templates", "rows were not looked at"))
        elif report.ok:
            looked = f"{report.rows} rows, {report.prompts} prompts"
            rows.append((report.task, "ok", looked, f"tokens by {counter.name}"))
    return rows
