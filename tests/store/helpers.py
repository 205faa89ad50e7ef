"""What the tests of stores share."""

from __future__ import annotations

import json
from pathlib import Path

MODULE_NAME = "store_test_tasks"
MODULE_TEXT = """\
from pathlib import Path

from flan_jax.sources.jsonl import JsonlSource
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.tasks import TaskDefinition, register_task

HERE = Path(__file__).parent


def to_fields(row):
    return {"question": row["q"], "answer": row["a"], "answers": (row["a"],), "about": row["about"]}


def generate(draws):
    number = draws.below(10**9)
    return {"question": f"{number} + 1", "answer": str(number + 1)}


def shout(row):
    return {**row, "question": row["question"].upper()}


def task(name, source, **attributes):
    register_task(TaskDefinition(name, "g", "c", source, HERE / "t.yaml", "MIT", **attributes))


for name in ("one", "two", "three", "absent"):
    files = {"train": f"{name}.jsonl", "validation": f"{name}.validation.jsonl"}
    task(name, JsonlSource(files), to_fields=to_fields)
task("endless", ProceduralSource("endless", generate), to_fields=shout)
"""


def write_rows(data: Path, name: str, rows: int, word: str = "is") -> None:
    """Writes the files of a task."""
    about = f"These are questions of the task {name}, which says so in every one of its rows."
    for split, count in (("", rows), (".validation", 3)):
        lines = [
            {"q": f"{name}{split} {i} {word}?", "a": f"answer {i}", "about": about}
            for i in range(count)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (data / f"{name}{split}.jsonl").write_text(text)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def shard_of(store, task: str, split: str = "train") -> Path:
    """The file that holds a split of a task."""
    number = store.manifest.tasks[task].splits[split].shard
    return Path(store.path) / store.manifest.shards[number].file


def flip(path: Path, position: int) -> None:
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
