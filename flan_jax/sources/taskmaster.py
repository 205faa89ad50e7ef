"""Taskmaster 1 and 2 (Byrne et al., 2019, 2020): JSON files of conversations."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from flan_jax.sources import folder
from flan_jax.sources.base import Row, SourceError, check_split
from flan_jax.sources.downloads import Download
from flan_jax.sources.files import HashSplits, Rows

FOLDER = "taskmaster"
_REPOSITORY = "https://raw.githubusercontent.com/google-research-datasets/Taskmaster/master"
# As in the repository.
FILES = (
    *("TM-1-2019/self-dialogs.json", "TM-1-2019/woz-dialogs.json"),
    *("TM-2-2020/data/flights.json", "TM-2-2020/data/food-ordering.json"),
    *("TM-2-2020/data/hotels.json", "TM-2-2020/data/movies.json", "TM-2-2020/data/music.json"),
    *("TM-2-2020/data/restaurant-search.json", "TM-2-2020/data/sports.json"),
)
SPEAKERS = ("USER", "ASSISTANT")
_CARVE = HashSplits("text", validation=0.05)


@dataclass(frozen=True)
class TaskmasterSource:
    """Conversations of the published files, those with two turns or more.

    Rows hold `id`, `turns` (texts) and `speakers` (`USER` or `ASSISTANT`, in alternation): what one
    speaker says in several utterances is one turn. Only part of the files has official splits, so
    validation is carved out of all by a hash of the text.

    Attributes:
      files: the files, relative to the folder `taskmaster` of the data folder.
      carve: how to carve out splits; the field hashed is `text`, the whole conversation.
    """

    files: tuple[str, ...] = FILES
    carve: HashSplits = _CARVE

    @property
    def kind(self) -> str:
        """`taskmaster`."""
        return "taskmaster"

    def describe(self) -> str:
        """The folder and how many files of it."""
        return f"{len(self.files)} files of {FOLDER}"

    def paths(self) -> tuple[Path, ...]:
        """The full paths of the files, whether they exist or not."""
        return tuple(folder.locate(f"{FOLDER}/{file}") for file in self.files)

    def check_present(self) -> None:
        """Raises SourceMissingError unless every file is there."""
        for file in self.files:
            folder.require(f"{FOLDER}/{file}")

    def downloads(self) -> tuple[Download, ...]:
        """The files, from the dataset's repository."""
        return tuple(Download(f"{_REPOSITORY}/{file}", f"{FOLDER}/{file}") for file in self.files)

    def splits(self) -> tuple[str, ...]:
        """Train, and the splits carved out."""
        return ("train", *self.carve.names())

    def num_examples(self, split: str) -> int:
        """Conversations in `split`. Raises SourceError if a file is missing or malformed."""
        return len(self._rows(split))

    def row(self, split: str, index: int) -> Row:
        """Row `index` of `split`. Raises SourceError on bad data, IndexError past its end."""
        rows = self._rows(split)
        if not 0 <= index < len(rows):
            raise IndexError(f"{self.describe()}: row {index} of {split}, which has {len(rows)}")
        return rows[index]

    def _rows(self, split: str) -> Rows:
        check_split(self, split)
        self.check_present()
        return _load(self.paths(), self.carve)[split]


@functools.cache
def _load(paths: tuple[Path, ...], carve: HashSplits) -> Mapping[str, Rows]:
    return carve.divide([row for path in paths for row in read_conversations(path)])


def read_conversations(path: Path) -> Rows:
    """The conversations of one file that have two turns or more.

    Raises:
      SourceError: the file is malformed; names file, conversation and utterance.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SourceError(f"{path} is not a JSON file in UTF-8: {error}") from None
    if not isinstance(content, list):
        raise SourceError(f"{path}: expected a list of conversations, found {_kind(content)}")
    rows = (_row(path, number, entry) for number, entry in enumerate(content))
    return tuple(row for row in rows if len(row["turns"]) > 1)


def _row(path: Path, number: int, entry: Any) -> Row:
    where = f"{path}: conversation {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("utterances"), list):
        raise SourceError(f"{where}: expected an object with a list `utterances`")
    spoken = [
        (said["speaker"].upper(), " ".join(said["text"].split()))
        for said in (
            _check(where, i, entry["utterances"][i]) for i in range(len(entry["utterances"]))
        )
    ]
    turns = [
        (speaker, " ".join(text for _, text in group))
        for speaker, group in groupby((s for s in spoken if s[1]), key=lambda s: s[0])
    ]
    texts = tuple(text for _, text in turns)
    return {
        "id": str(entry.get("conversation_id", number)),
        "turns": texts,
        "speakers": tuple(speaker for speaker, _ in turns),
        "text": "\n".join(texts),
    }


def _check(where: str, number: int, said: Any) -> Mapping[str, Any]:
    if not isinstance(said, dict) or not isinstance(said.get("text"), str):
        raise SourceError(f"{where}: utterance {number} has no text: {str(said)[:80]}")
    speaker = said.get("speaker")
    if not isinstance(speaker, str) or speaker.upper() not in SPEAKERS:
        raise SourceError(
            f"{where}: utterance {number} should be by {' or '.join(SPEAKERS)}, found {speaker!r}"
        )
    return said


def _kind(value: Any) -> str:
    return type(value).__name__
