"""The best checkpoint by one split, and what is said of scores on that split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flan_jax.cli.evaluating import select as command
from flan_jax.errors import UserError
from flan_jax.evaluation.selection import read_summaries, select


def write(folder: Path, step: int, name: str, normalized: float, **fields) -> None:
    protocol = name.removesuffix("_test")
    part = {
        "name": name,
        "protocol": protocol,
        "benchmark": protocol.partition("_")[0],
        "split": "test" if name.endswith("_test") else "validation",
        "score": normalized / 2 + 25,
        "low": 20.0,
        "high": 60.0,
        "normalized": normalized,
    } | fields
    content = {"step": step, "protocol_hash": fields.get("hash", name), "benchmark": part}
    (folder / f"summary-{name}-{step:06d}.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """By mmlu_direct alone step 200 is best, by both protocols step 300."""
    for step, direct, cot in ((100, 10, 12), (200, 30, 2), (300, 25, 20), (400, 25, 20)):
        write(tmp_path, step, "mmlu_direct", direct)
        write(tmp_path, step, "mmlu_cot", cot)
        write(tmp_path, step, "mmlu_direct_test", direct - 5)
    write(tmp_path, 500, "mmlu_direct", 90)
    (tmp_path / "summary-zero_shot-000100.json").write_text("{}")  # of tasks, no benchmark
    return tmp_path


def test_the_best_mean_is_chosen_and_the_earliest_of_equals(folder: Path):
    found = select(read_summaries(folder), split="validation")
    assert found.step == 300
    assert found.values == {100: 11, 200: 16, 300: 22.5, 400: 22.5}
    assert found.names == ("mmlu_cot", "mmlu_direct")
    assert found.incomplete == (500,)


def test_by_one_protocol(folder: Path):
    found = select(read_summaries(folder), ["mmlu_direct"], "validation")
    assert found.step == 500
    assert select(read_summaries(folder), ["mmlu_cot"]).step == 300


def test_scores_on_the_split_of_the_choice_are_biased(folder: Path):
    found = select(read_summaries(folder), ["mmlu_cot"], "validation")
    biased = {each.summary.name: each.biased for each in found.reported}
    # Not only under the protocol that chose: the items are the same.
    assert biased == {"mmlu_cot": True, "mmlu_direct": True, "mmlu_direct_test": False}


@pytest.mark.parametrize(
    ("protocols", "split", "message"),
    [
        ([], None, "mmlu_direct was evaluated on test, validation: say by --split"),
        ([], "valdation", "did you mean 'validation'"),
        (["mmlu_dirct"], "test", "did you mean 'mmlu_direct"),
        (["mmlu_cot"], "test", "no step was evaluated under 'mmlu_cot'"),
    ],
)
def test_mistakes(folder: Path, protocols, split, message):
    with pytest.raises(UserError, match=message):
        select(read_summaries(folder), protocols, split)


def test_other_questions_are_not_compared(folder: Path):
    write(folder, 600, "mmlu_cot", 99, hash="others")
    with pytest.raises(UserError, match="mmlu_cot asked other questions at step 600"):
        select(read_summaries(folder), ["mmlu_cot"])


def test_folders_without_summaries(tmp_path: Path):
    with pytest.raises(UserError, match="holds no summary of a benchmark"):
        read_summaries(tmp_path)
    (tmp_path / "summary-a-000001.json").write_text('{"benchmark": {}}')
    with pytest.raises(UserError, match="is not a summary of an evaluation"):
        read_summaries(tmp_path)


def test_the_command_says_biased(folder: Path, capsys: pytest.CaptureFixture[str]):
    arguments = [str(folder), "--protocol", "mmlu_direct", "--split", "validation"]
    assert command.main([str(folder), "--split", "validation"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  step      300    22.5  chosen" in lines
    (validation,) = [line for line in lines if line.startswith("  mmlu_direct (validation)")]
    (test,) = [line for line in lines if line.startswith("  mmlu_direct_test (test)")]
    assert "selection-biased" in validation
    assert "selection-biased" not in test
    assert command.main([*arguments, "--format", "json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["step"] == 500
    assert [each["selection_biased"] for each in content["reported"]] == [True]
