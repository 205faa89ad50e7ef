"""Rows of a dataset of the Hugging Face hub, put into words by one of promptsource's templates.

This is how P3, T0's training data, came about; see `flan_jax.sources.p3` for P3's own files. Below
the data folder, the templates lie in `promptsource/DATASET[/SUBSET]/templates.yaml` as in
promptsource's repository, and the dataset in Parquet files, as the hub offers them, in
`huggingface/DATASET/SUBSET/SPLIT/` (`default` if it has no subset).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flan_jax.sources import folder
from flan_jax.sources.base import Row, SourceError, SourceMissingError, check_split
from flan_jax.sources.downloads import AnyDownload, Download, ManualDownload
from flan_jax.sources.kept_rows import Kept, kept_rows
from flan_jax.sources.parquet import ParquetRows
from flan_jax.sources.prompt_templates import PromptTemplate, get_template
from flan_jax.suggestions import did_you_mean

SPLITS = ("train", "validation", "test")
# What datasets on the hub call their splits.
_SPLIT_FOLDERS = {"validation": ("validation", "val", "dev")}
# What T0's pipeline wrote where a row has no answer (bigscience-workshop/t-zero, seqio_tasks).
NO_ANSWER = "<NO LABEL>"
_REPOSITORY = "https://raw.githubusercontent.com/bigscience-workshop/promptsource"
# promptsource's main branch since October 2023.
_COMMIT = "7dab96a3eeb3717cea633705135ebc488885d709"


def match_choice(answer: str, options: Iterable[str]) -> str | None:
    """The option that `answer` is: the same text, else the same but for case and white space."""
    options = tuple(options)
    if answer in options:
        return answer
    folded = " ".join(answer.casefold().split())
    return next((o for o in options if " ".join(o.casefold().split()) == folded), None)


@dataclass(frozen=True)
class Demands:
    """What a row must have besides a prompt and an answer; it is left out otherwise.

    Attributes:
      choice: at least two different answer choices, with the answer among them, but for case and
        white space. Shown the choices, a model could not answer rightly otherwise.
      shown_as: the answer in this form, `- {}`, in the prompt's text; nothing if empty.
    """

    choice: bool = False
    shown_as: str = ""

    def shown(self, inputs: str, answer: str) -> bool:
        """Whether the prompt shows the answer, if it must."""
        return not self.shown_as or self.shown_as.format(answer) in inputs


NO_DEMANDS = Demands()


def settle(inputs: str, answer: str, options: Iterable[str], demands: Demands) -> Row | None:
    """The row of a prompt: `inputs`, `answer`, `options`; None if it is to be left out.

    Left out are rows without a prompt or an answer, and those that lack what is demanded. If a
    choice is, `answer` becomes the option's own text. Options are stripped, each stands once.
    """
    inputs, answer = inputs.strip(), answer.strip()
    distinct = list(dict.fromkeys(option.strip() for option in options if option.strip()))
    if not inputs or not answer or answer == NO_ANSWER or not demands.shown(inputs, answer):
        return None
    if demands.choice:
        matched = match_choice(answer, distinct)
        if matched is None or len(distinct) < 2:
            return None
        answer = matched
    return {"inputs": inputs, "answer": answer, "options": distinct}


@dataclass(frozen=True)
class PromptsourceSource:
    """Prompts of one template over one dataset. Rows hold `inputs`, `answer` and `options` (the
    answer choices, an empty list if the template has none).

    Random choices in templates are a function of the template's name, the split and the row's
    position in the dataset. Rows that the template does not fit are left out; which they are is
    worked out once, by rendering all, and written down beside the dataset.

    Attributes:
      dataset: the dataset's name on the hub.
      prompt: the template's name.
      subset: the dataset's configuration; none if empty.
      split_names: the splits to offer.
      demands: what rows must have, to be used.
    """

    dataset: str
    prompt: str
    subset: str = ""
    split_names: tuple[str, ...] = SPLITS
    demands: Demands = NO_DEMANDS

    @property
    def kind(self) -> str:
        """`promptsource`."""
        return "promptsource"

    def describe(self) -> str:
        """Dataset and template."""
        return f"promptsource {'/'.join(filter(None, (self.dataset, self.subset)))}: {self.prompt}"

    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return self.split_names

    @property
    def template_file(self) -> str:
        """The file of templates, relative to the data folder."""
        return "/".join(filter(None, ("promptsource", self.dataset, self.subset, "templates.yaml")))

    @property
    def rows_folder(self) -> str:
        """The folder of the dataset's splits, relative to the data folder."""
        return f"huggingface/{self.dataset}/{self.subset or 'default'}"

    def num_examples(self, split: str) -> int:
        """Rows in `split` that the template fits. Raises SourceError on missing or bad files."""
        return len(self._open(split)[1])

    def left_out(self, split: str) -> int:
        """Rows of the dataset that are left out. Raises SourceError on missing or bad files."""
        rows, kept = self._open(split)
        return len(rows) - len(kept)

    def row(self, split: str, index: int) -> Row:
        """Row `index` of `split`, counting rows that fit. Raises SourceError, IndexError."""
        rows, kept = self._open(split)
        if not 0 <= index < len(kept):
            raise IndexError(f"{self.describe()}: row {index} of {split}, which has {len(kept)}")
        row = _rendered(rows, self._template(), split, self.demands, int(kept[index]))
        if row is None:  # the list of rows that fit is older than these files
            raise SourceError(
                f"{self.describe()}: the template does not fit row {kept[index]} of {split}: "
                f"remove the folder flan_jax_kept_rows in {folder.locate(self.rows_folder)}"
            )
        return row

    def check_present(self) -> None:
        """Raises SourceMissingError unless the templates and the first split are there."""
        if not folder.locate(self.template_file).is_file():
            raise SourceMissingError(
                f"{self.describe()}: {folder.locate(self.template_file)} does not exist: get it "
                "from folder promptsource/templates of github.com/bigscience-workshop/promptsource"
            )
        _parquet_files(folder.locate(self.rows_folder), self.split_names[0])

    def downloads(self) -> tuple[AnyDownload, ...]:
        """The file of templates, and a word on the dataset."""
        path = self.template_file
        return (
            Download(f"{_REPOSITORY}/{_COMMIT}/promptsource/templates/{path[13:]}", path),
            ManualDownload(
                self.rows_folder,
                f"Parquet files of {self.dataset} {self.subset} as the Hugging Face hub offers "
                "them on its branch refs/convert/parquet, in a folder for each split",
            ),
        )

    def _template(self) -> PromptTemplate:
        return get_template(folder.locate(self.template_file), self.prompt)

    def _open(self, split: str) -> tuple[ParquetRows, Kept]:
        check_split(self, split)
        paths = _parquet_files(folder.locate(self.rows_folder), split)
        return _open(paths, states_of(paths), self._template(), split, self.demands)


def _parquet_files(root: Path, split: str) -> tuple[Path, ...]:
    names = _SPLIT_FOLDERS.get(split, (split,))
    for name in names:
        found = tuple(sorted((root / name).glob("*.parquet")))
        if found:
            return found
    raise SourceMissingError(
        f"no Parquet files in {root / names[0]}: get the dataset from the Hugging Face hub, where "
        "the branch refs/convert/parquet has it in this form, a folder for each split"
    )


States = tuple[tuple[int, int], ...]


def states_of(paths: tuple[Path, ...]) -> States:
    """Length and time of last change of files: tells whether they are the same as before."""
    return tuple((state.st_size, state.st_mtime_ns) for state in (p.stat() for p in paths))


def columns_of(path: Path) -> tuple[str, ...]:
    """Names of the columns of a Parquet file. Raises SourceError if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return tuple(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} cannot be read as Parquet: {error}") from None


@functools.lru_cache(maxsize=1024)
def _open(
    paths: tuple[Path, ...],
    states: States,
    template: PromptTemplate,
    split: str,
    demands: Demands,
) -> tuple[ParquetRows, Kept]:
    found, wanted = columns_of(paths[0]), template.columns()
    columns = tuple(name for name in found if name.replace("-", "_") in wanted)
    if missing := sorted(wanted - {name.replace("-", "_") for name in columns}):
        raise SourceError(
            f"{template.where} uses the column {missing[0]!r}, which {paths[0]} lacks"
            f"{did_you_mean(missing[0], found)} (columns: {', '.join(found)})"
        )
    rows = ParquetRows(paths, columns)

    def read(index: int) -> Row:
        return {"row": _rendered(rows, template, split, demands, index)}

    # What decides is in the name: the template, the files, and what counts as fitting.
    patterns = f"{template.jinja}\n{template.answer_choices}".encode()
    sizes = " ".join(f"{path.name}:{size}" for path, (size, _) in zip(paths, states, strict=True))
    name = (
        f"{paths[0].parent.name} {sizes} as {template.name} "
        f"{hashlib.sha256(patterns).hexdigest()[:16]} {demands}"
    )
    return rows, kept_rows(paths[0].parent.parent, name, len(rows), read, _fits)


def _fits(row: Row) -> bool:
    return row["row"] is not None


def _rendered(
    rows: ParquetRows, template: PromptTemplate, split: str, demands: Demands, index: int
) -> Row | None:
    """Row `index` of the dataset in words; None if it is to be left out."""
    prompted = template.apply(rows[index], split, index)
    if prompted is None:
        return None
    return settle(prompted.inputs, prompted.answer, prompted.options, demands)
