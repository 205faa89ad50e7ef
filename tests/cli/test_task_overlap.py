"""`flan-jax tasks overlap` on a small data folder, and on real data where they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flan_jax.cli.main import main

QUESTION = "Ann has three red pens and buys four blue pens. How many pens has Ann now in all?"
OTHER = (
    "A train leaves at noon and drives for two hours at sixty miles an hour; how far does it go?"
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """GSM8K with a test question that stands in train as well, and an MGSM of two languages."""
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    (tmp_path / "gsm8k").mkdir()
    for split, questions in (("train", [QUESTION, OTHER]), ("test", [QUESTION])):
        rows = [{"question": q, "answer": "It is so.\n#### 7"} for q in questions]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text(text)
    (tmp_path / "mgsm").mkdir()
    (tmp_path / "mgsm" / "mgsm_en.tsv").write_text(f"{QUESTION}\t7\n")
    (tmp_path / "mgsm" / "mgsm_de.tsv").write_text("Wie viele Stifte hat Ann nun?\t7\n")
    return tmp_path


@pytest.mark.usefixtures("data")
def test_table_and_examples(capsys):
    assert main(["tasks", "overlap", "gsm8k", "--against", "mgsm,gsm8k,bbh,boolq"]) == 0
    output = capsys.readouterr().out
    rows = [line.split("\t") for line in output.splitlines() if "\t" in line]
    assert rows == [
        ["mgsm", "overlapping", "1", "0", "0", "1", "2"],
        ["gsm8k", "overlapping", "1", "0", "0", "1", "1"],
        ["bbh", "unknown", "0", "0", "1", "–", "–"],
        ["boolq", "unknown", "0", "0", "1", "–", "–"],
    ]
    assert "gsm8k row" in output and "of item en/0 (question): ann has three red pens" in output
    assert "no file bbh/bbh/*.json in the data folder" in output


@pytest.mark.usefixtures("data")
def test_json_is_complete(capsys):
    assert main(["tasks", "overlap", "gsm8k", "--against", "mgsm", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["mixture"] == "gsm8k" and report["options"]["ngram"] == 13
    (benchmark,) = report["benchmarks"]
    (pair,) = benchmark["pairs"]
    assert benchmark["incomplete"] == "2 of 2,750 items are on this machine"
    assert pair["declared"][0]["relation"] == "translation"
    assert pair["found"]["items"] == {"question": 1}
    assert pair["found"]["examples"][0]["item"] == "en/0"


@pytest.mark.usefixtures("data")
def test_exit_status(capsys):
    against = ["tasks", "overlap", "micro_count_items", "--max_rows", "5", "--against", "gsm8k"]
    assert main(against) == 0
    assert main([*against, "--require", "proven"]) == 1
    assert main(["tasks", "overlap", "micro", "--against", "gsm9k"]) != 0
    assert "did you mean 'gsm8k'" in capsys.readouterr().err
    assert main(["tasks", "overlap", "micro", "--against", ","]) != 0
    assert "--against names no benchmark" in capsys.readouterr().err


@pytest.mark.slow
def test_real_benchmarks_against_chain_of_thought(test_data, capsys, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_DATA", str(test_data))
    names = "mmlu,bbh,mgsm,gsm8k,tydiqa,aqua,strategyqa,winogender,toxicity_wiki"
    assert main(["tasks", "overlap", "cot", "--against", names, "--format", "json"]) == 0
    found = {b["benchmark"]: b for b in json.loads(capsys.readouterr().out)["benchmarks"]}
    sizes = {name: benchmark["items"] for name, benchmark in found.items()}
    assert sizes == {
        "mmlu": 15_858,
        "bbh": 6_511,
        "mgsm": 2_750,
        "gsm8k": 1_319,
        "tydiqa": 9_457,
        "aqua": 508,
        "strategyqa": 229,
        "winogender": 720,
        "toxicity_wiki": 1_492,
    }
    assert found["gsm8k"]["items_found_by_part"]["question"] == 3
    assert found["mmlu"]["items_found"] == found["bbh"]["items_found"] == 0
    assert found["mgsm"]["verdict"] == "overlapping" and found["mgsm"]["items_found"] == 0
