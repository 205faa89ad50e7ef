"""Files of prompts in, files of answers out.

Prompts are lines of text, or JSON lines. Answers are JSON lines in the order of the prompts. While
they are being made they are kept, batch by batch, in `<output>.partial`, from which an interrupted
job goes on; the output itself appears when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flan_jax.errors import UserError
from flan_jax.files import write_atomically
from flan_jax.suggestions import did_you_mean

# Where a row of a JSON-lines file may have its prompt: plainly, or as T5X's and SeqIO's files do.
PROMPT_FIELDS = ("prompt", "inputs_pretokenized", "inputs", "input")
TARGET_FIELDS = ("targets", "targets_pretokenized", "target")
_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
FORMAT = 1


class PromptFileError(UserError):
    """A file of prompts or answers cannot be read, or is not what it should be."""


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
      number: which prompt of the file it is, from 0; keys what is sampled for it.
      text: what the model reads.
      id: the row's own name, if it has one; it is copied to the answer.
      targets: texts whose log-probabilities are asked for; none if an answer is.
    """

    number: int
    text: str
    id: str | None = None
    targets: tuple[str, ...] = ()


def read_prompts(path: Path | str) -> list[Prompt]:
    """The prompts of a file.

    A name that ends in .jsonl is read as JSON lines: strings, or objects with a prompt in one of
    PROMPT_FIELDS and perhaps `id` and TARGET_FIELDS (a text, or a list of texts). In any other file
    each line is a prompt. Empty lines are skipped.

    Raises:
      PromptFileError: the file is missing, empty or no UTF-8, or a line is not as it should be.
    """
    path = Path(path)
    try:
        # Not splitlines(): JSON texts may hold other line separators as they are.
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise PromptFileError(f"file of prompts {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PromptFileError(f"file of prompts {path} cannot be read: {error}") from error
    is_json = path.suffix in _JSON_SUFFIXES
    prompts: list[Prompt] = []
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if not is_json:
            prompts.append(Prompt(len(prompts), line))
            continue
        try:
            prompts.append(_from_json(line, len(prompts)))
        except (ValueError, TypeError) as error:
            raise PromptFileError(f"{path}, line {line_number}: {error}") from error
    if not prompts:
        raise PromptFileError(f"{path} holds no prompt")
    return prompts


def _from_json(line: str, number: int) -> Prompt:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error}); a file of plain prompts ends in .txt") from error
    if isinstance(row, str):
        return Prompt(number, row)
    if not isinstance(row, Mapping):
        raise TypeError(f"expected a text or an object, found {type(row).__name__}")
    nested = [row[name] for name in ("inputs", "input") if isinstance(row.get(name), Mapping)]
    fields = {**(nested[0] if nested else {}), **{k: v for k, v in row.items() if v not in nested}}
    found = [name for name in PROMPT_FIELDS if isinstance(fields.get(name), str)]
    if not found:
        wrong = did_you_mean(next(iter(row), ""), PROMPT_FIELDS)
        raise ValueError(
            f"has no prompt: expected a text in one of {', '.join(PROMPT_FIELDS)}, found the fields"
            f" {', '.join(map(str, row)) or 'none'}{wrong}"
        )
    name = fields.get("id")
    targets = next((fields[field] for field in TARGET_FIELDS if field in fields), ())
    targets = (targets,) if isinstance(targets, str) else tuple(targets)
    if not all(isinstance(target, str) for target in targets):
        raise TypeError(f"targets must be a text or a list of texts, found {targets!r}")
    return Prompt(number, fields[found[0]], None if name is None else str(name), targets)


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """16 hexadecimal digits of texts and targets, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for prompt in prompts:
        digest.update(json.dumps([prompt.text, *prompt.targets]).encode())
    return digest.hexdigest()


class AnswerFile:
    """Rows for prompts 0, 1, …, appended in any order and a batch at a time.

    Args:
      path: where the answers go when there is one for every prompt.
      settings: all that decides the answers, as JSON values. Answers that were made with other
        settings are never mixed with new ones.
      overwrite: drop what an earlier job left at `path`.

    Attributes:
      rows: what is there, by the prompt's number.
      complete: whether an earlier job finished.

    Raises:
      PromptFileError: the answers there were made with other settings, or the file is damaged.
    """

    def __init__(self, path: Path | str, settings: Mapping[str, Any], *, overwrite: bool = False):
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self._about = self.path.with_name(self.path.name + ".settings.json")
        self._settings = {"format": FORMAT, **json.loads(json.dumps(settings))}
        self.rows: dict[int, dict[str, Any]] = {}
        self.complete = False
        self._file: Any = None
        if overwrite:
            for file in (self.path, self.partial, self._about):
                file.unlink(missing_ok=True)
        if self.path.exists():
            self._check_settings(self._read_about(), self.path)
            self.complete = True
        elif self.partial.exists():
            self._load_partial()

    def _read_about(self) -> dict[str, Any]:
        if not self._about.is_file():
            raise PromptFileError(
                f"{self.path} exists and was not made by this command (there is no"
                f" {self._about.name}): choose another --output, or --overwrite it"
            )
        return json.loads(self._about.read_text(encoding="utf-8"))

    def _check_settings(self, found: Mapping[str, Any], path: Path) -> None:
        names = [*self._settings, *(name for name in found if name not in self._settings)]
        different = [
            f"  {name}: {found.get(name)!r} there, {self._settings.get(name)!r} now"
            for name in names
            if found.get(name) != self._settings.get(name)
        ]
        if different:
            raise PromptFileError(
                f"{path} holds answers that were made with other settings:\n"
                + "\n".join(different)
                + "\nChoose another --output, or --overwrite it"
            )

    def _load_partial(self) -> None:
        whole, newline, torn = self.partial.read_bytes().rpartition(b"\n")
        lines = whole.split(b"\n") if newline else []
        for line_number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if line_number == 1:
                    self._check_settings(row, self.partial)
                else:
                    self.rows[row["number"]] = row
            except (ValueError, KeyError, TypeError) as error:
                raise PromptFileError(
                    f"{self.partial}, line {line_number}: not an answer ({error}); delete the file"
                    " to begin anew"
                ) from error
        if torn or not lines:  # a crash cut the last line
            os.truncate(self.partial, len(whole) + len(newline))
        if not lines:
            self.partial.unlink()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keeps a batch of rows, each with its `number`; it is on disk when this returns."""
        rows = [dict(row) for row in rows]
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            begun = self.partial.exists()
            self._file = open(self.partial, "ab")  # noqa: SIM115 (kept open; see close)
            if not begun:
                self._write([self._settings])
        self._write(rows)
        self.rows.update((row["number"], row) for row in rows)

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._file.write("".join(lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self, to_row: Callable[[dict[str, Any]], Any] = lambda row: row) -> None:
        """Writes `to_row` of all rows to `path`, in order, and drops the partial file."""
        self.close()
        ordered = [to_row(self.rows[number]) for number in sorted(self.rows)]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in ordered]
        write_atomically(self._about, json.dumps(self._settings, indent=1) + "\n")
        write_atomically(self.path, "".join(lines))
        self.partial.unlink(missing_ok=True)
        self.complete = True

    def close(self) -> None:
        """Lets go of the partial file."""
        if self._file is not None:
            self._file.close()
            self._file = None
