"""`flan-jax data stats`; its figures are checked in tests/data/inspection."""

from __future__ import annotations

import json
import re

import pytest

from flan_jax.cli import main as cli
from flan_jax.cli.data_stats import bar, histogram_lines
from flan_jax.data.inspection.stats import bin_edges

SHORT = ("--inputs_length", "128", "--targets_length", "40", "--examples", "1000")
FIELDS = {
    "mixture", "hash", "split", "seed", "vocabulary", "lengths", "row_lengths", "windows", "steps",
    "batch_size", "missing", "packing", "edges", "total", "groups", "tasks", "recommended",
}  # fmt: skip
FIGURES = {
    "examples", "tokens", "tokens_share", "targets_share", "inputs", "targets", "exemplars",
    "dropped_exemplars", "repeats", "duplicates",
}  # fmt: skip
LENGTHS = {
    "mean", "median", "p90", "p99", "max", "truncated", "tokens_cut", "largest_cut", "histogram",
}  # fmt: skip
OWN = """
from pathlib import Path
from flan_jax.mixing import register_mixture
from flan_jax.sources.tsv import TsvSource
from flan_jax.tasks import TaskDefinition, register_task
PATH = Path(__file__).with_suffix(".yaml")
PATH.write_text('templates: [{inputs: "{{ question }}", targets: "{{ answer }}"}]')
for name in ("here", "absent"):
    source = TsvSource({"train": name + ".tsv"}, columns=("question", "answer"))
    register_task(TaskDefinition("own_" + name, "own", "c", source, PATH, "MIT"))
register_mixture("own_mix", {"own_here": 1, "own_absent": 1}, variants={"zs_noopt": 1})
"""


@pytest.fixture
def stats(capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch):
    """Runs the command in this process, without data: (exit code, stdout, stderr)."""
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.main(["data", "stats", *arguments])
        except SystemExit as leaving:  # argparse
            code = leaving.code
        return code, *capsys.readouterr()

    return run


def _json(stats, *arguments: str) -> dict:
    code, output, errors = stats(*arguments, "--format", "json")
    assert code == 0, errors
    return json.loads(output)


def test_json_has_these_fields(stats):
    found = _json(stats, "micro", *SHORT)
    assert found.keys() == FIELDS
    assert (found["steps"], found["batch_size"], found["windows"]) == (10_000, 128, 1)
    assert found["total"].keys() == FIGURES
    group = {"name", "tasks", "share", "most_epochs"}
    assert [set(one) for one in found["groups"]] == [FIGURES | group]
    task = {"name", "group", "share", "rows", "draws", "epochs"}
    assert {frozenset(one) for one in found["tasks"]} == {frozenset(FIGURES | task)}
    for figures in (found["total"], *found["tasks"]):
        for side in ("inputs", "targets"):
            assert figures[side].keys() == LENGTHS
            assert sum(figures[side]["histogram"]) == figures["examples"]
            assert len(figures[side]["histogram"]) == len(found["edges"][side]) + 1
        assert figures["duplicates"].keys() == {"same_row", "other_row"}
    assert found["packing"].keys() == {"packed", "rows", "examples_per_row", "fill"}
    assert found["recommended"].keys() == {
        "inputs", "targets", "trim", "fill", "examples_per_row",
    }  # fmt: skip
    assert sum(task["examples"] for task in found["tasks"]) == found["total"]["examples"]
    assert _json(stats, "micro", *SHORT) == found
    assert _json(stats, "micro", *SHORT, "--seed", "1") != found


def test_text_and_json_agree(stats):
    code, output, errors = stats("micro", *SHORT)
    assert (code, errors) == (0, "")
    found = _json(stats, "micro", *SHORT)
    lines = output.splitlines()
    assert f"hash {found['hash']}" in lines
    fill = found["packing"]["fill"]
    assert f"inputs {100 * fill['inputs']:.1f}%, targets {100 * fill['targets']:.1f}%" in output
    drawn = {cells[0]: cells for line in lines if len(cells := line.split("\t")) == 13}
    assert drawn.keys() == {task["name"] for task in found["tasks"]} | {"micro"}
    for task in found["tasks"]:
        cells = drawn[task["name"]]
        assert cells[3] == str(task["examples"])
        assert cells[6].split("/")[0] == str(task["inputs"]["median"])
        assert cells[11] == "endless"
    bars = [line for line in lines if re.search(r"≤ [\d,]+ ", line)]
    assert (
        sum(int(line.removesuffix(" cut").split()[-2].replace(",", "")) for line in bars)
        == 2 * 1024
    )


def test_missing_data_are_left_out_if_asked(own_registries, stats, tmp_path, monkeypatch):
    (tmp_path / "own_stats.py").write_text(OWN)
    (tmp_path / "data" / "here.tsv").write_text("one two three\tfour\n" * 10)
    monkeypatch.syspath_prepend(tmp_path)
    code, _, errors = stats("own_mix", "--module", "own_stats")
    assert code == 2 and "data of 1 of 2 tasks are missing" in errors
    assert "--allow_missing goes on without the rest" in errors and "gin" not in errors
    arguments = ("own_mix", "--module", "own_stats", "--allow_missing", *SHORT, "--steps", "2")
    code, _, errors = stats(*arguments, "--html", "page.html")
    assert (code, errors) == (0, "left out, data missing: own_absent\n")
    assert "own_absent" in (tmp_path / "page.html").read_text()
    found = _json(stats, *arguments)
    assert list(found["missing"]) == ["own_absent"]
    (task,) = found["tasks"]
    # All ten rows are equal: the first of 1,024 examples is the only new one.
    assert sum(task["duplicates"].values()) == 1023 and task["repeats"] == 1014
    assert task["epochs"] == pytest.approx(2 * 128 * found["packing"]["examples_per_row"] / 10)


def test_lines_of_a_histogram():
    edges = bin_edges(40)
    counts = [0] * (len(edges) + 1)
    counts[edges.index(32)], counts[edges.index(48)], counts[-1] = 3, 1, 6
    lines = histogram_lines(counts, edges, 40)
    assert len(lines) == len(counts) - edges.index(32)
    assert lines[0].split() == ["≤", "32", "█" * 20, "3", "30.0%"]
    assert lines[1].split() == ["≤", "40", "0", "0.0%"]
    assert lines[2].split() == ["≤", "48", "██████▋", "1", "10.0%", "cut"]
    assert lines[-1].split() == [">", f"{edges[-1]:,}", "█" * 40, "6", "60.0%", "cut"]
    assert len({line.index("%") for line in lines}) == 1


@pytest.mark.parametrize(
    ("share", "text"), [(0, ""), (1e-9, "▏"), (1 / 320, "▏"), (0.5, "█" * 20), (1, "█" * 40)]
)
def test_bars(share, text):
    assert bar(share) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["micor"], "did you mean 'micro'"),
        (["micro", "--examples", "0"], "must be at least 1, found 0"),
        (["micro", "--steps", "none"], "--steps: invalid"),
        (["real"], "no data for any of its"),
    ],
)
def test_slips_end_with_status_2_and_a_hint(stats, arguments, message):
    code, output, errors = stats(*arguments)
    assert (code, output) == (2, "")
    assert message in errors and "Traceback" not in errors


def test_real_rows(test_data, stats):
    found = _json(stats, "real", "--data_dir", str(test_data), "--examples", "1024")
    assert {group["name"] for group in found["groups"]} == {"cot", "gsm8k", "niv2"}
    fill = found["packing"]["fill"]
    assert 0.8 < fill["inputs"] <= 1 and fill["all"] <= found["recommended"]["fill"]["all"] + 0.01
    assert all(task["epochs"] > 0 for task in found["tasks"])
    aqua = next(task for task in found["tasks"] if task["name"] == "stream_aqua")
    assert aqua["inputs"]["median"] > 50 and aqua["targets"]["median"] > 20
