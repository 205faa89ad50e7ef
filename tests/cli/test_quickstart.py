"""The quickstart, shortened: the same path, fewer steps and questions."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SHORT = ("--gin.TRAIN_STEPS_RELATIVE=2", "--gin.NUM_EXAMPLES=1", "--gin.BATCH_SIZE=8")


@pytest.mark.slow
def test_quickstart_reports_before_and_after(tmp_path):
    command = [sys.executable, "-m", "flan_jax", "quickstart", "--output_dir", str(tmp_path)]
    done = subprocess.run([*command, *SHORT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Zero-shot, held-out" in done.stdout
    assert f"report: {tmp_path / 'report.html'}" in done.stdout
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for part in ("Held-in", "Held-out", "micro_third_item", "TRAIN_STEPS_RELATIVE = 2", "<svg"):
        assert part in page
    summaries = sorted(path.name for path in (tmp_path / "evaluation").glob("summary-*.json"))
    assert len(summaries) == 4  # two protocols, before and after
    content = json.loads((tmp_path / "evaluation" / summaries[0]).read_text(encoding="utf-8"))
    assert content["protocol"]["num_examples"] == 1
    # Started again it trains nothing and answers nothing anew.
    again = subprocess.run([*command, *SHORT], capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    first, second = (
        [line for line in run.stderr.splitlines() if "sha256" in line] for run in (done, again)
    )
    assert first == second


def test_output_dir_may_come_from_the_flag(tmp_path, capsys):
    from flan_jax.cli.quickstart import main

    code = main(["--output_dir", str(tmp_path / "there"), "--print_config"])
    assert code == 0
    assert f"MODEL_DIR = '{tmp_path / 'there' / 'model'}'" in capsys.readouterr().out
    assert not (tmp_path / "there").exists()
