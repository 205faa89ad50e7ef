"""Answering a list of prompts into a file: what is there already is not answered again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int8

from flan_jax.errors import UserError
from flan_jax.evaluation.answering import Row
from flan_jax.evaluation.prompt_files import AnswerFile, Prompt

# Answers prompts batch by batch, in any order.
Work = Callable[[Sequence[Prompt]], Iterator[list[Row]]]
_TODO, _DONE, _COMPLETE, _FAILED = range(4)


def answer_into(
    path: Path,
    prompts: Sequence[Prompt],
    work: Work,
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
    to_row: Callable[[Row], Row] = lambda row: row,
    shown: Callable[[Path], str] = str,
) -> list[Row]:
    """Answers `prompts` into `path`; call it on all processes, of which the first reads and writes.

    Args:
      path: see `AnswerFile`.
      prompts: what to ask.
      work: the model.
      settings: all that decides the answers.
      overwrite: begin anew if there is something already.
      to_row: makes the row that is written of the one that `work` gives.
      shown: how a path is called in messages.

    Returns:
      The rows that `work` gave, by rising number; only those answered now, except on the first
      process; no rows if the file was complete.

    Raises:
      PromptFileError: what is there was made with other settings, or is damaged.
    """
    answers, state = _open(path, prompts, settings, overwrite, shown(path))
    if state[0] == _COMPLETE:
        say(f"{shown(path)} is complete already; --overwrite begins anew")
        return []
    todo = [prompt for prompt, known in zip(prompts, state, strict=True) if known == _TODO]
    if len(todo) < len(prompts):
        say(f"{shown(path)}: going on after {len(prompts) - len(todo)} of {len(prompts)} prompts")
    found: dict[int, Row] = {} if answers is None else answers.rows
    tell = _Progress(path.name, len(prompts))
    for rows in work(todo):
        if answers is None:
            found.update((row["number"], row) for row in rows)
        else:
            answers.append(rows)
        tell(len(found))
    if answers is not None:
        answers.finish(to_row)
        print(f"wrote {len(found)} answers to {shown(path)}")
    return [found[number] for number in sorted(found)]


def _open(
    path: Path,
    prompts: Sequence[Prompt],
    settings: Mapping[str, Any],
    overwrite: bool,
    shown: str,
) -> tuple[AnswerFile | None, Int8[np.ndarray, " prompts"]]:
    """The file (on the first process), and what is known of each prompt (on all)."""
    state = np.zeros(len(prompts), np.int8)
    answers, error = None, None
    if jax.process_index() == 0:
        try:
            answers = AnswerFile(path, settings, overwrite=overwrite)
            known = [prompt.number in answers.rows for prompt in prompts]
            state[:] = _COMPLETE if answers.complete else known
        except UserError as found:
            error, state[:] = type(found)(str(found).replace(str(path), shown)), _FAILED
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        state = np.asarray(multihost_utils.broadcast_one_to_all(state))
    if state[0] == _FAILED:
        raise error or UserError(f"the first process could not open {shown}; see what it said")
    return answers, state


class _Progress:
    """Says how far the job is, every few seconds, on standard error."""

    def __init__(self, name: str, total: int, seconds: float = 5.0):
        self._name, self._total, self._seconds = name, total, seconds
        self._start = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last >= self._seconds:
            self._last = now
            say(f"{self._name}: {done}/{self._total} in {now - self._start:.0f} s")


def say(text: str) -> None:
    """Tells the user, once of all processes, beside what the job prints."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)
