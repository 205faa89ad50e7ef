"""GSM8K in its original files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flan_jax.evaluation.extraction import extract_phrase
from flan_jax.mixtures.gsm8k.tasks import to_fields
from flan_jax.prompts.render import render
from flan_jax.sources.base import SourceError
from flan_jax.tasks import get_task

SOLUTION = "She sold 48/2 = <<48/2=24>>24 clips.\nIn all $<<48+24=72>>1,072.\n#### 1,072"


@pytest.fixture
def data(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLAN_JAX_DATA", str(test_data))
    return test_data


def test_fields():
    assert to_fields({"question": " How many? ", "answer": SOLUTION}) == {
        "question": "How many?",
        "reasoning": "She sold 48/2 = 24 clips.\nIn all $1,072.",
        "answer": "1072",
    }


@pytest.mark.parametrize("solution", ["It is 3.", "####", "so #### 3"])
def test_a_solution_without_a_number_is_an_error(solution):
    with pytest.raises(SourceError, match="no line '#### <number>'"):
        to_fields({"question": "q", "answer": solution})


def test_own_files(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    (tmp_path / "gsm8k").mkdir()
    for split, count in (("train", 40), ("test", 3)):
        rows = [{"question": f"{split} {i}?", "answer": SOLUTION} for i in range(count)]
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    direct, worked = get_task("gsm8k"), get_task("gsm8k_cot")
    assert direct.source.num_examples("test") == 3
    assert direct.source.num_examples("train") + direct.source.num_examples("validation") == 40
    assert render(direct, "test", 0, seed=0, variant="zs_noopt").targets == "1072"
    targets = render(worked, "test", 0, seed=0, variant="zs_noopt").targets
    assert "24 clips" in targets and "<<" not in targets
    assert extract_phrase(targets) == ("1072", True)


def test_templates():
    for name in ("gsm8k", "gsm8k_cot"):
        templates = get_task(name).templates()
        assert len(templates) >= 10
        assert len({template.inputs for template in templates}) == len(templates)
    for template in get_task("gsm8k").templates():
        assert template.targets == "{{ answer }}"
    for template in get_task("gsm8k_cot").templates():
        assert template.targets.endswith("answer is {{ answer }}.")


def test_every_real_row(data):
    task = get_task("gsm8k_cot")
    sizes = {split: task.source.num_examples(split) for split in task.source.splits()}
    assert sizes["test"] == 1319
    assert sizes["train"] + sizes["validation"] == 7473
    for split, size in sizes.items():
        for index in range(size):
            fields = task.fields(split, index)
            assert re.fullmatch(r"-?\d+(\.\d+)?", fields["answer"])
            assert "<<" not in fields["reasoning"] and "####" not in fields["reasoning"]


def test_nobody_trains_on_gsm8ks_validation_questions(data):
    def questions(name: str, split: str) -> set[str]:
        task = get_task(name)
        rows = (task.fields(split, i) for i in range(task.source.num_examples(split)))
        return {" ".join(row["question"].split()) for row in rows}

    assert questions("gsm8k", "validation") == questions("cot_gsm8k", "validation")
    held = questions("gsm8k", "validation") | questions("gsm8k", "test")
    for name in ("gsm8k", "gsm8k_cot", "cot_gsm8k"):
        assert not held & questions(name, "train")
