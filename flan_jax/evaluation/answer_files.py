"""Rows of answers in files: those of an evaluation job, of `flan-jax infer`, of other programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flan_jax.errors import UserError

# A job's files: `<subtask>-<step>.jsonl` for answers, `<subtask>-metrics.jsonl` for scores.
_STEP = re.compile(r"-(\d{6,})\.jsonl$")
_METRICS = "-metrics.jsonl"


class AnswersError(UserError):
    """A file of answers is not what it should be, or two do not go together."""


def answer_files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and those of answers in folders (not of their subfolders).

    Raises:
      AnswersError: there is no such file, a folder has none, or those of several steps.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            if not path.is_file():
                raise AnswersError(f"{path}: expected a file of JSON lines, or a folder with some")
            found.append(path)
            continue
        files = [f for f in sorted(path.glob("*.jsonl")) if not f.name.endswith(_METRICS)]
        steps = sorted({match[1] for file in files if (match := _STEP.search(file.name))})
        if len(steps) > 1:
            raise AnswersError(
                f"{path} has answers of the steps {', '.join(steps)}: name the files of one "
                f"({path}/*-{steps[-1]}.jsonl)"
            )
        if not files:
            raise AnswersError(f"the folder {path} holds no file of answers (*.jsonl)")
        found += files
    return found


def answer_rows(files: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    """(where, row) of every line that is not empty.

    Raises:
      AnswersError: a file cannot be read, or a line is no JSON; names file and line.
    """
    for file in files:
        try:
            # Not splitlines(): JSON texts may hold other line separators as they are.
            lines = file.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise AnswersError(f"{file} cannot be read: {error}") from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{file}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise AnswersError(f"{place}: not JSON: {error}") from error
            yield place, row
