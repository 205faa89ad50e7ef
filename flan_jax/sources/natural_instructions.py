"""Tasks of Super-Natural Instructions (Wang et al., 2022): one JSON file a task.

Two schemas are in use. The later one has a list of definitions, ids, languages and licences; the
earlier one (2021) has the definition as a plain string and none of the rest. Files may hold a bare
`NaN`, and texts with stray white space around them, which is taken off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flan_jax.sources import folder
from flan_jax.sources.base import Row, SourceError, check_split
from flan_jax.sources.downloads import AnyDownload
from flan_jax.sources.files import HashSplits, load_once

_CARVE = HashSplits("input", validation=0.05, test=0.05)


@dataclass(frozen=True)
class InstructionFile:
    """What one task file holds.

    Attributes:
      definition: the task in words.
      positive_examples: examples with `input`, `output`, and an `explanation` that may be empty.
      negative_examples: likewise, with outputs that are wrong.
      licence: licence of the instances; empty if the file does not say.
      splits: rows with `input`, `answer`, `answers`, `id`, by split.
      without_output: how many instances were left out because all their outputs are empty.
    """

    definition: str
    positive_examples: tuple[Mapping[str, str], ...]
    negative_examples: tuple[Mapping[str, str], ...]
    licence: str
    splits: Mapping[str, tuple[Row, ...]]
    without_output: int


@dataclass(frozen=True)
class NaturalInstructionsSource:
    """One task. Its rows hold `definition`, `input`, `answer` (the first output), `answers` (all
    outputs), `id`, `positive_examples` and `negative_examples`. No split is official below the
    level of tasks, so validation and test are carved out by a hash of the input.

    Attributes:
      file: the task's file; a relative path is below the data folder.
      carve: how to carve out splits.
      sha256: the checksum of the official file, for fetching it; None if it is not known.
      size: its length in bytes, likewise.
    """

    file: str | Path
    carve: HashSplits = _CARVE
    sha256: str | None = None
    size: int | None = None

    @property
    def kind(self) -> str:
        """`natural_instructions`."""
        return "natural_instructions"

    def describe(self) -> str:
        """The file, as given."""
        return str(self.file)

    def paths(self) -> tuple[Path, ...]:
        """The file's full path, whether it exists or not."""
        return (folder.locate(self.file),)

    def check_present(self) -> None:
        """Raises SourceMissingError unless the file is there."""
        folder.require(self.file)

    def downloads(self) -> tuple[AnyDownload, ...]:
        """The file, from the official repository; none if it is not below the data folder."""
        return folder.download(self.file, sha256=self.sha256, size=self.size)

    def splits(self) -> tuple[str, ...]:
        """Train, and the splits carved out."""
        return ("train", *self.carve.names())

    def content(self) -> InstructionFile:
        """The file. Raises SourceError if it is missing or malformed."""
        return load_once(read_instructions, self.file, self.carve)

    def num_examples(self, split: str) -> int:
        """Rows in `split`. Raises SourceError if the file is missing or malformed."""
        check_split(self, split)
        return len(self.content().splits[split])

    def row(self, split: str, index: int) -> Row:
        """Row `index` of `split`. Raises SourceError on bad data, IndexError past its end."""
        check_split(self, split)
        content = self.content()
        rows = content.splits[split]
        if not 0 <= index < len(rows):
            raise IndexError(f"{self.file}: row {index} of {split}, which has {len(rows)}")
        return {
            "definition": content.definition,
            "positive_examples": content.positive_examples,
            "negative_examples": content.negative_examples,
            **rows[index],
        }


def read_instructions(path: Path, carve: HashSplits) -> InstructionFile:
    """Reads one task file of either schema.

    Raises:
      SourceError: the file is malformed; names file, instance and field.
    """
    try:
        task = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SourceError(f"{path} is not a JSON file in UTF-8: {error}") from None
    if not isinstance(task, dict):
        raise SourceError(f"{path}: expected an object with Definition and Instances")
    instances = _list_of_objects(path, task, "Instances")
    rows = [_row(path, number, instance) for number, instance in enumerate(instances)]
    usable = [row for row in rows if row["answer"]]
    return InstructionFile(
        definition=_definition(path, task),
        positive_examples=_examples(path, task, "Positive Examples"),
        negative_examples=_examples(path, task, "Negative Examples"),
        licence="; ".join(_texts(task.get("Instance License"))),
        splits=carve.divide(usable),
        without_output=len(rows) - len(usable),
    )


def _texts(value: Any) -> list[str]:
    """`value` as stripped texts: a text alone or a list of them; others (NaN, null) give none."""
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]


def _definition(path: Path, task: dict[str, Any]) -> str:
    found = _texts(task.get("Definition"))
    if not found:
        raise SourceError(
            f"{path}: field 'Definition' must be a text or a list of texts that is not empty, "
            f"found {task.get('Definition')!r}"
        )
    return found[0]


def _list_of_objects(path: Path, task: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = task.get(name)
    if not isinstance(found, list):
        raise SourceError(f"{path}: field {name!r} must be a list, found {type(found).__name__}")
    for number, entry in enumerate(found):
        if not isinstance(entry, dict):
            raise SourceError(f"{path}: {name}[{number}] must be an object, found {entry!r}")
    return found


def _examples(path: Path, task: dict[str, Any], name: str) -> tuple[Mapping[str, str], ...]:
    """The task's own examples; those without input or output, which show nothing, are left out."""
    if name not in task:
        return ()
    keys = ("input", "output", "explanation")
    entries = _list_of_objects(path, task, name)
    examples = [{key: " ".join(_texts(entry.get(key))[:1]) for key in keys} for entry in entries]
    return tuple(example for example in examples if example["input"] and example["output"])


def _row(path: Path, number: int, instance: dict[str, Any]) -> Row:
    where = f"{path}: Instances[{number}]"
    text, outputs = instance.get("input"), instance.get("output")
    if not isinstance(text, str):
        raise SourceError(f"{where}: field 'input' must be text, found {text!r}")
    if isinstance(outputs, str):
        outputs = [outputs]
    if not isinstance(outputs, list) or not all(isinstance(output, str) for output in outputs):
        raise SourceError(f"{where}: field 'output' must be a list of texts, found {outputs!r}")
    answers = tuple(_texts(outputs))
    answer = answers[0] if answers else ""
    identity = instance.get("id")
    return {
        "input": text.strip(),
        "answer": answer,
        "answers": answers,
        "id": identity if isinstance(identity, str) else str(number),
    }
