"""Rows for every task of the collection, without a download.

`stand_in_data(folder)` makes a data folder that has something for each task, in the form in which
the task's source reads it, and points the process at it:

* TFDS datasets: the rows of `rows/*.json`, in the builders' own form (tests/mixtures/
  test_stand_ins.py checks them against the builders' features). TFDS itself is not asked, but what
  our source does with its rows is done;
* all others: files of the published formats, written here. Real ones are linked instead where a
  folder of real data has them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow
import pyarrow.parquet

import flan_jax.mixtures  # noqa: F401 - announces the tasks
from flan_jax.sources import tfds
from flan_jax.sources.drrepair import FOLDER as DRREPAIR
from flan_jax.sources.taskmaster import FILES as TASKMASTER
from flan_jax.sources.tfds_folders import TFDS_VARIABLE, BuilderName
from flan_jax.tasks import TaskDefinition, all_tasks, get_task

ROWS = Path(__file__).parent / "rows"
# Instances of a made-up Natural Instructions file, programs, conversations: enough for a few
# exemplars where validation and test rows are carved out.
COUNT = 16


def builder_rows(builder: str) -> list[dict[str, Any]]:
    """The rows of a TFDS builder, by its name such as ``super_glue/rte:1.0.2``."""
    return _rows_of(BuilderName.parse(builder))


def _rows_of(name: BuilderName) -> list[dict[str, Any]]:
    exact = f"{name.name}_{name.config}" if name.config else name.name
    path = next(p for stem in (exact, name.name) if (p := ROWS / f"{stem}.json").is_file())
    return json.loads(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def stand_in_data(folder: Path, real: Path | None = None) -> Iterator[Path]:
    """Makes `folder` (if it is empty) a data folder with rows for every task, and uses it.

    Args:
      folder: where to write.
      real: a folder of real data, whose files are taken where there are any.
    """
    write_data(folder, real)
    variables = {"FLAN_JAX_DATA": str(folder), TFDS_VARIABLE: str(folder / "tensorflow_datasets")}
    with (
        mock.patch.dict(os.environ, variables),
        mock.patch.object(tfds, "_data_source", lambda name, *_: _rows_of(name)),
        mock.patch.object(tfds.TfdsSource, "check_present", _check_rows),
    ):
        yield folder


def _check_rows(source: tfds.TfdsSource) -> None:
    assert builder_rows(source.builder)


def write_data(folder: Path, real: Path | None = None) -> None:
    """Writes the files of all tasks that are not TFDS's; see `stand_in_data`."""
    if any(folder.iterdir()):
        return
    for task in all_tasks():
        if task.group in _WRITERS:
            _WRITERS[task.group](task, folder, real)
    _write_json(folder, "natural_instructions/tasks/task000_not_in_flan.json", _instructions(0))


def _linked(folder: Path, real: Path | None, file: str) -> bool:
    """Links `file` of the folder of real data into `folder`; False if it is not there."""
    if real is None or not (real / file).is_file():
        return False
    path = _place(folder, file)
    path.symlink_to(real / file)
    return True


def _place(folder: Path, file: str) -> Path:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_json(folder: Path, file: str, content: Any) -> None:
    text = json.dumps(content, ensure_ascii=False)
    _place(folder, file).write_text(text, encoding="utf-8")


def _write_parquet(folder: Path, file: str, columns: Mapping[str, Sequence[Any]]) -> None:
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), _place(folder, file))


# ------------------------------------------------------------------------------------------ words

_PEOPLE = ("Nora", "Ben", "Amina", "Carlos", "Yuki", "Ida", "Tomas", "Lena")
_PLACES = ("the harbor", "the library", "a small farm", "the train station")
_THINGS = ("a red bicycle", "three loaves of bread", "an old map", "a basket of apples")
_TIMES = ("in the morning", "after lunch", "at noon", "on Friday", "before dark")


def _story(i: int) -> str:
    """A short text; no two of the first 160 are the same."""
    who, where = _PEOPLE[i % 8], _PLACES[i // 8 % 4]
    what, when = _THINGS[(i + i // 4) % 4], _TIMES[i % 5]
    return f"{who} went to {where} {when} and came back with {what}. It took {i + 2} hours."


# ----------------------------------------------------------------------------- Natural Instructions


def _instructions(number: int) -> dict[str, Any]:
    """A task file; files with an odd number are of the earlier schema."""
    ask = (
        f"In this task, you are given a short story. Your task is to say who went somewhere in "
        f"story collection {number}."
    )
    made = [(_story(i), _PEOPLE[i % 8]) for i in range(COUNT)]
    examples = [
        {"input": text, "output": name, "explanation": f"{name} is the one who goes."}
        for text, name in ((_story(i), _PEOPLE[i % 8]) for i in (20, 21))
    ]
    wrong = [{"input": _story(22), "output": "the farm", "explanation": "A farm is a place."}]
    file = {
        "Source": ["made_up"],
        "Categories": ["Question Answering"],
        "Positive Examples": examples,
        "Negative Examples": wrong,
    }
    if number % 2:
        plain = [{"input": text, "output": name} for text, name in made]
        return {**file, "Definition": ask, "Instances": plain}
    rows = [
        {"id": f"made-{number}-{i}", "input": text, "output": [name]}
        for i, (text, name) in enumerate(made)
    ]
    return {
        **file,
        "Definition": [ask],
        "Input_language": ["English"],
        "Output_language": ["English"],
        "Instances": rows,
        "Instance License": ["CC BY 4.0"],
    }


def _write_niv2(task: TaskDefinition, folder: Path, real: Path | None) -> None:
    file = task.source.describe()
    if not _linked(folder, real, file):
        number = int("".join(c for c in task.name.split("_")[0] if c.isdigit()))
        _write_json(folder, file, _instructions(number))


# --------------------------------------------------------------------------------------------- P3


def _p3_records(task: TaskDefinition) -> list[tuple[str, str, list[str]]]:
    """Prompt, answer, answer choices of eight records, as P3 has them for a task of this kind."""
    kind, records = task.template_file.stem, []
    for i in range(8):
        choices = [_PEOPLE[(i + k) % 8] for k in (3, 0, 5, 6)]
        right = choices[1]
        if kind == "question_answer":
            question = f"Write a title for the text below.\n\n{_story(i)}"
            records.append((question, f"\n{right} comes back", []))
        elif kind == "multiple_choice":
            listed = "\n".join(f"- {choice}" for choice in choices)
            prompt = f"{_story(i)}\nWho is this about? Choose between:\n{listed}\nAnswer:"
            records.append((prompt, f" {right}", choices))
        else:
            listed = "".join(f"\n- {choice}" for choice in choices if task.source.demands.shown_as)
            records.append((f"{_story(i)}\n\nWho is this about?{listed}", right.upper(), choices))
    if task.source.demands.shown_as:  # the answer must stand there as it is
        records = [(prompt, answer.title(), choices) for prompt, answer, choices in records]
    return records


def _write_p3(task: TaskDefinition, folder: Path, real: Path | None) -> None:
    inputs, targets, choices = zip(*_p3_records(task), strict=True)
    columns = {"inputs_pretokenized": inputs, "targets_pretokenized": targets}
    if task.template_file.stem != "question_answer":
        columns["answer_choices"] = choices
    for split in task.source.splits():
        file = f"{task.source.folder}/{split}-00000-of-00001.parquet"
        if not _linked(folder, real, file):
            _write_parquet(folder, file, columns)


# --------------------------------------------------------------------------------- reasoned answers


def _write_cot(task: TaskDefinition, folder: Path, real: Path | None) -> None:
    (file,) = task.source.downloads()
    if _linked(folder, real, file.path):
        return
    listed = task.name in ("cot_ecqa", "cot_qasc", "cot_sensemaking", "stream_aqua")
    lines = []
    for i in range(COUNT):
        choices = [_PEOPLE[(i + k) % 8] for k in (3, 0, 5)]
        options = "\\nOptions:" + "".join(f"\\n- {choice}" for choice in choices) if listed else ""
        question = f"{_story(i)} Who went?{options}"
        lines.append(f"{question}\t{choices[1]}\tThe story says that {choices[1]} went.\n")
    _place(folder, file.path).write_text("".join(lines), encoding="utf-8")


def _write_gsm8k(task: TaskDefinition, folder: Path, real: Path | None) -> None:
    lines = []
    for i in range(COUNT):
        question = f"{_PEOPLE[i % 8]} has {i} apples and buys {i + 3} more. How many are there now?"
        lines.append({"question": question, "answer": f"{i}+{i + 3}={2 * i + 3}\n#### {2 * i + 3}"})
    for file in task.source.downloads():
        if not (folder / file.path).exists() and not _linked(folder, real, file.path):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            _place(folder, file.path).write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------------ conversations

_ORDER = (
    "Hi, I'd like to order a pizza.",
    "Sure. Which size?",
    "Large, please.",
    "And which topping?",
    "Mushrooms and olives.",
    "It will be ready at seven.",
    "Great, thanks!",
)


def _write_dialog(task: TaskDefinition, folder: Path, real: Path | None) -> None:
    if task.source.kind != "taskmaster":
        return
    for number, file in enumerate(TASKMASTER):
        conversations = []
        for i in range(COUNT):
            turns = [f"Order {number}-{i}.", *_ORDER[: 2 + i % 6]]
            spoken = [
                {"index": k, "speaker": ("USER", "ASSISTANT")[k % 2], "text": text}
                for k, text in enumerate(turns)
            ]
            conversations.append({"conversation_id": f"dlg-{number}-{i}", "utterances": spoken})
        _write_json(folder, f"taskmaster/{file}", conversations)


# ----------------------------------------------------------------------------------------- programs


def _program(i: int) -> dict[str, Any]:
    lines = (
        ("int main() {", 0), ("int n , s = 0 ;", 1), ("cin >> n ;", 1),
        ("for ( int i = 0 ; i < n ; i ++ )", 1), (f"s += i * {i + 2} ;", 2),
        ("cout << s << endl ;", 1), ("}", 0),
    )  # fmt: skip
    undeclared = "‘n’ was not declared in this scope"
    return {
        "meta": {"index": i, "probid": f"{i}A", "subid": str(i)},
        "lines": [
            {"line": n, "text": "DUMMY", "code": code, "indent": indent}
            for n, (code, indent) in enumerate(lines)
        ],
        "errors": [
            {"mod_line": [1], "mod_code": ["int s = 0 ;"], "err_line": 2, "err_msg": undeclared},
            {
                "mod_line": [4],
                "mod_code": [f"s += i * {i + 2}"],
                "err_line": 5,
                "err_msg": "expected ‘;’ before ‘cout’",
            },
        ],
    }


def _write_drrepair(folder: Path) -> None:
    for i in range(COUNT):
        place = f"s{i % 5 + 1}"
        _write_json(folder, f"{DRREPAIR}/{place}/{i:04}-{i}A-{i}.json", _program(i))


def _contest(i: int) -> dict[str, Any]:
    text = (
        f"{_PEOPLE[i % 8]} buys a boxes of pens and b loose pens. A box holds {i + 5} pens. How "
        "many pens are there?\n\nInput\n\n2 3\n\nOutput\n\n" + f"{2 * (i + 5) + 3}\n"
    )
    code = f"a, b = map(int, input().split())\nprint(a * {i + 5} + b)\n"
    solved = {"language": [3, 2], "solution": [code, "int main(){}"]}
    return {"description": text, "solutions": solved}


def _write_programs(task: TaskDefinition, folder: Path, real: Path | None) -> None:
    if task.name != "dmcc_python":
        if not (folder / DRREPAIR).exists():
            _write_drrepair(folder)
        return
    rows = [_contest(i) for i in range(8)]
    for file in task.source.downloads():
        _write_parquet(folder, file.path, {key: [row[key] for row in rows] for key in rows[0]})


_WRITERS: dict[str, Callable[[TaskDefinition, Path, Path | None], None]] = {
    "niv2": _write_niv2,
    "t0_sf": _write_p3,
    "cot": _write_cot,
    "gsm8k": _write_gsm8k,
    "dialog": _write_dialog,
    "program_synthesis": _write_programs,
}


@functools.cache
def tfds_tasks() -> tuple[TaskDefinition, ...]:
    """The tasks whose rows come from TFDS."""
    return tuple(task for task in all_tasks() if isinstance(task.source, tfds.TfdsSource))


__all__ = ["ROWS", "builder_rows", "get_task", "stand_in_data", "tfds_tasks", "write_data"]
