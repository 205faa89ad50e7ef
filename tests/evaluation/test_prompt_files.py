"""Reading prompts, and answers that survive interruptions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flan_jax.evaluation.prompt_files import (
    AnswerFile,
    Prompt,
    PromptFileError,
    prompts_digest,
    read_prompts,
)

SETTINGS = {"checkpoint": "run-6", "prompts": "abc", "decoding": {"temperature": 0.0}}


def write(tmp_path: Path, name: str, *lines: object) -> Path:
    path = tmp_path / name
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_lines_of_text_are_prompts(tmp_path: Path):
    path = write(tmp_path, "prompts.txt", "Why?", "", '{"prompt": 1}', "Wie geht’s?")
    texts = [prompt.text for prompt in read_prompts(path)]
    assert texts == ["Why?", '{"prompt": 1}', "Wie geht’s?"]
    assert [prompt.number for prompt in read_prompts(path)] == [0, 1, 2]


def test_json_lines_have_their_prompt_in_any_usual_field(tmp_path: Path):
    path = write(
        tmp_path,
        "prompts.jsonl",
        json.dumps({"prompt": "two\nlines\u2028three", "id": 7}, ensure_ascii=False),
        json.dumps("a text"),
        {"inputs": "plain", "targets": ["yes", "no"]},
        {"inputs": {"inputs_pretokenized": "T5X's", "targets_pretokenized": "x"}, "prediction": 1},
        {"input": {"inputs_pretokenized": "evaluation's"}, "target": "gold"},
    )
    assert read_prompts(path) == [
        Prompt(0, "two\nlines\u2028three", "7"),
        Prompt(1, "a text"),
        Prompt(2, "plain", None, ("yes", "no")),
        Prompt(3, "T5X's", None, ("x",)),
        Prompt(4, "evaluation's", None, ("gold",)),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{no json"], "line 1: is no JSON"),
        ([{"prompt": "a"}, {"promt": "b"}], "line 2: has no prompt.*did you mean 'prompt'"),
        ([[1]], "line 1: expected a text or an object, found list"),
        ([{"prompt": "a", "targets": [1]}], "line 1: targets must be a text"),
        ([{"prompt": "a", "targets": 3}], "line 1: "),
        ([""], "holds no prompt"),
    ],
)
def test_mistakes_name_the_line(tmp_path: Path, lines: list, message: str):
    path = write(tmp_path, "prompts.jsonl", *lines)
    with pytest.raises(PromptFileError, match=message):
        read_prompts(path)


def test_missing_and_unreadable_files(tmp_path: Path):
    with pytest.raises(PromptFileError, match="does not exist"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(PromptFileError, match="cannot be read"):
        read_prompts(tmp_path / "latin.txt")


def test_the_digest_knows_texts_targets_and_order():
    prompts = [Prompt(0, "a"), Prompt(1, "b", None, ("c",))]
    others = [prompts[::-1], [Prompt(0, "a"), Prompt(1, "b")], [Prompt(0, "ab", None, ("c",))]]
    assert len({prompts_digest(each) for each in [prompts, *others]}) == 4
    assert prompts_digest([Prompt(0, "a", "name")]) == prompts_digest([Prompt(0, "a")])


def rows(*numbers: int) -> list[dict]:
    return [{"number": number, "prediction": f"answer {number} ä"} for number in numbers]


def test_answers_come_out_in_order_and_only_when_whole(tmp_path: Path):
    out = tmp_path / "new" / "answers.jsonl"
    answers = AnswerFile(out, SETTINGS)
    answers.append(rows(2, 0))
    assert not out.exists()
    answers.append(rows(1))
    answers.finish()
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows(0, 1, 2)
    assert not answers.partial.exists()
    assert AnswerFile(out, SETTINGS).complete


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lost=st.integers(0, 200), split=st.integers(1, 5))
def test_a_torn_file_goes_on_with_what_is_whole(tmp_path: Path, lost: int, split: int):
    out = tmp_path / "answers.jsonl"
    first = AnswerFile(out, SETTINGS, overwrite=True)
    first.append(rows(*range(split)))
    first.close()
    data = first.partial.read_bytes()
    first.partial.write_bytes(data[: max(0, len(data) - lost)])
    second = AnswerFile(out, SETTINGS)
    assert list(second.rows) == list(range(len(second.rows)))
    assert len(second.rows) >= split - 1 - lost // 40
    second.append(rows(*(number for number in range(6) if number not in second.rows)))
    second.finish()
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows(*range(6))


def test_answers_of_other_settings_are_not_mixed(tmp_path: Path):
    out = tmp_path / "answers.jsonl"
    answers = AnswerFile(out, SETTINGS)
    answers.append(rows(0))
    other = {**SETTINGS, "decoding": {"temperature": 0.7}}
    for finish in (answers.close, answers.finish):
        finish()
        with pytest.raises(PromptFileError, match=r"decoding: \{'temperature': 0.0\} there"):
            AnswerFile(out, other)
    assert AnswerFile(out, other, overwrite=True).rows == {}
    assert not out.exists()


def test_somebody_elses_file_is_left_alone(tmp_path: Path):
    out = write(tmp_path, "answers.jsonl", {"mine": 1})
    with pytest.raises(PromptFileError, match="was not made by this command"):
        AnswerFile(out, SETTINGS)
    assert json.loads(out.read_text()) == {"mine": 1}


def test_a_damaged_file_is_named(tmp_path: Path):
    out = tmp_path / "answers.jsonl"
    answers = AnswerFile(out, SETTINGS)
    answers.append(rows(0, 1))
    answers.close()
    lines = answers.partial.read_text().splitlines()
    answers.partial.write_text("\n".join([lines[0], "?", lines[2]]) + "\n")
    with pytest.raises(PromptFileError, match="line 2: not an answer"):
        AnswerFile(out, SETTINGS)
