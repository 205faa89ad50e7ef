"""Flan's chain-of-thought tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from flan_jax.evaluation.extraction import extract_phrase
from flan_jax.mixing import get_mixture
from flan_jax.mixtures.cot.tasks import CAP, TEMPLATES, SoundRows, contradiction, to_fields
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.prompts.render import render
from flan_jax.prompts.template import fields_of, load_templates
from flan_jax.sources.base import SourceMissingError
from flan_jax.sources.tsv import read_tsv
from flan_jax.tasks import all_tasks, get_task

# Rows of each file; the two that are not in the test data are None.
ROWS = {
    "cot_creak": 6915,
    "cot_ecqa": 7112,
    "cot_esnli": None,
    "cot_gsm8k": 7473,
    "cot_qasc": 1084,
    "cot_sensemaking": 6070,
    "cot_strategyqa": 2061,
    "stream_aqua": 2728,
    "stream_qed": None,
}
PRESENT = [name for name, rows in ROWS.items() if rows]
# Rows that contradict themselves.
LEFT_OUT = {"cot_gsm8k": 9, "stream_aqua": 32}
COLUMNS = ("question", "answer", "reasoning")


@pytest.fixture
def data(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLAN_JAX_DATA", str(test_data))
    return test_data


def row(**changes: str) -> dict[str, str]:
    return {"question": "q", "answer": "a", "reasoning": "r.", **changes}


def fields_of_row(**changes: str):
    return to_fields(row(**changes))


def test_all_nine_are_registered_under_flans_names():
    tasks = [task for task in all_tasks() if task.group == "cot"]
    assert [task.name for task in tasks] == sorted(ROWS)
    files = {path.stem for path in TEMPLATES.glob("*.yaml")}
    assert files == {*ROWS, "inverted"}
    for task in tasks:
        assert task.styles == ("cot", "inverted")
        assert task.variants() == ("zs_cot", "zs_inverted", "fs_cot", "fs_inverted")
        assert task.cap == CAP == 100_000
        assert task.homepage.startswith("https://")
    assert sum(task.num_train or 0 for task in tasks) == 74_771
    for name in PRESENT:
        assert get_task(name).num_train == ROWS[name]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("section", ["cot", "cot_few_shot"])
def test_templates_reason_first_and_end_in_the_answer(name, section):
    templates = load_templates(TEMPLATES / f"{name}.yaml", section)
    assert len(templates) >= (15 if section == "cot" and name.startswith("stream") else 10)
    shapes = {(template.inputs, template.layout) for template in templates}
    assert len(shapes) == len(templates)
    assert len({template.targets for template in templates}) >= 9
    for template in templates:
        assert template.fields == {"question", "answer", "reasoning"}
        assert fields_of(template.inputs) == {"question"}
        assert template.targets.endswith("answer is {{ answer }}.")
        assert template.targets.count("{{ reasoning }}") == 1


def test_inverted_templates_are_shared_and_of_four_kinds():
    def kinds(section: str) -> dict[tuple[frozenset, frozenset], int]:
        counts: dict[tuple[frozenset, frozenset], int] = {}
        for template in load_templates(TEMPLATES / "cot_qasc.yaml", section):
            kind = fields_of(template.inputs), fields_of(template.targets)
            counts[kind] = counts.get(kind, 0) + 1
        return counts

    question, answer, reasoning = (frozenset({name}) for name in COLUMNS)
    assert kinds("inverted") == {
        (question | answer, reasoning): 5,
        (reasoning, question | answer): 6,
        (answer, question | reasoning): 4,
        (reasoning | answer, question): 3,
    }
    few_shot = kinds("inverted_few_shot")
    assert set(few_shot) == set(kinds("inverted")) and sum(few_shot.values()) >= 10
    for section in ("inverted", "inverted_few_shot"):
        shared = load_templates(TEMPLATES / "inverted.yaml", section)
        for name in ROWS:
            assert load_templates(TEMPLATES / f"{name}.yaml", section) == shared
        for template in shared:
            if len(fields_of(template.targets)) > 1:  # two parts: where does the second begin?
                second = template.targets.split("}}")[1].split("{{")[0].strip()
                assert second.endswith(":")


def test_reasoning_ends_like_a_sentence_and_nothing_else_changes():
    assert fields_of_row(reasoning=" 2+2 = 4mph ")["reasoning"] == "2+2 = 4mph."
    assert fields_of_row(reasoning="So it is!")["reasoning"] == "So it is!"
    assert fields_of_row(question="Which?\nOptions:\n- a\n", answer="(A)") == {
        "question": "Which?\nOptions:\n- a",
        "answer": "(A)",
        "reasoning": "r.",
    }


@pytest.mark.parametrize(
    ("answer", "reasoning", "numbers", "sound"),
    [
        ("(B)", "Answer A) 9600 yards need 1200 lbs", False, False),
        ("(C)", "Answer = C) One", False, True),
        ("(D)", "The answer is D.", False, True),
        ("(C)", "Answer choice elimination shows it.", False, True),
        ("(C)", "Let A be the first. The answer (A) cannot be.", False, True),
        ("", "So it is.", False, False),
        ("yes", " ", False, False),
        ("106", "They spend $70 + $38 = $108 in all.", True, False),
        ("106", "They spend $70 + $38 = $108 in all.", False, True),
        ("49", "Her TV cost 3.5 * $0.14 = $0.49 a week.", True, True),
        ("3400", "17 000 / 5 = 3 400.", True, True),
        ("5,600", "2 * 2800 = 5600", True, True),
        ("20", "First 4 20s, then none.", True, True),
    ],
)
def test_rows_that_contradict_themselves(answer, reasoning, numbers, sound):
    found = contradiction(row(answer=answer, reasoning=reasoning), numbers=numbers)
    assert (found == "") is sound


def test_rows_that_contradict_themselves_are_in_no_split():
    rows = [row(question=f"q{i}", answer=str(i), reasoning=f"It is {i}.") for i in range(50)]
    rows[7]["reasoning"] = "It is 8."
    split = SoundRows("question", numbers=True).divide(rows)
    assert sum(len(part) for part in split.values()) == 49
    assert not [r for part in split.values() for r in part if r["question"] == "q7"]


def test_own_file_renders(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    (tmp_path / "flan_cot").mkdir()
    (tmp_path / "flan_cot" / "qed_train.tsv").write_text(
        "".join(
            f'"Passage {i}"\\nWho?\tAda {i}\tThe answer is not Bob.\\nAda {i}\n' for i in range(9)
        ),
        encoding="utf-8",
    )
    task = get_task("stream_qed")
    example = render(task, "train", 0, seed=0, variant="zs_cot")
    assert '"Passage' in example.inputs and "\nWho?" in example.inputs
    assert extract_phrase(example.targets) == (example.answer, True)


def test_missing_files_are_explained(data):
    with pytest.raises(SourceMissingError, match=r"flan_cot/esnli_train\.tsv is not in the data"):
        get_task("cot_esnli").source.num_examples("train")


@pytest.mark.parametrize("name", PRESENT)
def test_every_real_row(data, name):
    task = get_task(name)
    sizes = {split: task.source.num_examples(split) for split in task.source.splits()}
    assert sum(sizes.values()) == ROWS[name] - LEFT_OUT.get(name, 0)
    assert 0.03 < sizes["validation"] / ROWS[name] < 0.07
    lists_choices = name in ("cot_ecqa", "cot_qasc", "cot_sensemaking", "stream_aqua")
    for split, size in sizes.items():
        for index in range(size):
            fields = task.fields(split, index)
            assert all(fields[key].strip() for key in COLUMNS)
            assert "\\n" not in fields["question"]
            # Templates of these tasks speak of the choices.
            assert not lists_choices or "\nOptions:\n" in fields["question"]


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_which_real_rows_are_left_out(data, name):
    task = get_task(name)
    (file,) = task.source.paths()
    rows = read_tsv(file, COLUMNS, ("question", "reasoning"))
    numbers = task.source.carve.numbers
    found = [contradiction(r, numbers=numbers) for r in rows]
    assert sum(bool(text) for text in found) == LEFT_OUT[name]
    assert {text for text in found if text} <= {
        *(f"the reasoning does not arrive at {n}" for n in (14, 33, 66, 106, 110, 140, 280)),
        *(f"the reasoning does not arrive at {n}" for n in (1035, 7200)),
        *(f"the reasoning is for choice A, the answer is ({letter})" for letter in "BC"),
        "the reasoning breaks off",
    }


@pytest.mark.parametrize(
    "reasoning, expected",
    [
        ("Add the parts. That is all,.", "Add the parts. That is all."),
        ("The area is 64 cm2;", "The area is 64 cm2."),
        (
            "Answer = C) 110 miles an hour, since 55 * 2 = 110.",
            "110 miles an hour, since 55 * 2 = 110.",
        ),
        ("Answer A) 20", "Answer A) 20."),
    ],
)
def test_reasoning_neither_begins_with_the_choice_nor_ends_loosely(reasoning, expected):
    row = {"question": "How far?", "answer": "(C)", "reasoning": reasoning}
    assert to_fields(row)["reasoning"] == expected


@pytest.mark.parametrize("end", ["x =", "Look at this:", "So it is 4. Hence", "It is 4. So"])
def test_reasoning_that_breaks_off_is_left_out(end):
    row = {"question": "How many?", "answer": "(B)", "reasoning": f"We add 1. {end}"}
    assert contradiction(row) == "the reasoning breaks off"
    assert not contradiction({**row, "reasoning": "They did so."})


@pytest.mark.parametrize("name", PRESENT)
@pytest.mark.parametrize("variant", ["zs_cot", "fs_cot"])
def test_scorers_find_the_answer_in_real_targets(data, name, variant):
    task = get_task(name)
    for index in range(150):
        example = render(task, "train", index, seed=1, variant=variant)
        text, found = extract_phrase(example.targets)
        assert found
        assert text == example.answer.strip(".").strip()


@pytest.mark.parametrize("name", PRESENT)
def test_inverted_prompts_do_not_give_the_target_away(data, name):
    task = get_task(name)
    policy = FewShotPolicy(mix_templates=0.0)
    for variant in ("zs_inverted", "fs_inverted"):
        for index in range(60):
            example = render(task, "train", index, seed=2, variant=variant, few_shot=policy)
            template = task.templates_of(variant)[example.template]
            fields = task.fields("train", index)
            asked = fields_of(template.targets)
            assert all(fields[key] in example.targets for key in asked)
            assert all(fields[key] in example.inputs for key in fields_of(template.inputs))
            if "question" in asked:
                assert fields["question"] not in example.inputs


def test_mixture_holds_what_is_there_in_proportion(data):
    mixture = get_mixture("cot")
    assert set(PRESENT) <= set(mixture.rates)
    assert get_mixture("cot") is mixture
