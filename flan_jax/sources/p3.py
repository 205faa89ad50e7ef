"""P3, the Public Pool of Prompts (Sanh et al., 2022): prompts already put into words.

Below the data folder, the records of a configuration lie in `p3/CONFIG/`, in either of two forms:

* Parquet files `train-00000-of-00001.parquet`, as bigscience/P3 on the Hugging Face hub offers them
  today;
* TFRecord files `train.tfrecord-00000-of-00001`, as it offered them at first: cached SeqIO tasks.
  They cannot be read by index, and so are turned into Parquet beside them at first use.

Where a configuration has no records, its prompts are made anew from promptsource's templates and
the dataset they are for (see `flan_jax.sources.promptsource`), if these are there.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flan_jax.sources import folder
from flan_jax.sources.base import Row, SourceError, SourceMissingError, check_split
from flan_jax.sources.downloads import AnyDownload, Download, ManualDownload
from flan_jax.sources.huggingface import DEFAULT_ENDPOINT, ENDPOINT_VARIABLE
from flan_jax.sources.parquet import ParquetRows
from flan_jax.sources.promptsource import (
    NO_ANSWER,
    NO_DEMANDS,
    SPLITS,
    Demands,
    PromptsourceSource,
    States,
    columns_of,
    settle,
    states_of,
)
from flan_jax.sources.tfrecords import to_parquet

_INPUTS, _TARGETS, _CHOICES = "inputs_pretokenized", "targets_pretokenized", "answer_choices"
_PARQUET = re.compile(r"(?P<split>\w+?)(?:-(?P<part>\d+)-of-(?P<parts>\d+)(?:-\w+)?)?\.parquet")
_TFRECORD = re.compile(r"(?P<split>\w+?)\.tfrecord(?:-(?P<part>\d+)-of-(?P<parts>\d+))?")
# Records that are looked at in one go.
_BATCH = 50_000
# What `str.strip` takes off.
_SPACE = "".join(map(chr, filter(lambda code: chr(code).isspace(), range(0x3001))))


@dataclass(frozen=True)
class P3Source:
    """One configuration of P3. Rows hold `inputs`, `answer` and `options` (the answer choices, an
    empty list if there are none), whether they come from P3's records or are made anew.

    Attributes:
      config: P3's name of the configuration, `quail_context_question_answer_description_id`.
      dataset: the dataset's name on the hub.
      prompt: the name of promptsource's template.
      subset: the dataset's configuration; none if empty.
      split_names: the splits that P3 has.
      demands: what rows must have, to be used. Others are left out: a run of days should neither
        end at such a row nor train on it.
      in_parts: P3's Parquet files are large and come in a number of parts that is not known here.
    """

    config: str
    dataset: str
    prompt: str
    subset: str = ""
    split_names: tuple[str, ...] = SPLITS
    demands: Demands = NO_DEMANDS
    in_parts: bool = False

    @property
    def kind(self) -> str:
        """`p3`."""
        return "p3"

    def describe(self) -> str:
        """The configuration."""
        return f"P3 {self.config}"

    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return self.split_names

    @property
    def folder(self) -> str:
        """The folder of the records, relative to the data folder."""
        return f"p3/{self.config}"

    @property
    def rerendered(self) -> PromptsourceSource:
        """The same prompts, made anew from promptsource's templates."""
        return PromptsourceSource(
            self.dataset, self.prompt, self.subset, self.split_names, self.demands
        )

    def has_records(self) -> bool:
        """Whether there are records of P3; they are preferred to making them anew."""
        return any(_records(folder.locate(self.folder)))

    def num_examples(self, split: str) -> int:
        """Rows in `split`, those left out not counted. Raises SourceError."""
        check_split(self, split)
        if not self._from_records():
            return self.rerendered.num_examples(split)
        rows, kept = self._open(split)
        return len(rows) if kept is None else len(kept)

    def left_out(self, split: str) -> int:
        """Rows left out, for want of an answer or of a fitting answer choice."""
        check_split(self, split)
        if not self._from_records():
            return self.rerendered.left_out(split)
        rows, kept = self._open(split)
        return 0 if kept is None else len(rows) - len(kept)

    def row(self, split: str, index: int) -> Row:
        """Row `index` of `split`. Raises SourceError on bad data, IndexError past its end."""
        check_split(self, split)
        if not self._from_records():
            return self.rerendered.row(split, index)
        rows, kept = self._open(split)
        size = len(rows) if kept is None else len(kept)
        if not 0 <= index < size:
            raise IndexError(f"{self.describe()}: row {index} of {split}, which has {size}")
        position = index if kept is None else int(kept[index])
        record = rows[position]
        choices = filter(None, record.get(_CHOICES) or ())
        row = settle(record[_INPUTS], record[_TARGETS], choices, self.demands)
        if row is None:
            raise SourceError(
                f"{self.describe()}: record {position} of {split} has an empty prompt ({_INPUTS})"
            )
        return row

    def check_present(self) -> None:
        """Raises SourceMissingError unless there are rows of the first split, of either kind."""
        if self._from_records():
            _split_files(folder.locate(self.folder), self.split_names[0])

    def downloads(self) -> tuple[AnyDownload, ...]:
        """P3's Parquet files on the hub, which the variable HF_ENDPOINT may place elsewhere."""
        if self.in_parts:
            return (
                ManualDownload(
                    self.folder,
                    "large, and in a number of parts that only the hub knows: `huggingface-cli "
                    f'download bigscience/P3 --repo-type dataset --include "{self.config}/*" '
                    "--local-dir DATA_FOLDER/p3`",
                ),
            )
        hub = (os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT).rstrip("/")
        names = [f"{self.config}/{split}-00000-of-00001.parquet" for split in self.split_names]
        return tuple(
            Download(f"{hub}/datasets/bigscience/P3/resolve/main/{name}", f"p3/{name}")
            for name in names
        )

    def _from_records(self) -> bool:
        """Whether to read records. Raises SourceMissingError if nothing is there at all."""
        if self.has_records():
            return True
        try:
            self.rerendered.check_present()
        except SourceMissingError as error:
            raise SourceMissingError(
                f"{self.describe()} is not in the data folder: looked for Parquet or TFRecord "
                f"files in {folder.locate(self.folder)} (`flan-jax data fetch {self.config}` "
                f"brings them). Nor can it be made anew: {error}"
            ) from None
        return False

    def _open(self, split: str) -> tuple[ParquetRows, np.ndarray | None]:
        files = _split_files(folder.locate(self.folder), split)
        paths = tuple(_converted(path) for path in files)
        return _open(paths, states_of(paths), self.demands)


# ------------------------------------------------------------------------------------------ files


def _records(root: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    """Files of records in a folder, Parquet first."""
    try:
        names = sorted(os.listdir(root))
    except (FileNotFoundError, NotADirectoryError):
        return
    for pattern in (_PARQUET, _TFRECORD):
        for name in names:
            if match := pattern.fullmatch(name):
                yield root / name, match


def _split_files(root: Path, split: str) -> tuple[Path, ...]:
    """The files of a split, Parquet files where there are both.

    Raises:
      SourceMissingError: there are none, or some of the parts are missing.
    """
    by_parts: dict[int, dict[int, Path]] = {}
    for path, match in _records(root):
        if match["split"] == split:
            parts = by_parts.setdefault(int(match["parts"] or 1), {})
            parts.setdefault(int(match["part"] or 0), path)
    whole = [parts for count, parts in by_parts.items() if set(parts) == set(range(count))]
    if whole:
        best = max(whole, key=lambda parts: sum(p.suffix == ".parquet" for p in parts.values()))
        return tuple(best[part] for part in sorted(best))
    if not by_parts:
        raise SourceMissingError(
            f"{root} has no records of the split {split!r}: there should be a file such as "
            f"{split}-00000-of-00001.parquet; `flan-jax data fetch {root.name}` brings it"
        )
    count, parts = max(by_parts.items(), key=lambda item: len(item[1]) / item[0])
    missing = ", ".join(str(part) for part in range(count) if part not in parts)
    raise SourceMissingError(
        f"{root} has {len(parts)} of the {count} files of the split {split!r}; missing: {missing} "
        "(counted from 0)"
    )


def _converted(path: Path) -> Path:
    """`path`; if it is a TFRecord file, the Parquet file made from it. Raises SourceError."""
    if path.suffix == ".parquet":
        return path
    target = path.with_name(path.name.replace(".tfrecord", "") + ".parquet")
    to_parquet(path, target, single=(_INPUTS, _TARGETS), several=(_CHOICES,))
    return target


# ---------------------------------------------------------------------------------------- records


@functools.lru_cache(maxsize=1024)
def _open(
    paths: tuple[Path, ...], states: States, demands: Demands
) -> tuple[ParquetRows, np.ndarray | None]:
    """The records, and which of them to use; None for all."""
    del states  # only tells whether the files have changed
    found = columns_of(paths[0])
    needed = (_INPUTS, _TARGETS, _CHOICES) if demands.choice else (_INPUTS, _TARGETS)
    for column in needed:
        if column not in found:
            raise SourceError(
                f"{paths[0]} has no column {column!r}, only {', '.join(found)}: expected records "
                "of P3 (inputs_pretokenized, targets_pretokenized and, for tasks with options, "
                "answer_choices)"
            )
    columns = tuple(name for name in (_INPUTS, _TARGETS, _CHOICES) if name in found)
    rows = ParquetRows(paths, columns, texts=(_INPUTS,))
    flags = np.concatenate([_usable(path, demands) for path in paths])
    if len(flags) and not flags.any():
        wanted = " that is among two or more answer_choices" if demands.choice else ""
        raise SourceError(
            f"{paths[0]}: none of the {len(flags)} records has an answer{wanted}; the first is "
            f"{rows[0]!r}. Is this another configuration of P3?"
        )
    return rows, None if flags.all() else np.flatnonzero(flags)


def _usable(path: Path, demands: Demands) -> np.ndarray:
    """Which records of a file are to be used; `settle` in bulk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [_TARGETS]
    columns += [_CHOICES] if demands.choice else []
    columns += [_INPUTS] if demands.shown_as else []
    try:
        batches = pq.ParquetFile(path, memory_map=True).iter_batches(
            _BATCH, columns=columns, use_threads=False
        )
        return np.concatenate([np.zeros(0, bool), *(_usable_of(b, demands) for b in batches)])
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} is damaged: {error}") from None


def _usable_of(batch: Any, demands: Demands) -> np.ndarray:
    """Which records of a batch are to be used.

    Looking at millions of records one by one takes minutes. So the plain cases are decided in bulk:
    an answer that is exactly one choice of several. Only the others are looked at singly.
    """
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made at run time
    targets = pc.utf8_trim(batch[_TARGETS], characters=_SPACE)
    unanswered = pc.or_(pc.equal(targets, ""), pc.equal(targets, NO_ANSWER))
    usable = ~pc.fill_null(unanswered, True).to_numpy(zero_copy_only=False)
    if demands.shown_as:
        for position in np.flatnonzero(usable):
            inputs = batch[_INPUTS][int(position)].as_py() or ""
            usable[position] = demands.shown(inputs, targets[int(position)].as_py())
    if not demands.choice:
        return usable
    choices = batch[_CHOICES]
    parents = pc.list_parent_indices(choices).to_numpy()
    texts = pc.utf8_trim(pc.list_flatten(choices), characters=_SPACE)
    same = pc.equal(texts, targets.take(pc.list_parent_indices(choices)))
    same = pc.fill_null(same, False).to_numpy(zero_copy_only=False)
    filled = pc.fill_null(pc.not_equal(texts, ""), False).to_numpy(zero_copy_only=False)
    plain = np.zeros((2, len(usable)), bool)
    plain[0, parents[same]] = True
    plain[1, parents[~same & filled]] = True
    for position in np.flatnonzero(usable & ~plain.all(axis=0)):
        texts_here = choices[int(position)].as_py() or []
        answer = targets[int(position)].as_py()
        usable[position] = (
            settle("-", answer, filter(None, texts_here), Demands(choice=True)) is not None
        )
    return usable
