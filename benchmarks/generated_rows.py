"""Rows for every task of a mixture, made up, and a store built of them.

Each task keeps its fields: they are those of a few hand-written rows that went through the task's
own conversion. Their texts are made longer by passages of the collection's own templates, to
lengths drawn from the distribution that `benchmarks/packing.py` packs, so that prompts are about as
long as the real ones and cost about as much to tokenise. The store has the definitions' hashes of
the real tasks: who reads it does so with the real definitions, and notices nothing.

Rows come from the test suite's stand-ins: run from a checkout of the repository.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
MIXTURE = "flan2022"
# Read by `install` in whichever process builds: a file of row counts and the folder of bases.
VARIABLE = "FLAN_JAX_BENCHMARK_ROWS"
MEDIANS, SIGMAS, LONGEST = (150, 8), (1.0, 1.4), (2048, 512)
# Of T5's vocabulary on this text, and tokens that a template adds to a row's own.
CHARACTERS_A_TOKEN, TEMPLATE_TOKENS = 4.2, 25
# Fields that stay as they are: answers and lists of them, and what is the same in every row.
ANSWERS = ("answer", "answers", "options", "choices", "definition", "id", "reasoning")
# Not in the prompt, or in few-shot ones alone.
NOT_SHOWN = ("answer", "answers", "reasoning", "id", "positive_examples", "negative_examples")

Row = Mapping[str, Any]


@functools.cache
def passages() -> str:
    """The words of all template files, markup left out, as one long text."""
    found = []
    for path in sorted((ROOT / "mixtures").rglob("*.yaml")):
        text = re.sub(r"\{[{%].*?[}%]\}|^[\s-]*\w+:|\\n|#.*$", " ", path.read_text(), flags=re.M)
        found.append(re.sub(r"[^\w.,;:?!'()]+", " ", text))
    return " ".join(found)


def _passage(tokens: float, place: float) -> str:
    """Words of about so many tokens, from a place between 0 and 1 of `passages`."""
    length = int(tokens * CHARACTERS_A_TOKEN)
    if length <= 0:
        return ""
    text = passages()
    start = text.index(" ", int(place * (len(text) - length - 100)))
    return text[start : text.index(" ", start + length)]


def _texts(value: Any) -> int:
    """Characters of all texts in a field."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_texts, value.values()))
    return sum(map(_texts, value)) if isinstance(value, list | tuple) else 0


def _longest_text(fields: Row) -> tuple[str, int | None] | None:
    """The field whose text may grow, and the position in it if it is a list."""
    found = []
    for name, value in fields.items():
        if name in ANSWERS:
            continue
        if isinstance(value, str):
            found.append((len(value), name, None))
        elif isinstance(value, list | tuple) and value and isinstance(value[0], str):
            found.append((len(value[0]), name, 0))
    return max(found, key=lambda each: each[0])[1:] if found else None


def _grown(fields: Row, random: np.random.Generator) -> dict[str, Any]:
    """A row like `fields` whose texts are made longer, to lengths that are drawn."""
    drawn = np.exp(np.log(MEDIANS) + SIGMAS * random.standard_normal(2))
    inputs, targets = np.minimum(drawn, LONGEST)
    places = random.random(2)
    row = dict(fields)
    given = sum(_texts(v) for name, v in fields.items() if name not in NOT_SHOWN)
    place = _longest_text(fields)
    if place is not None:
        name, item = place
        more = _passage(inputs - TEMPLATE_TOKENS - given / CHARACTERS_A_TOKEN, places[0])
        if item is None:
            row[name] = fields[name] + more
        else:
            row[name] = type(fields[name])((fields[name][0] + more, *fields[name][1:]))
    target = "reasoning" if "reasoning" in fields else "answer"
    if isinstance(fields.get(target), str) and (target != "answer" or not fields.get("options")):
        more = _passage(targets - 1 - len(fields[target]) / CHARACTERS_A_TOKEN, places[1])
        row[target] = fields[target] + more
        if target == "answer" and fields.get("answers"):
            row["answers"] = (row["answer"], *fields["answers"][1:])
    return row


@dataclasses.dataclass(frozen=True)
class GeneratedSource:
    """Rows of one task; a flan_jax source.

    Attributes:
      name: the task's name.
      sizes: rows by split.
      bases: the file with the rows that all are made from.
    """

    name: str
    sizes: tuple[tuple[str, int], ...]
    bases: str

    kind = "generated"

    def describe(self) -> str:
        return f"{self.name}, generated"

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split, _ in self.sizes)

    def num_examples(self, split: str) -> int:
        return dict(self.sizes)[split]

    def row(self, split: str, index: int) -> Row:
        seed = [int.from_bytes(f"{self.name}/{split}".encode(), "little"), index]
        bases = _bases(self.bases)[self.name]
        return _grown(bases[index % len(bases)], np.random.default_rng(seed))

    def check_present(self) -> None:
        pass

    def downloads(self) -> tuple[()]:
        return ()


@functools.lru_cache(maxsize=1)
def _bases(path: str) -> dict[str, list[Row]]:
    from flan_jax.store import rows

    found = json.loads(Path(path).read_text(encoding="utf-8"))
    return {n: [rows.decode(bytes.fromhex(b), {}) for b in bases] for n, bases in found.items()}


def _write_bases(path: Path, folder: Path, most: int = 8) -> None:
    """Writes the fields of the stand-ins' first rows, for each task."""
    from flan_jax.mixing import get_mixture
    from flan_jax.store import rows
    from tests.mixtures.stand_ins import stand_in_data

    encoder, found = rows.RowEncoder({}), {}
    with stand_in_data(folder):
        for task in get_mixture(MIXTURE).tasks():
            raw = [
                task.source.row("train", index)
                for index in range(min(most, task.source.num_examples("train") or most))
            ]
            fields = [task.to_fields(row) if task.to_fields else row for row in raw]
            found[task.name] = [encoder.encode(row).hex() for row in fields]
    path.write_text(json.dumps(found), encoding="utf-8")


def install() -> dict[str, Any]:
    """Has the registered tasks read generated rows; returns the real definitions, by name."""
    import flan_jax.mixtures  # noqa: F401
    from flan_jax import tasks
    from flan_jax.mixing import get_mixture

    told = json.loads(os.environ[VARIABLE])
    real = {task.name: task for task in get_mixture(MIXTURE).tasks()}
    for name, task in real.items():
        splits = [s for s in task.source.splits() if s in told["sizes"]]
        source = GeneratedSource(name, tuple((s, told["sizes"][s]) for s in splits), told["bases"])
        tasks._TASKS[name] = dataclasses.replace(task, source=source, to_fields=None)
    return real


def build(out: Path, train: int, validation: int, jobs: int = 1) -> None:
    """Builds the store of `MIXTURE` with so many rows a task."""
    import flan_jax.mixtures  # noqa: F401
    from flan_jax.mixing import get_mixture
    from flan_jax.store import build as building
    from flan_jax.store.definition import rows_hash

    bases = out.with_name(f"{out.name}_bases.json")
    with tempfile.TemporaryDirectory() as folder:
        _write_bases(bases, Path(folder))
    sizes = {"train": train, "validation": validation}
    os.environ[VARIABLE] = json.dumps({"sizes": sizes, "bases": str(bases)})
    real = install()
    # The manifest says of which definitions the rows are: the real ones, as readers will have them.
    with mock.patch.object(building, "rows_hash", lambda task: rows_hash(real[task.name])):
        report = building.build_store(
            get_mixture(MIXTURE), out, jobs=jobs, modules=["benchmarks.generated_rows_installed"]
        )
    if report.failed:
        raise SystemExit(f"the store was not built: {report.failed[0]}")


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=400, help="training rows a task")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    build(args.out, args.rows, max(1, args.rows // 8), args.jobs)
