"""`Q:` and `A:`, in which most of the protocols ask, and exemplars from Flan's own rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flan_jax.evaluation.benchmarks import BenchmarkItem
from flan_jax.mixtures.benchmarks.protocols.files import tsv_rows

TRIGGER = "Let's think step by step."
_COLUMNS = ("question", "answer", "reasoning")


def ask_direct(item: BenchmarkItem, ending: str = "") -> str:
    """The question, to be answered at once or after `ending`."""
    return f"Q: {item.question}\nA:{ending}"


def ask_cot(item: BenchmarkItem) -> str:
    """The question, to be reasoned about."""
    return ask_direct(item, f" {TRIGGER}")


class FlanCotExemplars:
    """The first rows of a file of Flan's chain-of-thought collection, the same for all items.

    Args:
      file: below the data folder, such as `flan_cot/aqua_train.tsv`.
      shots: how many rows.
    """

    def __init__(self, file: str, shots: int):
        self._file, self._shots = file, shots

    def _rows(self) -> Sequence[Mapping[str, str]]:
        return tsv_rows(self._file, _COLUMNS, ("question", "reasoning"))[: self._shots]

    def direct(self, subtask: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
        """Questions, each with its answer. Raises SourceError: the file is missing or malformed."""
        del subtask, item, seed
        return [f"Q: {row['question'].strip()}\nA: {row['answer'].strip()}" for row in self._rows()]

    def cot(self, subtask: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
        """Questions, each with reasoning and answer. Raises SourceError, as `direct`."""
        del subtask, item, seed
        return [
            f"Q: {row['question'].strip()}\nA: {TRIGGER} {row['reasoning'].strip()} "
            f"The answer is {row['answer'].strip()}."
            for row in self._rows()
        ]
