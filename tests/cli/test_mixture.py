"""`flan-jax mixture`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flan_jax.cli import main as cli

ROOT = Path(__file__).resolve().parent.parent.parent
# Paper: proportion B, which sums to 99.9%.
SHARES = {"muffin": 46 / 99.9, "t0_sf": 27.9 / 99.9, "cot": 1.8 / 99.9, "niv2": 24.2 / 99.9}
TASKS = {"muffin": 80, "t0_sf": 193, "cot": 9, "niv2": 1556}
OWN = """
from pathlib import Path
from flan_jax.mixing import register_mixture
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.sources.tsv import TsvSource
from flan_jax.tasks import TaskDefinition, register_task
PATH = Path(__file__).with_suffix(".yaml")
PATH.write_text('templates: [{inputs: "{{ question }}", targets: "{{ answer }}"}]')
SOURCES = {
    "small": TsvSource({"train": "small.tsv"}, columns=("question", "answer")),
    "absent": TsvSource({"train": "absent.tsv"}, columns=("question", "answer")),
    "endless": ProceduralSource("endless", lambda draws: {"question": "", "answer": ""}),
}
for name, source in SOURCES.items():
    size = 50 if name == "absent" else None
    register_task(TaskDefinition("own_" + name, "own", "c", source, PATH, "MIT", num_train=size))
register_mixture("own_part", {"own_small": 1, "own_absent": 3})
register_mixture("own_mix", {"own_part": 4, "own_endless": 1}, description="to be shown")
register_mixture("own_endless_mix", ["own_endless"])
"""


@pytest.fixture
def flan_jax(capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch):
    """Runs the command in this process, without data: (exit code, stdout, stderr)."""
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.main(["mixture", *arguments])
        except SystemExit as leaving:  # argparse
            code = leaving.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def own(own_registries, flan_jax, tmp_path, monkeypatch):
    """The command with a module of the user's: 20 rows of one task, none of another."""
    (tmp_path / "own_mixtures.py").write_text(OWN)
    (tmp_path / "data" / "small.tsv").write_text("".join(f"q{i}\t{i}\n" for i in range(20)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return lambda *arguments: flan_jax(*arguments, "--module", "own_mixtures")


def _shown(run, name: str, *arguments: str) -> dict:
    code, output, errors = run("show", name, "--format", "json", *arguments)
    assert code == 0, errors
    return json.loads(output)


def test_list(flan_jax):
    code, output, _ = flan_jax("list", "--format", "json")
    assert code == 0
    found = {mixture["name"]: mixture for mixture in json.loads(output)}
    assert [*found] == sorted(found)
    assert {"flan2022", "flan2022_a", "flan2022_submix", "cot_zsopt", "micro", "real"} <= set(found)
    for mixture in found.values():
        assert mixture["description"], mixture["name"]
        if mixture["tasks"]:
            assert sum(mixture["shares"].values()) == pytest.approx(1)
    whole = found["flan2022"]
    assert (whole["tasks"], whole["missing"]) == (1838, None)
    assert whole["shares"] == pytest.approx(SHARES)
    assert found["real"]["tasks"] == 0 and "no data for any" in found["real"]["missing"]


def test_list_as_text(flan_jax):
    code, output, _ = flan_jax("list")
    assert code == 0
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in output.splitlines()}
    assert rows["flan2022"][:2] == ["1,838", "muffin 46.0%, t0_sf 27.9%, niv2 24.2%, cot 1.8%"]
    assert rows["cot"][0] == "9" and rows["real"][0] == "missing"
    assert rows["cot"][1].startswith("cot_esnli 48.4%, ") and rows["cot"][1].endswith(", …")


def test_show_the_collection(flan_jax):
    found = _shown(flan_jax, "flan2022")
    groups = {group["name"]: group for group in found["groups"]}
    assert {name: group["share"] for name, group in groups.items()} == pytest.approx(SHARES)
    assert {name: group["tasks"] for name, group in groups.items()} == TASKS
    tasks = found["tasks"]
    assert len({task["name"] for task in tasks}) == len(tasks) == 1838
    assert sum(task["share"] for task in tasks) == pytest.approx(1)
    for name, share in SHARES.items():
        assert sum(t["share"] for t in tasks if t["group"] == name) == pytest.approx(share)


def test_draws_and_repeats_by_hand(flan_jax):
    found = _shown(flan_jax, "flan2022", "--examples", "1000000")
    assert found["examples"] == 1_000_000
    tasks = {task["name"]: task for task in found["tasks"]}
    # 1.8 of 99.9 percent of a million for chain of thought, 7,112 of 74,771 of that for ECQA.
    ecqa = tasks["cot_ecqa"]
    share = 1.8 / 99.9 * 7_112 / 74_771
    assert ecqa["share"] == pytest.approx(share, rel=1e-9)
    assert ecqa["draws"] == pytest.approx(1e6 * share, abs=0.051)  # 1,713.8
    assert ecqa["repeats"] == pytest.approx(1e6 * share / 7_112, abs=5.1e-5)  # 0.2410
    assert (ecqa["train_examples"], ecqa["rate"], ecqa["group"]) == (
        7_112,
        1.8 * 7_112 / 74_771,
        "cot",
    )
    assert ecqa["variants"] == {"zs_cot": 1, "zs_inverted": 0.3, "fs_cot": 1, "fs_inverted": 0.3}
    assert sum(task["draws"] for task in found["tasks"]) == pytest.approx(1e6, abs=0.05 * 1838)
    # A task above its cap is seen less often than others of its part.
    snli = tasks["snli"]
    assert snli["train_examples"] > 500_000
    assert snli["draws"] == pytest.approx(tasks["anli_r2"]["draws"])
    assert snli["repeats"] < tasks["anli_r2"]["repeats"]


def test_no_task_repeats_before_it_is_said(flan_jax):
    found = _shown(flan_jax, "cot")
    first = found["first_repeat"]
    # In a mixture by size all are seen once after as many examples as there are.
    assert found["examples"] == first["examples"] == pytest.approx(74_771, abs=1)
    found = _shown(flan_jax, "flan2022")
    ends = {
        t["name"]: t["train_examples"] / t["share"] for t in found["tasks"] if t["train_examples"]
    }
    assert found["first_repeat"]["examples"] == int(min(ends.values()))
    assert ends[found["first_repeat"]["task"]] == min(ends.values())
    assert max(t["repeats"] or 0 for t in found["tasks"]) == pytest.approx(1, abs=1e-3)


def test_the_hash_is_the_same_in_every_process():
    printed = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "flan_jax", "mixture", "show", "cot", "--format", "json"],
            capture_output=True, text=True, check=True, cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        printed.add(json.loads(done.stdout)["hash"])
    assert len(printed) == 1
    assert len(printed.pop()) == 16


def test_mixtures_have_hashes_of_their_own(flan_jax):
    names = ("cot", "cot_zsopt", "cot_fsopt", "flan2022_a", "flan2022_no_cot", "micro")
    assert len({_shown(flan_jax, name)["hash"] for name in names}) == len(names)


def test_missing_data_are_told(flan_jax):
    found = _shown(flan_jax, "cot")
    assert len(found["missing"]) == 9
    assert "flan_cot/ecqa_train.tsv is not in the data folder" in found["missing"]["cot_ecqa"]
    assert {task["share_here"] for task in found["tasks"]} == {0.0}
    code, output, _ = flan_jax("show", "cot")
    assert code == 0
    assert "mixture 'cot': data of 9 of 9 tasks are missing" in output


def test_show_with_data(own):
    found = _shown(own, "own_mix", "--examples", "1000")
    tasks = {task["name"]: task for task in found["tasks"]}
    assert [group["name"] for group in found["groups"]] == ["own_part", "own"]
    assert [group["missing"] for group in found["groups"]] == [1, 0]
    assert {n: t["share"] for n, t in tasks.items()} == pytest.approx(
        {"own_small": 0.2, "own_absent": 0.6, "own_endless": 0.2}
    )
    # What is there makes up for the rest of its part.
    assert {n: t["share_here"] for n, t in tasks.items()} == pytest.approx(
        {"own_small": 0.8, "own_absent": 0.0, "own_endless": 0.2}
    )
    assert {n: t["train_examples"] for n, t in tasks.items()} == {
        "own_small": 20, "own_absent": 50, "own_endless": None,
    }  # fmt: skip
    assert {n: t["repeats"] for n, t in tasks.items()} == {
        "own_small": 10.0, "own_absent": 12.0, "own_endless": None,
    }  # fmt: skip
    assert found["first_repeat"] == {"examples": 83, "task": "own_absent"}  # 50 / 0.6


def test_show_as_text(own):
    code, output, _ = own("show", "own_mix", "--examples", "1000")
    assert code == 0
    lines = output.splitlines()
    assert lines[0] == "own_mix: to be shown"
    assert lines[1] == f"hash {_shown(own, 'own_mix')['hash']}"
    assert "own_part\t2\t80.00%\t1" in lines
    assert "no task repeats before 83 examples; own_absent is first" in lines
    assert "own_small\town_part\t20.0000%\t20\t200.0\t10.000\there" in lines
    assert "own_absent\town_part\t60.0000%\t50\t600.0\t12.000\tmissing" in lines
    assert "own_endless\town\t20.0000%\tunknown\t200.0\t\there" in lines
    assert "mixture 'own_mix': data of 1 of 3 tasks are missing" in lines


def test_rows_without_end_never_repeat(own):
    found = _shown(own, "own_endless_mix")
    assert found["first_repeat"] is None and found["missing"] == {}
    _, output, _ = own("show", "own_endless_mix")
    assert "no task repeats" not in output and "missing\n" not in output.splitlines()[-1]


def test_a_task_can_be_shown_by_any_name(own_registries, flan_jax):
    names = ("dmcc_python", "program_synthesis_dmcc_python")
    found = [_shown(flan_jax, name) for name in names]
    assert found[0] == found[1] and found[0]["name"] == "dmcc_python"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "flan2023"], "did you mean 'flan2022'"),
        (["show", "real"], "no data for any of its"),
        (["show", "cot", "--examples", "0"], "must be at least 1, found 0"),
        (["show", "cot", "--data_dir", "absent_folder"], "absent_folder does not exist"),
        (["list", "--module", "absent_module"], "no such module"),
        (["shwo", "cot"], "invalid choice: 'shwo'"),
    ],
)
def test_slips_end_with_status_2_and_a_hint(flan_jax, arguments, message):
    code, output, errors = flan_jax(*arguments)
    assert (code, output) == (2, "")
    assert message in errors and "Traceback" not in errors


def test_help_answers_without_content():
    code = (
        "import sys; from flan_jax.cli.main import main\n"
        "try: main(['mixture', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('jax', 'tensorflow', 'flan_jax.mixtures') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "list" in done.stdout and "show" in done.stdout
    assert done.stdout.strip().endswith("[]")
