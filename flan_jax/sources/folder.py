"""The data folder: where datasets lie that are not generated, and which of them are there.

The folder is the value of the environment variable `FLAN_JAX_DATA`, else `data` in the current
folder. An environment variable, because worker processes inherit it. docs/data.md lists its layout.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flan_jax.sources.base import SourceMissingError
from flan_jax.sources.downloads import Download, ManualDownload

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
      base_url: the address below which its files lie, each under its own path; "" if there is none.
      sha256: checksums of files whose contents we know.
      by_hand: for files that are not below `base_url`, how to get them.
    """

    name: str
    files: tuple[str, ...]
    origin: str
    about: str
    base_url: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    by_hand: Mapping[str, str] = field(default_factory=dict)


_COT = ("aqua", "creak", "ecqa", "esnli", "gsm8k", "qasc", "qed", "sensemaking", "strategyqa")
_COT_COMMIT = "e9e4ec6e2701182c7a91af176f705310da541277"
_COT_SHA256 = {
    "aqua_train.tsv": "2e43bd7900e739a78d7b7b7444e19bae4259399327eb76b78a30f4e4fb7dfdda",
    "creak_train.tsv": "ee6b9a3d88fbc1bdf7cd751c7f266edfc4c15e475560408ffb79490b2fe7bdea",
    "ecqa_train.tsv": "cf6967d587851f25a834cdd16c73f17a4da08bae5b8821922a64b3107160e01c",
    "gsm8k_train.tsv": "acecbb7438cccae1b2eaa212a291c127ece02670d8bb39600164ab20f1d759a7",
    "qasc_train.tsv": "566ba8c3945b5fe8e3125ca4919c15f36e1067b881c251e75d071ad38c861b9a",
    "sensemaking_train.tsv": "c978b40455ed62b1755956f25327c7cec6f9d4954f7185e6fb14b03db74c65af",
    "strategyqa_train.tsv": "0e56b9f46b4d1569e45bf4c7f10d7854be81ae62303098fbd03d3e0bf912201f",
}
# Flan's repository names these two files in its code, but never held them.
_COT_ABSENT = (
    "Flan's public repository does not hold this file. Make it from the original dataset: one row "
    "a line, question TAB answer TAB explanation, without a header"
)
_GSM8K_COMMIT = "3101c7d5072418e28b9008a6636bde82a006892c"
_GSM8K_SHA256 = {
    "test.jsonl": "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    "train.jsonl": "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
}
_RAW = "https://raw.githubusercontent.com"
_MGSM = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")

DATASETS = (
    Dataset(
        "flan_cot",
        tuple(f"{name}_train.tsv" for name in _COT),
        "folder flan/v2/cot_data of github.com/google-research/FLAN",
        "chain-of-thought training rows of Flan 2022",
        base_url=f"{_RAW}/google-research/FLAN/{_COT_COMMIT}/flan/v2/cot_data",
        sha256=_COT_SHA256,
        by_hand={"esnli_train.tsv": _COT_ABSENT, "qed_train.tsv": _COT_ABSENT},
    ),
    Dataset(
        "gsm8k",
        ("train.jsonl", "test.jsonl"),
        "folder grade_school_math/data of github.com/openai/grade-school-math",
        "grade-school mathematics",
        base_url=f"{_RAW}/openai/grade-school-math/{_GSM8K_COMMIT}/grade_school_math/data",
        sha256=_GSM8K_SHA256,
    ),
    Dataset(
        "natural_instructions",
        ("tasks/*.json",),
        "folder tasks of github.com/allenai/natural-instructions",
        "Super-Natural Instructions, one file a task",
        # The repository has no tags. Its tasks know the checksums of their files.
        base_url=f"{_RAW}/allenai/natural-instructions/master",
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
        ("bbh/*.json", "cot-prompts/*.txt", "direct-prompts/*.txt"),
        "github.com/suzgunmirac/BIG-Bench-Hard",
        "BIG-Bench Hard, evaluation",
    ),
    Dataset(
        "mgsm",
        (*(f"mgsm_{language}.tsv" for language in _MGSM), "exemplars.json"),
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
    Dataset(
        "civil_comments",
        ("test.*", "train.*"),
        "kaggle.com/c/jigsaw-unintended-bias-in-toxicity-classification (docs/responsible_ai.md)",
        "comments and their toxicity, evaluation",
    ),
    Dataset(
        "real_toxicity_prompts",
        ("prompts.jsonl",),
        "allenai.org/data/real-toxicity-prompts (docs/responsible_ai.md)",
        "prompts to be continued, evaluation",
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
    dataset = dataset_of(file)
    get = ""
    if dataset is not None:
        (fetch,) = download(file)
        if isinstance(fetch, Download):
            get = f" `flan-jax data fetch TASK` fetches it (from {dataset.origin})."
        else:
            origin = "" if dataset.origin in fetch.how else f" (origin: {dataset.origin})"
            get = f" To have it: {fetch.how}{origin}."
    raise SourceMissingError(
        f"{file} is not in the data folder: looked for {path}.{get} The folder is set by "
        f"{ENVIRONMENT_VARIABLE} (now {os.environ.get(ENVIRONMENT_VARIABLE) or 'not set'}); "
        "`flan-jax data status` shows what is there"
    )


def dataset_of(file: str | Path) -> Dataset | None:
    """The dataset that `file`, a path below the data folder, belongs to, if we know it."""
    path = Path(file).expanduser()
    if path.is_absolute():
        return None
    return next((dataset for dataset in DATASETS if dataset.name == path.parts[0]), None)


def download(
    file: str | Path, *, sha256: str | None = None, size: int | None = None
) -> tuple[Download | ManualDownload, ...]:
    """How to fetch `file`, a path below the data folder; empty if nobody knows.

    Args:
      file: the file.
      sha256: its checksum; by default that of the table of datasets, if it has one.
      size: its length in bytes, if known.
    """
    dataset = dataset_of(file)
    if dataset is None:
        return ()
    path = Path(file).as_posix()
    within = path.removeprefix(f"{dataset.name}/")
    if within in dataset.by_hand:
        return (ManualDownload(path, dataset.by_hand[within]),)
    if not dataset.base_url:
        return (ManualDownload(path, f"get it from {dataset.origin}"),)
    known = sha256 or dataset.sha256.get(within)
    return (Download(f"{dataset.base_url}/{within}", path, known, size),)


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
