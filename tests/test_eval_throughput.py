"""The benchmark of evaluation runs small and gives its figures; no times are asserted."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.eval_throughput import COMMANDS, figures
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE

ROOT = Path(__file__).resolve().parent.parent


def test_figures_are_medians_of_turns_and_ratios_of_pairs():
    def turns(*seconds: float, texts: list) -> list[dict]:
        return [{"items": 6, "wall_s": s, "cpu_s": s / 2, "texts": texts} for s in seconds]

    answers = {
        "ours": turns(1.0, 2.0, 3.0, texts=[["A"], ["B"], ["C"], ["D"]]),
        "hf": turns(2.0, 3.0, 12.0, texts=[["A"], ["B"], ["C"], ["x"]]),
    }
    found = figures("mmlu", answers)
    assert found["mmlu_ours_items_per_wall_s"] == 3.0
    assert found["mmlu_hf_items_per_cpu_s"] == 4.0
    assert found["mmlu_ours_over_hf_wall"] == pytest.approx(2.0)
    assert found["mmlu_ours_over_hf_wall_range"] == pytest.approx([1.5, 4.0])
    assert found["mmlu_agree"] == 0.75
    assert "mgsm_agree" not in figures("mgsm", answers)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_quick_run_answers_the_same_items(test_data: Path, tmp_path: Path):
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "benchmarks" / "eval_throughput.py"),
            "--quick", "--repeats", "1", "--json", str(tmp_path / "figures.json"),
        ],
        env=os.environ
        | {"PYTHONPATH": str(ROOT), ENVIRONMENT_VARIABLE: str(test_data), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "figures.json").read_text())
    assert all(found[f"{command}_items"] == 2 for command in COMMANDS)
    assert all(found[f"{command}_ours_items_per_wall_s"] > 0 for command in COMMANDS)
    if importlib.util.find_spec("transformers"):
        assert found["mmlu_agree"] == 1.0
        assert found["mgsm_ours_over_hf_cpu"] > 0
