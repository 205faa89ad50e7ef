"""Readers of the benchmarks whose files may lie in the data folder (docs/data.md)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flan_jax.overlap.benchmarks import Benchmark, Item
from flan_jax.sources import folder
from flan_jax.sources.base import SourceError, SourceMissingError
from flan_jax.sources.jsonl import read_jsonl
from flan_jax.sources.tsv import read_tsv

_CHOICES = ("\nA. ", "\nB. ", "\nC. ", "\nD. ")


def _files(pattern: str) -> list[Path]:
    """The files below the data folder that match. Raises SourceMissingError if there are none."""
    found = sorted(folder.data_folder().glob(pattern))
    if not found:
        raise SourceMissingError(
            f"no file {pattern} in the data folder {folder.data_folder()} "
            f"(set {folder.ENVIRONMENT_VARIABLE}; docs/data.md has its layout)"
        )
    return found


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    """`read(path)`, what is wrong with the file told as SourceError."""
    try:
        return read(path)
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{path} is not as expected: {type(error).__name__}: {error}") from error


def _json(path: Path) -> Any:
    return _read(path, lambda path: json.loads(path.read_text(encoding="utf-8")))


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _options(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(("option", text) for text in texts)


def mmlu() -> Iterator[Item]:
    """Questions of test, validation and dev, each with its choices."""
    for split in ("test", "dev"):
        for path in _files(f"mmlu/{split}/*_{split}.csv"):
            subject = path.stem.removesuffix(f"_{split}")
            for number, row in enumerate(_read(path, _table)):
                choices = [row.get(f"choice{i}") or "" for i in range(4)]
                yield Item(f"{split}/{subject}/{number}", row["question"], _options(choices))
    (path,) = _files("mmlu/val/zero_shot_mmlu_val.jsonl")
    for number, row in enumerate(read_jsonl(path)):
        # A whole prompt: a heading, the question, four choices.
        question = row["input"].partition("\n")[2].strip()
        texts = []
        for mark in ("\nAnswer:", *reversed(_CHOICES)):
            question, found, text = question.rpartition(mark)
            if not found:
                raise SourceError(f"{path}: row {number} has no {mark.strip()!r}")
            texts.append(text)
        yield Item(f"val/{row['subject']}/{number}", question, _options(texts[:0:-1]))


def mmlu_scaffolding() -> Iterator[str]:
    """The heading of each subject's prompt."""
    for path in _files("mmlu/test/*_test.csv"):
        subject = path.stem.removesuffix("_test").replace("_", " ")
        yield f"The following are multiple choice questions (with answers) about {subject}."


def bbh() -> Iterator[Item]:
    """Questions of all 27 files; options are part of the question."""
    for path in _files("bbh/bbh/*.json"):
        for number, row in enumerate(_json(path)["examples"]):
            yield Item(f"{path.stem}/{number}", row["input"], (("answer", row["target"]),))


def bbh_scaffolding() -> Iterator[str]:
    """The instruction above each task's exemplars."""
    for path in sorted(folder.data_folder().glob("bbh/cot-prompts/*.txt")):
        yield path.read_text(encoding="utf-8").partition("-----")[2].partition("\nQ:")[0]


def tydiqa() -> Iterator[Item]:
    """Gold-passage questions of dev, and of train as far as it is there, with their passages."""
    paths = _files("tydiqa/dev/*.json")
    for path in [*paths, *sorted(folder.data_folder().glob("tydiqa/train/*.json"))]:
        for article in _json(path)["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = dict.fromkeys(answer["text"] for answer in question["answers"])
                    others = [("context", paragraph["context"])]
                    others += [("answer", answer) for answer in answers]
                    identity = f"{path.parent.name}/{question['id']}"
                    yield Item(identity, question["question"], tuple(others))


def mgsm() -> Iterator[Item]:
    """Questions in all eleven languages."""
    for path in _files("mgsm/mgsm_*.tsv"):
        for number, row in enumerate(read_tsv(path, ("question", "answer"))):
            yield Item(f"{path.stem.removeprefix('mgsm_')}/{number}", row["question"])


def gsm8k() -> Iterator[Item]:
    """Test questions and their solutions."""
    for number, row in enumerate(read_jsonl(folder.require("gsm8k/test.jsonl"))):
        yield Item(f"test/{number}", row["question"], (("solution", row["answer"]),))


def aqua() -> Iterator[Item]:
    """Questions of dev and test, with options and rationales."""
    for split in ("dev", "test"):
        for number, row in enumerate(read_jsonl(folder.require(f"aqua/{split}.json"))):
            others = (*_options(row["options"]), ("rationale", row["rationale"]))
            yield Item(f"{split}/{number}", row["question"], others)


def strategyqa() -> Iterator[Item]:
    """Questions of dev, with their facts."""
    for row in _json(folder.require("strategyqa/dev.json")):
        facts = tuple(("fact", fact) for fact in row["facts"])
        yield Item(f"dev/{row['qid']}", row["question"], facts)


def winogender() -> Iterator[Item]:
    """All sentences."""
    for row in read_tsv(folder.require("winogender/all_sentences.tsv")):
        yield Item(row["sentid"], row["sentence"])


def toxicity_wiki() -> Iterator[Item]:
    """All comments."""
    path = folder.require("toxicity_wiki/toxicity_fuzzed_testset.csv")
    for number, row in enumerate(_read(path, _table)):
        yield Item(f"{number}/{row['rev_id']}", row["comment"])


# Sizes are those of the published sets; tydiqa's is that of dev in nine languages.
READERS = (
    Benchmark("mmlu", mmlu, 15_858, mmlu_scaffolding, description="MMLU: test, validation, dev"),
    Benchmark("bbh", bbh, 6_511, bbh_scaffolding, description="BIG-Bench Hard, 27 files"),
    Benchmark("tydiqa", tydiqa, 5_077, description="TyDiQA gold passages: dev, and train"),
    Benchmark("mgsm", mgsm, 2_750, description="MGSM in eleven languages"),
    Benchmark("gsm8k", gsm8k, 1_319, description="GSM8K test"),
    Benchmark("aqua", aqua, 508, description="AQuA dev and test"),
    Benchmark("strategyqa", strategyqa, 229, description="StrategyQA dev"),
    Benchmark("winogender", winogender, 720, description="Winogender sentences"),
    Benchmark("toxicity_wiki", toxicity_wiki, 1_492, description="Wikipedia toxicity test set"),
)
