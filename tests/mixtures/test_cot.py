"""Flan's chain-of-thought tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from flan_jax.evaluation.extraction import extract_phrase
from flan_jax.mixing import get_mixture
from flan_jax.mixtures.cot.tasks import TEMPLATES, to_fields
from flan_jax.prompts.render import render
from flan_jax.sources.base import SourceMissingError
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


@pytest.fixture
def data(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLAN_JAX_DATA", str(test_data))
    return test_data


def fields_of(row: dict[str, str], **changes: str):
    return to_fields({"question": "q", "answer": "a", "reasoning": "r.", **row, **changes})


def test_all_nine_are_registered_under_flans_names():
    assert [task.name for task in all_tasks() if task.group == "cot"] == sorted(ROWS)
    assert sorted(path.stem for path in TEMPLATES.glob("*.yaml")) == sorted(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_ten_different_templates_that_end_in_the_answer(name):
    templates = get_task(name).templates()
    assert len(templates) >= 10
    assert len({template.inputs for template in templates}) == len(templates)
    for template in templates:
        assert template.fields == {"question", "answer", "reasoning"}
        assert "{{ answer }}" not in template.inputs
        assert template.targets.endswith("answer is {{ answer }}.")
        assert template.targets.count("{{ reasoning }}") == 1


def test_reasoning_ends_like_a_sentence_and_nothing_else_changes():
    assert fields_of({}, reasoning=" 2+2 = 4mph ")["reasoning"] == "2+2 = 4mph."
    assert fields_of({}, reasoning="So it is!")["reasoning"] == "So it is!"
    assert fields_of({}, question="Which?\nOptions:\n- a\n", answer="(A)") == {
        "question": "Which?\nOptions:\n- a",
        "answer": "(A)",
        "reasoning": "r.",
    }


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
    example = render(task, "train", 0, seed=0, variant="zs_noopt")
    assert '"Passage' in example.inputs and "\nWho?" in example.inputs
    assert extract_phrase(example.targets) == (example.answer, True)
    assert get_mixture("cot").proportions() == {"stream_qed": 1.0}


def test_missing_files_are_explained(data):
    with pytest.raises(SourceMissingError, match=r"flan_cot/esnli_train\.tsv is not in the data"):
        get_task("cot_esnli").source.num_examples("train")


@pytest.mark.parametrize("name", PRESENT)
def test_every_real_row(data, name):
    task = get_task(name)
    sizes = {split: task.source.num_examples(split) for split in task.source.splits()}
    assert sum(sizes.values()) == ROWS[name]
    assert 0.03 < sizes["validation"] / ROWS[name] < 0.07
    for split, size in sizes.items():
        for index in range(size):
            fields = task.fields(split, index)
            assert all(fields[key].strip() for key in ("question", "answer", "reasoning"))
            assert "\\n" not in fields["question"]


@pytest.mark.parametrize("name", PRESENT)
def test_scorers_find_the_answer_in_real_targets(data, name):
    task = get_task(name)
    for index in range(200):
        example = render(task, "train", index, seed=1, variant="zs_noopt")
        text, found = extract_phrase(example.targets)
        assert found
        assert text == example.answer.strip(".").strip()


def test_mixture_holds_what_is_there_in_proportion(data):
    mixture = get_mixture("cot")
    assert sorted(mixture.rates) == sorted(PRESENT)
    assert mixture.rates["cot_creak"] == get_task("cot_creak").source.num_examples("train")
    assert get_mixture("cot") is mixture
