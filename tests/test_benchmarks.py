"""The benchmarks run, and give what they promise; how fast anything is, is no matter here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import generated_rows
from benchmarks.input_pipeline import medians
from benchmarks.pipeline_report import TARGETS, figures, verdict

ROOT = Path(__file__).resolve().parent.parent
# What a run of `--quick --json FILE` is promised to write.
PROMISED = (
    "first_batch_s",
    "peak_rss_gb",
    "rendered_tokens_per_s_per_core",
    "fewshot_tokens_per_s_per_core",
    "pretokenised_tokens_per_s_per_core",
    "fill_fraction",
    "throughput_1836_over_10",
    "seqio_500_tokens_per_s_per_core",
    "seqio_500_first_batch_s",
    "resume_s",
    "state_bytes",
)


def run(name: str, *arguments: str, timeout: int = 580) -> str:
    """What a benchmark prints."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / name), *arguments],
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -------------------------------------------------------------------------------- generated rows


def rows_of(base: dict[str, Any], count: int, name: str = "made_up") -> list[dict[str, Any]]:
    """Rows that are made from one base."""
    return [
        generated_rows._grown(base, np.random.default_rng([7, index])) for index in range(count)
    ]


def test_rows_grow_to_the_lengths_that_were_asked_for():
    rows = rows_of({"text": "A short text.", "answer": "x"}, 4000)
    tokens = [len(row["text"]) / generated_rows.CHARACTERS_A_TOKEN for row in rows]
    tokens = np.array(tokens) + generated_rows.TEMPLATE_TOKENS
    assert np.median(tokens) == pytest.approx(150, rel=0.1)
    assert 1000 < tokens.max() < 2100  # the heavy tail
    answers = [len(row["answer"]) / generated_rows.CHARACTERS_A_TOKEN + 1 for row in rows]
    assert np.median(answers) == pytest.approx(8, rel=0.2)


def test_rows_differ_and_are_the_same_every_time():
    base = {"text": "A short text.", "answer": "yes", "answers": ("yes", "Yes")}
    rows = rows_of(base, 50)
    assert rows == rows_of(base, 50)
    assert len({row["text"] for row in rows}) > 40  # short ones need not grow
    for row in rows:
        assert row["text"].startswith("A short text.")
        assert row["answers"] == (row["answer"], "Yes")


def test_what_a_row_may_answer_stays_as_it_is():
    base = {"turns": ("Who?", "She."), "answer": "no", "options": ["yes", "no"], "number": 3}
    for row in rows_of(base, 20):
        assert (row["answer"], row["options"], row["number"]) == ("no", ["yes", "no"], 3)
        assert row["turns"][1:] == ("She.",) and row["turns"][0].startswith("Who?")
    (row,) = rows_of({"lines": ({"code": "int"},), "first": 0}, 1)
    assert row == {"lines": ({"code": "int"},), "first": 0}


def test_the_reasoning_grows_and_not_its_answer():
    rows = rows_of({"question": "Who?", "answer": "Ida", "reasoning": "So."}, 50)
    assert {row["answer"] for row in rows} == {"Ida"}
    assert len({row["reasoning"] for row in rows}) > 25


# ------------------------------------------------------------------------------------- the report

CASE = "SeqIO, 500 cached tasks"


def test_medians_are_of_each_number():
    runs = {"a": [{"x": 1, "y": [3, 4]}, {"x": 10, "y": [3, 4]}, {"x": 2, "y": [3, 4]}]}
    assert medians(runs) == {"a": {"x": 2, "y": [3, 4]}}


def test_figures_are_ratios_of_the_right_cases():
    found = {
        "rendered, all over ten": {"ratio": 0.9},
        "pre-tokenised": {"tokens_per_cpu_s": 5000.0},
        "first batch": {"first_batch_s": 0.5},
        CASE: {"first_batch_s": 50.0, "tokens_per_cpu_s": 250.0},
    }
    report = figures(found, CASE)
    assert report["throughput_1836_over_10"] == 0.9
    assert report["pretokenised_over_seqio"] == 20.0
    assert report["seqio_first_batch_over_ours"] == 100.0
    assert report["seqio_500_first_batch_is_a_limit"] is False
    assert report["peak_rss_gb"] is None


def test_a_batch_that_never_came_counts_as_the_time_it_had():
    report = figures({CASE: {"not_within_s": 480.0}}, CASE)
    assert report["seqio_500_first_batch_s"] == 480.0
    assert report["seqio_500_first_batch_is_a_limit"] is True
    assert report["seqio_500_tokens_per_s_per_core"] is None


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("first_batch_s", 2.0, "met"),
        ("first_batch_s", 2.1, "NOT MET"),
        ("fill_fraction", 0.929, "NOT MET"),
        ("fill_fraction", 0.93, "met"),
        ("state_bytes", None, "not measured"),
    ],
)
def test_a_verdict_is_of_the_target(name: str, value: float | None, said: str):
    assert verdict(name, value).endswith(f": {said}")


def test_only_what_has_a_target_is_judged():
    assert verdict("seqio_500_first_batch_s", 5.0) == ""
    assert set(TARGETS) <= set(figures({}, CASE))


# ------------------------------------------------------------------------------------- whole runs


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_input_pipeline_is_measured(tmp_path: Path):
    file = tmp_path / "figures.json"
    small = ("--rows", "3", "--turns", "1", "--seconds", "0.3")
    small += ("--seqio_tasks", "3", "--seqio_warm_up", "1")
    printed = run("input_pipeline.py", "--quick", *small, "--json", str(file))
    found = json.loads(file.read_text(encoding="utf-8"))
    lacking = [name for name in PROMISED if not found[name]]
    assert not lacking, (lacking, found["notes"])
    assert found["ids_equal_fraction"] == 1.0
    assert found["state_bytes"] < 1000
    whole, few, ratio = (
        [run[key] for run in found["runs"][case]]
        for case, key in (
            ("rendered", "tokens_per_cpu_s"),
            ("rendered, 10 tasks", "tokens_per_cpu_s"),
            ("rendered, all over ten", "ratio"),
        )
    )
    assert ratio == [a / b for a, b in zip(whole, few, strict=True)]
    assert found["medians"]["first batch"].keys() >= {"first_batch_s", "cpu_s", "peak_rss_gb"}
    assert "rendered_tokens_per_s_per_core" in printed


@pytest.mark.exhaustive
@pytest.mark.slow
def test_packing_is_measured(tmp_path: Path):
    file = tmp_path / "packing.json"
    run("packing.py", "--quick", "--repeats", "1", "--json", str(file))
    found = json.loads(file.read_text(encoding="utf-8"))
    for name, result in found["medians"].items():
        assert 0.2 < result["inputs"] <= 1, name


@pytest.mark.exhaustive
@pytest.mark.slow
def test_registration_is_measured():
    printed = run("registry.py", "--repeats", "1")
    counted = re.search(r"all defined .* ([\d,]+) tasks", printed)
    assert counted and int(counted[1].replace(",", "")) >= 1838


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_store_is_measured(tmp_path: Path):
    file = tmp_path / "store.json"
    run("store.py", "--quick", "--json", str(file))
    assert json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param("decode.py", marks=pytest.mark.exhaustive), "model_step.py"]
)
def test_the_model_is_measured_beside_transformers(name: str, tmp_path: Path):
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    file = tmp_path / "figures.json"
    run(name, "--quick", "--repeats", "2", "--json", str(file))
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["ours_over_hf_cpu"] > 0 and found["ours_over_hf_wall"] > 0
    if name == "decode.py":
        assert set(found["agree"].values()) == {1.0}
    else:  # the same weights, the same loss
        assert found["initial_loss"]["ours"] == pytest.approx(found["initial_loss"]["hf"], rel=1e-5)
