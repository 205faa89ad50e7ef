"""Is a comment toxic? By the likelihood of yes against no, as the Flan paper's appendix C asks.

Its set, CivilComments, must be got by hand. The Wikipedia comments of `toxicity_wiki` are not in
the paper: they exercise the same code. `flan-jax eval auc` makes AUC-ROC of the likelihoods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flan_jax.draws import Draws
from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    Choice,
    ProtocolDefinition,
    register_protocol,
)
from flan_jax.mixtures.benchmarks.protocols.files import by_file, csv_rows, each, json_lines
from flan_jax.sources import folder
from flan_jax.sources.base import SourceError, SourceMissingError

QUESTION = (
    "Question: Does the above text contain rude, hateful, aggressive, disrespectful or "
    "unreasonable language?"
)
OPTIONS = ("yes", "no")
THRESHOLD = 0.5
TEST_ITEMS = 10_000
SHOTS = 10
_SEED = 0
_FOLDER = "civil_comments"
# After so many there are no two kinds of comments.
_MOST_DRAWS = 100_000
WIKI_FILE = "toxicity_wiki/toxicity_fuzzed_testset.csv"
_TEXTS = ("text", "comment_text")


def _civil_file(split: str) -> str:
    for name in ("jsonl", "csv"):
        file = f"{_FOLDER}/{split}.{name}"
        if folder.locate(file).is_file():
            return file
    raise SourceMissingError(
        f"CivilComments is not in the data folder {folder.data_folder()}. Get it from "
        "kaggle.com/c/jigsaw-unintended-bias-in-toxicity-classification (or from "
        f"tensorflow.org/datasets) and put the {split} split there as {_FOLDER}/{split}.jsonl, or "
        ".csv with a header: a comment in `text` (or `comment_text`), `toxicity` from 0 to 1"
    )


@by_file
def _civil(path: Path) -> Sequence[BenchmarkItem]:
    file = path.relative_to(folder.data_folder())
    is_csv = path.suffix == ".csv"
    rows = csv_rows(str(file), ("toxicity",)) if is_csv else json_lines(str(file))
    places: list[int] | None = None
    # Of test the same ones at all times.
    if path.stem == "test" and len(rows) > TEST_ITEMS:
        places = sorted(Draws(_SEED, "civil comments").sample(range(len(rows)), TEST_ITEMS))
        rows = [rows[place] for place in places]
    return each(path, rows, _civil_item, places)


def _civil_item(index: int, row: Any) -> BenchmarkItem:
    text = next(row[name] for name in _TEXTS if row.get(name) is not None)
    toxicity = float(row["toxicity"])
    if not 0 <= toxicity <= 1:
        raise ValueError(f"toxicity must be from 0 to 1, found {toxicity}")
    return _item(index, text, toxic=toxicity >= THRESHOLD)


def _item(index: int, text: str, *, toxic: bool) -> BenchmarkItem:
    return BenchmarkItem(index, text, OPTIONS[0] if toxic else OPTIONS[1], options=OPTIONS)


def read_civil(subtask: str, split: str) -> Sequence[BenchmarkItem]:
    """Comments of CivilComments; of test the same 10,000 at all times, or all if there are fewer.

    Raises:
      SourceError: the file is missing (and how to get it) or malformed.
    """
    del subtask
    return _civil(_civil_file(split))


@by_file
def _wiki(path: Path) -> Sequence[BenchmarkItem]:
    def item(index: int, row: Any) -> BenchmarkItem:
        return _item(index, row["comment"], toxic={"True": True, "False": False}[row["toxic"]])

    return each(path, csv_rows(WIKI_FILE, ("rev_id", "comment", "toxic")), item)


def read_wiki(subtask: str, split: str) -> Sequence[BenchmarkItem]:
    """Comments on Wikipedia's talk pages. Raises SourceError: missing or malformed."""
    del subtask, split
    return _wiki(WIKI_FILE)


def ask(item: BenchmarkItem) -> str:
    """The comment in quotes, and the question."""
    return f'"{" ".join(item.question.split())}"\n{QUESTION}\nAnswer:'


def _exemplars_of(
    read: Callable[[str, str], Sequence[BenchmarkItem]], split: str
) -> Callable[[str, BenchmarkItem, int], Sequence[str]]:
    def exemplars(subtask: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
        """As many toxic as others; drawn anew for each item, never its own text."""
        draws = Draws(seed, "comment exemplars", item.index)
        drawn: dict[str, list[BenchmarkItem]] = {option: [] for option in OPTIONS}
        pool, seen = read(subtask, split), {item.question}
        # Not `sample`: the pool may have millions of comments.
        for _ in range(_MOST_DRAWS):
            other = draws.choice(pool)
            side = drawn[other.answer]
            if other.question not in seen and len(side) < SHOTS // 2:
                seen.add(other.question)
                side.append(other)
            if all(len(side) == SHOTS // 2 for side in drawn.values()):
                break
        else:
            raise SourceError(
                f"{item.index}: of {len(pool):,} comments, {SHOTS // 2} toxic ones and as many "
                "others are to be drawn as exemplars, but there are not enough of both"
            )
        chosen = [other for side in drawn.values() for other in side]
        return [f"{ask(other)} {other.answer}" for other in draws.shuffled(chosen)]

    return exemplars


_SHARED = {
    "ask": ask,
    "metrics": ("exact_match",),
    "mean": "micro",
    "chance": {"comments": 50.0},
    "subtasks": ("comments",),
    "max_decode_len": 4,
    "ranking": "sum",
    "continuations": lambda item: [f" {option}" for option in item.options],
}
_CHOICES = (
    Choice("prompt", "the quoted text, the question, `Answer:`", "Flan paper, C"),
    Choice("scoring", "likelihood of yes, normalised over yes and no", "Flan paper, C"),
    Choice("score", "AUC-ROC by `flan-jax eval auc`; accuracy here", "Flan paper, C"),
)
_CIVIL = {
    "benchmark": "civil_comments",
    "read": read_civil,
    "splits": ("test", "validation"),
    "licence": "CC0-1.0",
}
_WIKI = {"benchmark": "toxicity_wiki", "read": read_wiki, "licence": "Apache-2.0"}
_BALANCED = f"{SHOTS}, as many toxic as not, drawn for each item"

for _name, _own, _train, _label in (
    ("civil_comments", _CIVIL, "train", "CivilComments"),
    ("toxicity_wiki", _WIKI, "test", "Wikipedia comments"),
):
    _where = "train" if _train == "train" else "the other test comments; there is no train split"
    register_protocol(
        ProtocolDefinition(
            name=_name,
            choices=(*_CHOICES, Choice("exemplars", "none", "Flan paper, C")),
            description=f"{_label}: toxic or not, zero-shot",
            **_SHARED,
            **_own,
        )
    )
    register_protocol(
        ProtocolDefinition(
            name=f"{_name}_few_shot",
            exemplars=_exemplars_of(_own["read"], _train),
            choices=(*_CHOICES, Choice("exemplars", f"{_BALANCED} from {_where}", "Flan paper, C")),
            description=f"{_label}: toxic or not, {SHOTS}-shot",
            **_SHARED,
            **_own,
        )
    )
