"""Renews catalogue.csv, the list of all tasks and mixtures and of the modules that define them.

python -m flan_jax.mixtures.catalogue
"""

from __future__ import annotations

import csv
import functools
import importlib
import io
from pathlib import Path

from flan_jax.files import write_atomically
from flan_jax.mixing import registered_mixtures, withdraw_announced_mixtures
from flan_jax.tasks import registered_tasks, withdraw_deferred_tasks

FILE = Path(__file__).parent / "catalogue.csv"
# Each registers its tasks and mixtures when imported.
MODULES = (
    "micro",
    "gsm8k",
    "cot",
    "flan2021.closed_book_qa",
    "flan2021.reading_comprehension",
    "flan2021.conversational_qa",
    "flan2021.entailment",
    "flan2021.paraphrase",
    "flan2021.linguistics",
    "flan2021.sentiment",
    "flan2021.classification",
    "flan2021.coreference",
    "flan2021.commonsense",
    "flan2021.summarization",
    "flan2021.structure_to_text",
    "flan2021.translation",
    "flan2021.text_formatting",
    "t0_sf",
    "niv2",
    "dialog",
    "program_synthesis",
    "real",
    "flan2022",
)


def lines() -> list[tuple[str, str, str]]:
    """(kind, name, module) of every task, alias and mixture, in the order of MODULES.

    To be called before any of the modules is imported: a name belongs to the first that brings it.
    """
    withdraw_deferred_tasks()  # what the old list says may be wrong
    withdraw_announced_mixtures()
    tasks: dict[str, str] = {}
    mixtures: dict[str, str] = {}
    for module in MODULES:
        importlib.import_module(f"flan_jax.mixtures.{module}")
        for task in registered_tasks():
            for name in (task.name, *task.aliases):
                tasks.setdefault(name, module)
        for name in registered_mixtures():
            mixtures.setdefault(name, module)
    return [
        *(("task", name, module) for name, module in tasks.items()),
        *(("mixture", name, module) for name, module in sorted(mixtures.items())),
    ]


@functools.cache
def text() -> str:
    """What catalogue.csv should hold."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("kind", "name", "module"))
    writer.writerows(lines())
    return buffer.getvalue()


if __name__ == "__main__":
    write_atomically(FILE, text())
    print(f"{FILE}: {text().count(chr(10)) - 1:,} names")
