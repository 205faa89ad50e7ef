"""Flan's dialog tasks."""

from __future__ import annotations

import json

import pytest

from flan_jax.draws import Draws
from flan_jax.mixtures.dialog.tasks import (
    CAP,
    MAX_HISTORY,
    conversation,
    cut_anywhere,
    cut_before_answer,
    keep_qrecc,
    qrecc_fields,
    wiki_dialog_fields,
)
from flan_jax.prompts.render import render
from flan_jax.prompts.template import fields_of, load_templates
from flan_jax.sources.base import Source, SourceError, SourceMissingError
from flan_jax.sources.downloads import Download
from flan_jax.sources.taskmaster import FILES, TaskmasterSource, read_conversations
from flan_jax.tasks import all_tasks, get_task

NAMES = ("qrecc", "task_master", "wiki_dialog")
# Rows as the TFDS builders give them.
WIKI = {
    "author_num": [0, 1, 0, 1, 0],
    "passage": "Emma is a novel by Jane Austen. It was published in 1815.",
    "pid": "x",
    "sentences": ["Emma is a novel by Jane Austen.", "It was published in 1815."],
    "title": "Emma (novel)",
    "utterances": [
        "Hello, I am an automated assistant and can answer questions about Emma (novel)",
        "What is Emma?",
        "Emma is a novel\nby Jane Austen.",
        "When was it published?",
        "It was published in 1815.",
    ],
}
QRECC = {
    "context": ["Who is she?", "A singer. ", "Where from?", "", "How old?", "She is 40."],
    "question": "Did she win prizes?",
    "question_rewrite": "Did the singer win prizes?",
    "answer": "Two.",
    "answer_url": "",
    "conversation_id": 1,
    "turn_id": 7,
    "source": "quac",
}


def said(speaker: str, text: str, index: int = 0) -> dict:
    return {"index": index, "speaker": speaker, "text": text}


ORDER = {
    "conversation_id": "dlg-1",
    "instruction_id": "pizza-1",
    "utterances": [
        said("USER", "Hi, I would like"),
        said("USER", " a  pizza."),
        said("ASSISTANT", "Which size?"),
        said("USER", "\n"),
        said("ASSISTANT", "And which topping?"),
        said("USER", "Large, with mushrooms."),
    ],
}
CALL = {
    "conversation_id": "dlg-2",
    "instruction_id": "flight-3",
    "utterances": [said("ASSISTANT", "Hello, how can I help?"), said("USER", "A flight to Rome.")],
}


@pytest.fixture
def taskmaster(tmp_path, monkeypatch):
    """A data folder with Taskmaster's files, of 40 conversations each."""
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    for number, file in enumerate(FILES):
        path = tmp_path / "taskmaster" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        content = [
            {
                "conversation_id": f"dlg-{number}-{i}",
                "utterances": [
                    said("USER" if (i + j) % 2 else "ASSISTANT", f"words {number} {i} {j}")
                    for j in range(2 + i % 30)
                ],
            }
            for i in range(40)
        ]
        path.write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def test_the_three_tasks():
    tasks = [task for task in all_tasks() if task.group == "dialog"]
    assert tuple(task.name for task in tasks) == NAMES
    for task in tasks:
        assert isinstance(task.source, Source)
        assert task.styles == ("direct", "inverted")
        assert task.variants() == ("zs_noopt", "zs_inverted", "fs_noopt", "fs_inverted")
        assert task.cap == CAP == 200_000
    assert [task.num_train for task in tasks] == [10_170, 28_979, 11_264_000]
    assert [t.name for t in tasks if "not_in_public_flan" in t.tags] == ["task_master"]


@pytest.mark.parametrize("name", NAMES)
def test_templates(name):
    file = get_task(name).template_file
    for section in ("templates", "few_shot"):
        templates = load_templates(file, section)
        assert len(templates) >= 10
        assert len({(t.inputs, t.layout) for t in templates}) == len(templates)
        assert all(t.targets == "{{ answer }}" for t in templates)
        assert all(fields_of(t.inputs) == {"dialog"} for t in templates)
    for section in ("inverted", "inverted_few_shot"):
        templates = load_templates(file, section)
        assert len(templates) >= 10
        assert len({(t.inputs, t.layout) for t in templates}) == len(templates)
        assert all(t.targets == "{{ history }}" for t in templates)
        assert all("answer" in fields_of(t.inputs) for t in templates)
        assert not any({"history", "dialog"} & fields_of(t.inputs) for t in templates)


def test_wiki_dialog_leaves_the_greeting_out_and_asks_for_answers():
    fields = wiki_dialog_fields(WIKI)
    assert fields["turns"][0] == "What is Emma?" and fields["first"] == 0
    seen = set()
    for seed in range(40):
        cut = cut_before_answer(fields, Draws(seed))
        seen.add(cut["answer"])
        assert cut["speaker"] == "B"
        if cut["count"] == 1:
            assert cut["history"] == "A: What is Emma?"
        else:
            assert cut["history"].endswith(
                "B: Emma is a novel by Jane Austen.\nA: When was it published?"
            )
        assert cut["dialog"].count("What is Emma?") == 1
        assert cut["answer"] not in cut["dialog"]
    assert seen == {"Emma is a novel by Jane Austen.", "It was published in 1815."}


def test_wiki_dialog_of_one_turn_has_the_greeting_as_its_history():
    fields = wiki_dialog_fields({**WIKI, "utterances": WIKI["utterances"][:2]})
    cut = cut_before_answer(fields, Draws(0))
    assert cut["answer"] == "What is Emma?"
    assert cut["history"].startswith("A: Hello, I am an automated assistant")


def test_qrecc_leaves_out_what_was_not_answered():
    fields = qrecc_fields(QRECC)
    assert fields["turns"] == ("Who is she?", "A singer.", "How old?", "She is 40.")
    assert keep_qrecc(QRECC)
    assert not keep_qrecc({**QRECC, "turn_id": 6})
    assert not keep_qrecc({**QRECC, "context": ["Who is she?", " "]})
    assert not keep_qrecc({**QRECC, "context": []})


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("length", [2, 3, 9, 60])
def test_cuts(first, length):
    turns = [f"turn {i}." for i in range(length)]
    fields = conversation(turns, first=first)
    answers = {"anywhere": set(), "before_answer": set()}
    for seed in range(600):
        for name, cut in (("anywhere", cut_anywhere), ("before_answer", cut_before_answer)):
            found = cut(fields, Draws(seed))
            assert found == cut(fields, Draws(seed))
            point = turns.index(found["answer"])
            answers[name].add(point)
            begin = point - found["count"]
            assert begin % 2 == 0 and 0 <= begin < point
            assert begin == 0 or found["count"] >= MAX_HISTORY - 1
            shown = [line[3:] for line in found["history"].split("\n")]
            assert shown == turns[begin:point]
            assert [line[0] for line in found["history"].split("\n")] == [
                "AB"[i % 2] for i in range(len(shown))
            ]
            assert found["speaker"] == "AB"[point % 2]
            assert all(turn in found["dialog"] for turn in shown)
    assert answers["anywhere"] == set(range(1, length))
    replies = {point for point in range(1, length) if (point + first) % 2 == 1}
    assert answers["before_answer"] == (replies or {1})


def test_a_conversation_needs_two_turns():
    with pytest.raises(SourceError, match="at least two turns"):
        conversation(["Hello?"])


def test_taskmaster_joins_what_one_speaker_says(tmp_path):
    path = tmp_path / "self-dialogs.json"
    alone = {"utterances": [said("USER", "Hello?")]}
    path.write_text(json.dumps([ORDER, CALL, alone]), encoding="utf-8")
    order, call = read_conversations(path)
    assert order["turns"] == (
        "Hi, I would like a pizza.",
        "Which size? And which topping?",
        "Large, with mushrooms.",
    )
    assert order["speakers"] == ("USER", "ASSISTANT", "USER")
    assert (order["id"], call["id"]) == ("dlg-1", "dlg-2")
    assert get_task("task_master").to_fields(order)["first"] == 0
    assert get_task("task_master").to_fields(call)["first"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not a JSON file"),
        ("{}", "expected a list of conversations, found dict"),
        ('[{"text": "x"}]', "conversation 0: expected an object with a list `utterances`"),
        ('[{"utterances": [{"speaker": "USER"}]}]', "utterance 0 has no text"),
        ('[{"utterances": [{"text": "x", "speaker": "BOSS"}]}]', "found 'BOSS'"),
    ],
)
def test_malformed_files(tmp_path, content, message):
    path = tmp_path / "music.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SourceError, match=message):
        read_conversations(path)


def test_taskmaster_source(taskmaster):
    source = TaskmasterSource()
    source.check_present()
    sizes = {split: source.num_examples(split) for split in source.splits()}
    assert sum(sizes.values()) == 40 * len(FILES)
    assert 0 < sizes["validation"] < 0.15 * sizes["train"]
    rows = [source.row(split, i) for split, size in sizes.items() for i in range(size)]
    assert len({row["id"] for row in rows}) == 40 * len(FILES)
    with pytest.raises(IndexError):
        source.row("train", sizes["train"])
    with pytest.raises(SourceError, match="no split 'test'"):
        source.row("test", 0)
    (taskmaster / "taskmaster" / FILES[3]).unlink()
    with pytest.raises(SourceMissingError, match="food-ordering"):
        source.check_present()
    downloads = source.downloads()
    assert all(isinstance(download, Download) for download in downloads)
    assert [download.path for download in downloads] == [f"taskmaster/{file}" for file in FILES]


def test_task_master_renders(taskmaster):
    task = get_task("task_master")
    seen = set()
    for variant in task.variants():
        for index in range(60):
            example = render(task, "train", index, seed=1, variant=variant)
            again = render(task, "train", index, seed=1, variant=variant)
            assert example == again
            later = render(task, "train", index, seed=1, epoch=1, variant=variant)
            turns = task.source.row("train", index)["turns"]
            if variant.endswith("inverted"):
                assert example.targets.startswith(f"A: {turns[0]}") or len(turns) > MAX_HISTORY
                assert not [turn for turn in turns if f": {turn}\n" in example.inputs + "\n"
                            and f": {turn}\n" in example.targets + "\n"]  # fmt: skip
            else:
                assert example.targets in turns[1:]
                assert example.targets not in example.inputs.split("\n")
                seen.add(later.targets == example.targets)
    assert seen == {True, False}  # another epoch cuts elsewhere, mostly
