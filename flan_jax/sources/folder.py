"""The data folder: where datasets lie that are not generated, and which of them are there.

The folder is the value of the environment variable `FLAN_JAX_DATA`, else `data` in the current
folder. An environment variable, because worker processes inherit it. docs/data.md lists its layout.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from flan_jax.sources.base import SourceMissingError

ENVIRONMENT_VARIABLE = "FLAN_JAX_DATA"
DEFAULT_FOLDER = Path("data")


@dataclass(frozen=True)
class Dataset:
    """One dataset of the data folder.

    Attributes:
      name: its subfolder.
      files: files it consists of, or a pattern such as ``tasks/*.json``, relative to its subfolder.
      origin: where it comes from.
      about: what it is, in a few words.
    """

    name: str
    files: tuple[str, ...]
    origin: str
    about: str


_COT = ("aqua", "creak", "ecqa", "esnli", "gsm8k", "qasc", "qed", "sensemaking", "strategyqa")
_MGSM = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")

DATASETS = (
    Dataset(
        "flan_cot",
        tuple(f"{name}_train.tsv" for name in _COT),
        "folder flan/v2/cot_data of github.com/google-research/FLAN",
        "chain-of-thought training rows of Flan 2022",
    ),
    Dataset(
        "gsm8k",
        ("train.jsonl", "test.jsonl"),
        "folder grade_school_math/data of github.com/openai/grade-school-math",
        "grade-school mathematics",
    ),
    Dataset(
        "natural_instructions",
        ("tasks/*.json",),
        "folder tasks of github.com/allenai/natural-instructions",
        "Super-Natural Instructions, one file a task",
    ),
    Dataset(
        "t5_vocab",
        ("spiece.model",),
        "the vocabulary of any T5 checkpoint (cc_all.32000, 32,000 pieces)",
        "T5's SentencePiece vocabulary",
    ),
    Dataset(
        "aqua",
        ("dev.json", "test.json"),
        "github.com/google-deepmind/AQuA",
        "algebra questions, evaluation",
    ),
    Dataset(
        "bbh",
        ("bbh/*.json", "cot-prompts/*.txt"),
        "github.com/suzgunmirac/BIG-Bench-Hard",
        "BIG-Bench Hard, evaluation",
    ),
    Dataset(
        "mgsm",
        tuple(f"mgsm_{language}.tsv" for language in _MGSM),
        "folder mgsm of github.com/google-research/url-nlp",
        "GSM8K in eleven languages, evaluation",
    ),
    Dataset(
        "mmlu",
        ("dev/*.csv", "test/*.csv", "val/*", "mmlu-cot.json"),
        "github.com/hendrycks/test; the prompts of mmlu-cot.json from github.com/jasonwei20/flan-2",
        "57 subjects, evaluation",
    ),
    Dataset(
        "strategyqa",
        ("dev.json",),
        "github.com/eladsegal/strategyqa",
        "yes/no questions, evaluation",
    ),
    Dataset(
        "tydiqa",
        ("dev/*", "train/*"),
        "github.com/google-research-datasets/tydiqa, gold passages by language",
        "question answering in nine languages, evaluation",
    ),
    Dataset(
        "winogender",
        ("all_sentences.tsv", "templates.tsv", "occupations-stats.tsv"),
        "folder data of github.com/rudinger/winogender-schemas",
        "pronouns and occupations, evaluation",
    ),
    Dataset(
        "toxicity_wiki",
        ("toxicity_fuzzed_testset.csv",),
        "github.com/conversationai/unintended-ml-bias-analysis",
        "toxicity with identity terms, evaluation",
    ),
)


@dataclass(frozen=True)
class DatasetStatus:
    """Whether a dataset is in the data folder.

    Attributes:
      name: the dataset's name.
      found: whether at least one of its files is there.
      path: its folder.
      detail: what was found and what is missing.
    """

    name: str
    found: bool
    path: Path
    detail: str


def data_folder() -> Path:
    """The data folder, whether it exists or not."""
    return Path(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_FOLDER).expanduser().absolute()


def use_data_folder(folder: str | Path) -> None:
    """Makes `folder` the data folder of this process and those it starts.

    Raises:
      SourceMissingError: there is no such folder.
    """
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise SourceMissingError(f"the data folder {path} does not exist")
    os.environ[ENVIRONMENT_VARIABLE] = str(path)


def locate(file: str | Path) -> Path:
    """The full path of a source's file: relative ones are below the data folder."""
    return data_folder() / Path(file).expanduser()


def require(file: str | Path) -> Path:
    """`locate`, for a file that must be there.

    Raises:
      SourceMissingError: it is not; says where it was looked for and how to get it.
    """
    path = locate(file)
    if path.is_file():
        return path
    if Path(file).expanduser().is_absolute():
        raise SourceMissingError(f"the file {path} does not exist: mend the path, or put it there")
    folder = Path(file).parts[0]
    origin = next((dataset.origin for dataset in DATASETS if dataset.name == folder), None)
    get = f" Get it from {origin}." if origin else ""
    raise SourceMissingError(
        f"{file} is not in the data folder: looked for {path}.{get} The folder is set by "
        f"{ENVIRONMENT_VARIABLE} (now {os.environ.get(ENVIRONMENT_VARIABLE) or 'not set'}); "
        "`flan-jax data status` shows what is there"
    )


def status(folder: Path | None = None) -> list[DatasetStatus]:
    """What is in `folder`, by default the data folder, in the order of DATASETS."""
    root = data_folder() if folder is None else folder
    return [_status(dataset, root / dataset.name) for dataset in DATASETS]


def _status(dataset: Dataset, path: Path) -> DatasetStatus:
    found, missing = 0, []
    for pattern in dataset.files:
        matches = sum(1 for file in path.glob(pattern) if file.is_file()) if path.is_dir() else 0
        found += matches
        if not matches:
            missing.append(pattern)
    if not found:
        return DatasetStatus(dataset.name, False, path, f"not found; from {dataset.origin}")
    detail = f"{found} file{'s' if found > 1 else ''}: {dataset.about}"
    if missing:
        detail += f"; missing: {', '.join(missing)}"
    return DatasetStatus(dataset.name, True, path, detail)
