"""`flan-jax eval score`, `compare` and `average`, which need no model."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from flan_jax.cli.main import main
from flan_jax.mixtures.benchmarks.suites import FLAN
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE

HEAVY = ("jax", "jaxlib", "flax", "tensorflow", "seqio", "torch")


@pytest.fixture
def data(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(test_data))
    return test_data


@pytest.fixture(scope="module")
def published(test_data: Path) -> dict:
    """The outputs that the authors of BIG-Bench Hard published, and their accuracies."""
    packed = (test_data / "bbh/codex-outputs/code-davinci-002-direct.json.gz").read_bytes()
    return json.loads(gzip.decompress(packed))["tasks"]


@pytest.fixture(scope="module")
def codex(published: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codex") / "predictions.jsonl"
    write_rows(
        path,
        [
            (f"{n}/{i}", text)
            for n, t in published.items()
            for i, text in enumerate(t["predictions"])
        ],
    )
    return path


def rows_of(tasks: dict) -> list[tuple[str, object]]:
    return [(f"{n}/{i}", text) for n, t in tasks.items() for i, text in enumerate(t["predictions"])]


def write_rows(path: Path, rows: Sequence[tuple[str, object]]) -> Path:
    lines = [json.dumps({"id": identity, "prediction": text}) for identity, text in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def output_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code = main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return shown.out


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("benchmark", ["bbh", "bbh_direct"])
def test_published_outputs_give_the_published_accuracies(
    benchmark: str, data: Path, codex: Path, published: dict, capsys
):
    result = json.loads(output_of(capsys, "eval", "score", benchmark, codex, "--format", "json"))
    assert result["subtasks"] == {name: task["accuracy"] for name, task in published.items()}
    assert len(result["subtasks"]) == 27
    assert result["score"] == pytest.approx(52.76, abs=0.005)
    assert result["groups"]["bbh-nlp"]["n"] + result["groups"]["bbh-alg"]["n"] == 6511
    schema = resources.files("flan_jax.evaluation") / "schemas" / "benchmark_result.json"
    jsonschema.validate(result, json.loads(schema.read_text(encoding="utf-8")))


def test_it_needs_neither_jax_nor_tensorflow(data: Path, codex: Path):
    code = (
        "import sys; from flan_jax.cli.main import main; "
        f"main(['eval', 'score', 'bbh', {str(codex)!r}]); "
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "LOADED []" in done.stdout
    assert "bbh_direct (paper, test): 52.76" in done.stdout


def test_text_and_items(data: Path, codex: Path, tmp_path: Path, published: dict, capsys):
    items = tmp_path / "items.jsonl"
    text = output_of(capsys, "eval", "score", "bbh", codex, "--items", items)
    assert "macro mean of 27 subtasks, 6,511 items" in text
    assert "held out from training: unknown" in text
    assert "boolean_expressions\t88.4\t" in text
    rows = [json.loads(line) for line in items.read_text(encoding="utf-8").splitlines()]
    snarks = [row for row in rows if row["id"].startswith("snarks/")]
    assert len(rows) == 6511
    share = 100 * sum(row["correct"] for row in snarks) / len(snarks)
    assert share == pytest.approx(published["snarks"]["accuracy"])
    assert {"question", "target", "output", "prediction", "parsed"} <= set(snarks[0])


def test_partial_predictions(data: Path, published: dict, tmp_path: Path, capsys):
    outputs = published["navigate"]["predictions"]
    path = write_rows(
        tmp_path / "some.jsonl", [(f"navigate/{i}", t) for i, t in enumerate(outputs)]
    )
    assert "6,261 of 6,511 items" in error_of(capsys, "eval", "score", "bbh", path)
    text = output_of(capsys, "eval", "score", "bbh", path, "--partial")
    assert text.startswith("PARTIAL: 6,261 of 6,511 items have no prediction")
    found = output_of(capsys, "eval", "score", "bbh", path, "--partial", "--format", "json")
    result = json.loads(found)
    assert result["score"] == published["navigate"]["accuracy"] and result["missing"] == 6261


def test_paths_are_voted_on(data: Path, published: dict, tmp_path: Path, capsys):
    """Two wrong paths that differ, an unparsed one, and two published ones: these win."""
    outputs = published["navigate"]["predictions"]
    rows = [(f"navigate/{i}", ["one", "", "two", t, t]) for i, t in enumerate(outputs)]
    path = write_rows(tmp_path / "paths.jsonl", rows)
    items = tmp_path / "items.jsonl"
    found = output_of(
        capsys, "eval", "score", "bbh", path, "--partial", "--format", "json", "--items", items
    )
    assert json.loads(found)["score"] == published["navigate"]["accuracy"]
    first = json.loads(items.read_text(encoding="utf-8").splitlines()[0])
    assert first["output"] == outputs[0] and max(first["votes"].values()) == 2


def test_mistakes_are_explained(data: Path, codex: Path, tmp_path: Path, capsys):
    assert "did you mean 'bbh'" in error_of(capsys, "eval", "score", "bhb", codex)
    assert "no variant 'papper'" in error_of(
        capsys, "eval", "score", "bbh_direct", codex, "--variant", "papper"
    )
    assert "no split 'train'" in error_of(capsys, "eval", "score", "bbh", codex, "--split", "train")
    assert "cannot read" in error_of(capsys, "eval", "score", "bbh", tmp_path / "absent.jsonl")
    path = write_rows(tmp_path / "wrong.jsonl", [("snark/0", "(A)")])
    assert "did you mean 'snarks'" in error_of(capsys, "eval", "score", "bbh", path)


def test_missing_benchmark_files(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    path = write_rows(tmp_path / "some.jsonl", [("snarks/0", "(A)")])
    message = error_of(capsys, "eval", "score", "bbh", path)
    assert "bbh/bbh/boolean_expressions.json" in message and "FLAN_JAX_DATA" in message


def test_compare(data: Path, codex: Path, published: dict, tmp_path: Path, capsys):
    worse = [(i, "" if i.startswith("navigate/") else text) for i, text in rows_of(published)]
    path = write_rows(tmp_path / "worse.jsonl", worse)
    text = output_of(capsys, "eval", "compare", "bbh", codex, path)
    # All of navigate's right answers are lost: 50.4% of 250, a 27th of the mean.
    assert "52.76 → 50.89, difference -1.87 (95% CI" in text
    assert "6,511 items: 0 gained, 126 lost" in text
    found = json.loads(output_of(capsys, "eval", "compare", "bbh", codex, path, "--format", "json"))
    assert found["overall"]["high"] < 0
    assert found["subtasks"]["navigate"]["value"] == pytest.approx(-50.4)
    assert found["subtasks"]["snarks"] | {"n": 0} == {
        "value": 0, "low": 0, "high": 0, "gained": 0, "lost": 0, "n": 0,
        "before": published["snarks"]["accuracy"], "after": published["snarks"]["accuracy"],
    }  # fmt: skip
    some = write_rows(tmp_path / "some.jsonl", worse[:10])
    assert "some.jsonl: 6,501 of 6,511 items" in error_of(
        capsys, "eval", "compare", "bbh", codex, some
    )
    partial = output_of(capsys, "eval", "compare", "bbh", codex, some, "--partial")
    assert partial.startswith("PARTIAL: 6,501 of 6,511")


def result_file(folder: Path, name: str, **changes: object) -> Path:
    """What `eval score --format json` would print, as far as an average looks at it."""
    content = {
        "name": name, "protocol": name, "score": 50.0, "low": 40.0, "high": 60.0, "n": 9,
        "normalized": 12.0, "missing": 0, "subtasks": {"a": 50.0}, "subtask_details": {},
    }  # fmt: skip
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def test_average_of_results(tmp_path: Path, capsys):
    files = [result_file(tmp_path, name) for name in FLAN.components]
    result_file(tmp_path, "mgsm_cot", normalized=-6.0)
    found = json.loads(output_of(capsys, "eval", "average", *files, "--format", "json"))
    assert found["normalized_average"] == pytest.approx(9)
    assert found["parts"] == pytest.approx({"chain of thought": 6, "direct": 12})
    assert "normalized average\t9.00" in output_of(capsys, "eval", "average", *files)
    assert "missing: mgsm_cot." in error_of(capsys, "eval", "average", *files[:-1])
    assert "a result of mgsm_cot already" in error_of(capsys, "eval", "average", *files, files[-1])
    result_file(tmp_path, "mgsm_cot", missing=3)
    assert "3 items of mgsm_cot are missing" in error_of(capsys, "eval", "average", *files)
    (tmp_path / "mgsm_cot.json").write_text("{}")
    assert "is no result of an evaluation" in error_of(capsys, "eval", "average", *files)
    assert "one of the two" in error_of(capsys, "eval", "average")


def test_published_averages(capsys):
    rows = json.loads(output_of(capsys, "eval", "average", "--published", "--format", "json"))
    flagged = {row["model"] for row in rows if row["flags"]}
    assert len(rows) == 20 and flagged == {"PaLM 62B", "PaLM 540B"}
    assert all(abs(row["difference"]) < 0.1 for row in rows if not row["flags"])
    text = output_of(capsys, "eval", "average", "--published")
    assert "Flan-T5-XL\t19.1\t19.14\t+0.04" in text
